package pair

import (
	"context"
	"errors"
	"fmt"

	"github.com/stemjobs/stem/broker"
)

// page is how many dead letters one call replays or purges: a broker names so
// many of those that it moved.
const page = 1000

// DeadLetters gives access to what failed for good: see broker.Broker.
func (j *Joined) DeadLetters() broker.DeadLetters { return deadLetters{j.inner.DeadLetters(), j} }

type deadLetters struct {
	broker.DeadLetters
	j *Joined
}

// ReplayDeadLetters replays in pages, each in the broker first, and shows each
// in the result store. A replay that is not shown, since somebody died in
// between, is shown by its start.
func (d deadLetters) ReplayDeadLetters(ctx context.Context, f broker.DeadFilter, o broker.ReplayOptions) (broker.Replayed, error) {
	if o.DryRun {
		return d.DeadLetters.ReplayDeadLetters(ctx, f, o)
	}
	d.j.catchUp(ctx)
	var all broker.Replayed
	err := d.pages(ctx, o.Limit, func(n int) (int, error) {
		o.Limit = n
		r, err := d.DeadLetters.ReplayDeadLetters(ctx, f, o)
		if err != nil {
			return 0, err
		}
		d.j.write(ctx, late{requeues: r.Entries})
		all.Count += r.Count
		if room := page - len(all.Entries); room > 0 {
			all.Entries = append(all.Entries, r.Entries[:min(room, len(r.Entries))]...)
		}
		return r.Count, nil
	}, func() (int, error) {
		r, err := d.DeadLetters.ReplayDeadLetters(ctx, f, broker.ReplayOptions{DryRun: true})
		return r.Count, err
	})
	return all, err
}

// PurgeDeadLetters purges in pages, and removes the statuses with the letters.
func (d deadLetters) PurgeDeadLetters(ctx context.Context, f broker.DeadFilter, o broker.PurgeOptions) (broker.Purged, error) {
	if o.DryRun {
		return d.DeadLetters.PurgeDeadLetters(ctx, f, o)
	}
	d.j.catchUp(ctx)
	var all broker.Purged
	err := d.pages(ctx, o.Limit, func(n int) (int, error) {
		o.Limit = n
		p, err := d.DeadLetters.PurgeDeadLetters(ctx, f, o)
		if err != nil {
			return 0, err
		}
		d.j.write(ctx, late{deletes: p.IDs})
		all.Count += p.Count
		if room := page - len(all.IDs); room > 0 {
			all.IDs = append(all.IDs, p.IDs[:min(room, len(p.IDs))]...)
		}
		return p.Count, nil
	}, func() (int, error) {
		p, err := d.DeadLetters.PurgeDeadLetters(ctx, f, broker.PurgeOptions{DryRun: true})
		return p.Count, err
	})
	return all, err
}

// importer is the broker's power to take dead letters back, joined with the
// result store.
type importer struct {
	broker.Broker
	j     *Joined
	inner broker.DeadImporter
}

// Unwrap gives access to the broker's other powers.
func (i *importer) Unwrap() broker.Broker { return i.Broker }

// ImportDeadLetters stores dead letters in the broker first, and then their
// statuses; one that is not shown, since somebody died in between, is shown by
// the same import once more, or by the start after a replay. An id that has a
// status is known.
func (i *importer) ImportDeadLetters(ctx context.Context, batch []broker.DeadLetter) ([]error, error) {
	j := i.j
	j.catchUp(ctx)
	publications := make([]broker.Publication, len(batch))
	for k := range batch {
		publications[k].Envelope = batch[k].Envelope
	}
	known, err := j.known(ctx, publications)
	if err != nil {
		return nil, err
	}
	errs := make([]error, len(batch))
	fresh := make([]broker.DeadLetter, 0, len(batch))
	at := make([]int, 0, len(batch)) // index of each fresh one
	for k := range batch {
		if e := batch[k].Envelope; e != nil && known[e.ID] {
			errs[k] = fmt.Errorf("dead letter %s: %w", e.ID, broker.ErrExists)
			continue
		}
		fresh, at = append(fresh, batch[k]), append(at, k)
	}
	answers, err := i.inner.ImportDeadLetters(ctx, fresh)
	if err != nil {
		return nil, err
	}
	if len(answers) != len(fresh) {
		return nil, errContract
	}
	var ids []string
	for k, answer := range answers {
		errs[at[k]] = answer
		if answer == nil || errors.Is(answer, broker.ErrExists) {
			ids = append(ids, fresh[k].Envelope.ID)
		}
	}
	j.showDead(ctx, ids)
	return errs, nil
}

// showDead creates the statuses of those tasks that are dead letters and have
// none.
func (j *Joined) showDead(ctx context.Context, ids []string) {
	var l late
	for len(ids) > 0 {
		n := min(len(ids), page)
		list, _, err := j.inner.DeadLetters().ListDeadLetters(ctx, broker.DeadFilter{IDs: ids[:n]}, broker.Page{Limit: n})
		if err != nil {
			j.log.Warn("imported dead letters have no status yet", "tasks", len(ids), "error", err)
			break
		}
		for k := range list {
			if !list[k].Hidden() {
				l.creates = append(l.creates, list[k].Status())
			}
		}
		ids = ids[n:]
	}
	j.write(ctx, l)
}

// pages calls move, with how many it is to move, until limit are moved or none
// is left. Without a limit it moves as many as there were after the first full
// page: what dies again meanwhile is not moved again.
func (d deadLetters) pages(ctx context.Context, limit int, move func(n int) (int, error), count func() (int, error)) error {
	left := limit
	for first := true; ; first = false {
		n := page
		if limit > 0 || !first {
			n = min(page, left)
		}
		moved, err := move(n)
		if err != nil {
			return err
		}
		if moved < n {
			return nil
		}
		if limit <= 0 && first {
			if left, err = count(); err != nil {
				return err
			}
		} else {
			left -= moved
		}
		if left <= 0 {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}
