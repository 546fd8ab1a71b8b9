package beat

import (
	"context"
	"log/slog"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/measure"
	"github.com/stemjobs/stem/store"
)

// tell logs and counts what became of a due moment.
func (b *Beat) tell(ctx context.Context, r *store.FireRecord, entry *Entry, p *broker.Publication) {
	name := "unknown"
	if entry != nil {
		name = entry.Task
	}
	if p != nil {
		name = p.Envelope.Name
	}
	level, m := slog.LevelInfo, b.opts.Meter
	switch r.Outcome {
	case store.OutcomeFired:
		m.Counter(measure.BeatFired, name).Add(1)
		if !b.known.queues(r.ID) { // how long a moment waited for another task is not how late the beat is
			m.Histogram(measure.BeatDrift, name).Observe(max(r.Drift, 0).Seconds())
		}
		if p != nil {
			m.Counter(measure.TasksEnqueued, name, p.Envelope.Queue).Add(1)
		}
	case store.OutcomeMisfired:
		level = slog.LevelWarn
		m.Counter(measure.BeatMisfired, name).Add(float64(max(r.Missed, 1)))
	case store.OutcomeDuplicate:
		level = slog.LevelWarn
		m.Counter(measure.BeatDuplicates, name).Add(1)
	case store.OutcomeFailed, store.OutcomeUnknown:
		level = slog.LevelError
		m.Counter(measure.BeatFailed, name).Add(1)
	case store.OutcomeOverlap:
		m.Counter(measure.BeatOverlapped, name).Add(1)
	case store.OutcomePending, store.OutcomeManual:
		return // the one is not known yet, the other no beat's
	}
	attrs := []slog.Attr{
		slog.String("schedule", r.ID), slog.String("outcome", string(r.Outcome)), slog.String("task", name),
		slog.Time("due", r.Due), slog.Time("fired", r.Fired), slog.Float64("drift_ms", float64(r.Drift.Microseconds())/1000),
	}
	if r.Task != "" {
		attrs = append(attrs, slog.String("task_id", r.Task))
	}
	if r.Missed > 0 {
		attrs = append(attrs, slog.Int("missed", r.Missed))
	}
	if r.Error != "" {
		attrs = append(attrs, slog.String("error", r.Error))
	}
	b.opts.Logger.LogAttrs(ctx, level, "schedule "+string(r.Outcome), attrs...)
}

// lead notes that this beat leads, or no longer.
func (b *Beat) lead(ctx context.Context, leads bool, why string) {
	b.mu.Lock()
	changed := b.leading != leads
	if changed {
		b.leading, b.since = leads, time.Now()
	}
	b.mu.Unlock()
	if !changed {
		return
	}
	held := 0.0
	if leads {
		held = 1
	}
	b.opts.Meter.Gauge(measure.BeatLockHeld, b.opts.ID).Set(held)
	b.opts.Logger.LogAttrs(ctx, slog.LevelInfo, why, slog.String("beat", b.opts.ID), slog.Int64("token", b.lock.Token))
}
