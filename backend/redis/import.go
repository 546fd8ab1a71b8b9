package redis

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// ImportDeadLetters implements broker.DeadImporter, also for entries that are
// no envelopes.
func (b *redisBroker) ImportDeadLetters(ctx context.Context, batch []broker.DeadLetter) ([]error, error) {
	if err := b.check(ctx); err != nil {
		return nil, err
	}
	now, err := b.db.serverTime(ctx)
	if err != nil {
		return nil, fmt.Errorf("import dead letters: %w", err)
	}
	errs := make([]error, len(batch))
	args := make([][]string, len(batch))
	var sound []int
	for i := range batch {
		if args[i], errs[i] = importArgs(&batch[i], now); errs[i] == nil {
			sound = append(sound, i)
		}
	}
	shares := b.db.sharesOf(sound, 0, func(i int) string { return batch[i].Envelope.ID })
	all := flat(func(i int) []string { return args[i] })
	err = b.db.spread(ctx, b.db.scripts.deadimport, shares, all, func(m *rueidis.RedisMessage, items []int) error {
		said, err := letters(m, items)
		for at := range said {
			if i := items[at]; said[at] == 'e' {
				errs[i] = fmt.Errorf("dead letter %s: %w", batch[i].Envelope.ID, broker.ErrExists)
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("import dead letters: %w", err)
	}
	return errs, nil
}

// importArgs are the deadimport script's arguments for one entry, or why it
// cannot be stored.
func importArgs(d *broker.DeadLetter, now time.Time) ([]string, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	died := d.DeadAt
	if died.After(now) {
		died = now
	}
	e, data := d.Envelope, d.Raw
	var err error
	switch {
	case d.Raw == nil:
		data, err = encode(e)
	case len(d.Raw) == 0:
		err = fmt.Errorf("%w dead letter %s: its entry is empty", task.ErrInvalid, e.ID)
	case len(d.Raw) > task.DefaultMaxSize:
		err = fmt.Errorf("%w: the entry of %s has %d bytes, at most %d", task.ErrTooLarge, e.ID, len(d.Raw), task.DefaultMaxSize)
	default:
		e = &task.Envelope{ID: e.ID, Queue: d.Queue, Priority: task.DefaultPriority, EnqueuedAt: died}
	}
	if err != nil {
		return nil, err
	}
	var errs []string
	for _, failure := range d.AllErrors() {
		text, err := json.Marshal(failure)
		if err != nil {
			return nil, fmt.Errorf("%w errors of %s: %w", task.ErrInvalid, e.ID, err)
		}
		errs = append(errs, string(text))
	}
	v := newValue(e, data, died.UnixMilli())
	args := []string{
		e.ID, d.Queue, strconv.FormatInt(died.UnixMilli(), 10), strconv.FormatInt(d.Epoch, 10), string(v[valueStart : valueStart+15]),
		rueidis.BinaryString(deadValue(d, e, v, died, len(errs) > 0)), strconv.Itoa(len(errs)),
	}
	return append(args, errs...), nil
}

// deadValue is the value of a dead letter from elsewhere; see docs/redis.md.
func deadValue(d *broker.DeadLetter, e *task.Envelope, live []byte, died time.Time, failed bool) []byte {
	end := `{"ended":` + strconv.FormatInt(died.UnixMicro(), 10) + `,"reason":` + string(quote(d.Reason)) + `}`
	endFlag, flag := endRun, bare(e)
	if d.Hidden() {
		endFlag |= endHidden
	}
	if failed {
		flag |= flagErrors
	}
	if e.VisibilityTimeout > 0 || e.Attempt > 0 {
		flag |= flagUnusual
	}
	v := fmt.Appendf(nil, "%c%c%07d%s", kindDead, '@'+endFlag, len(end), end)
	v = fmt.Appendf(v, "%d 0 %d %s %d . %d 0 0 %d 0 0 0 %d - - \n",
		d.Epoch, e.Priority, d.Queue, ceilMillis(e.VisibilityTimeout), d.Attempt, d.ReplayCount, millis(d.LastReplayAt))
	live[1] = byte('@' + flag)
	return append(v, live...)
}
