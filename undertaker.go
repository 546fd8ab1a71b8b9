package stem

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/stemjobs/stem/broker"
)

// buryEvery is how often the elected worker removes dead letters that are too
// old.
const buryEvery = time.Minute

// buryPage is how many of them one step removes.
const buryPage = 1000

// runUndertaker removes dead letters older than DeadLetterTTL until ctx ends,
// while this worker is the elected one.
func (w *Worker) runUndertaker(ctx context.Context, id string) {
	if w.opts.DeadLetterTTL <= 0 {
		return
	}
	timer := time.NewTimer(buryEvery/2 + rand.N(buryEvery/2))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		timer.Reset(buryEvery)
		n, err := w.bury(ctx, id)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			w.logger.Warn("remove old dead letters", "error", err)
		case n > 0:
			w.logger.Info("removed old dead letters", "count", n, "older_than", w.opts.DeadLetterTTL.String())
		}
	}
}

// bury removes what is too old, if this worker is the elected one, and says how
// many that were.
func (w *Worker) bury(ctx context.Context, id string) (int, error) {
	if first, err := w.elected(ctx, id); err != nil || !first {
		return 0, err
	}
	f := broker.DeadFilter{Before: time.Now().Add(-w.opts.DeadLetterTTL)}
	total := 0
	for {
		p, err := w.client.PurgeDeadLetters(ctx, f, broker.PurgeOptions{Limit: buryPage})
		if err != nil {
			return total, err
		}
		if total += p.Count; p.Count < buryPage {
			return total, nil
		}
	}
}

// elected reports whether this worker is, of those that are alive, the first by
// id; without heartbeats each is. Two that both take themselves for the first do
// double work and no harm.
func (w *Worker) elected(ctx context.Context, id string) (bool, error) {
	if w.client.beats == nil {
		return true, nil
	}
	alive, err := w.client.beats.Workers(ctx)
	if err != nil {
		return false, fmt.Errorf("elect a worker: %w", err)
	}
	for i := range alive {
		if alive[i].Worker < id {
			return false, nil
		}
	}
	return true, nil
}
