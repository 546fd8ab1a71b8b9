package pair

import (
	"context"

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
