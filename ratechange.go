package stem

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// NoRate is the rate of a task that nothing limits, as a RateChange has it.
const NoRate = runner.NoRate

// RateChange is a rate limit that somebody gave a task while workers run. It
// stands in the place of the declared one, with workers that start later too,
// until ResetRates.
type RateChange struct {
	Task  string    `json:"task"` // the name that it is declared with, not an alias
	Rate  string    `json:"rate"` // as Rate reads it, such as 10/s; NoRate: it has no limit
	Burst int       `json:"burst,omitempty"`
	Note  string    `json:"note,omitempty"` // why; MaxRateNote bytes at most
	Since time.Time `json:"since"`          // ChangeRates sets it
}

// Bounds of rate changes: the bytes of a note, and how many tasks may have one.
const (
	MaxRateNote    = 1024
	MaxRateChanges = 1000
)

const (
	ratesMemo = "rates"                    // the one memo that has all changes
	ratesFor  = 100 * 365 * 24 * time.Hour // a memo has to have an end
	ratesTrys = 100                        // others change them too
)

// Limit is the limit that a change comes to; nil: none. The error wraps
// task.ErrInvalid.
func (c *RateChange) Limit() (*RateLimit, error) {
	if c.Rate == NoRate {
		if c.Burst != 0 {
			return nil, fmt.Errorf("%w burst %d of no rate", task.ErrInvalid, c.Burst)
		}
		return nil, nil
	}
	r, err := store.ParseRate(c.Rate)
	if err != nil {
		return nil, err
	}
	r.Burst = c.Burst
	return &RateLimit{Count: r.Count, Per: r.Per, Burst: r.Burst}, r.Validate()
}

// Validate says what is wrong with a change. The error wraps task.ErrInvalid.
func (c *RateChange) Validate() error {
	if err := task.ValidateName(c.Task); err != nil {
		return err
	}
	if len(c.Note) > MaxRateNote {
		return fmt.Errorf("%w note of %d bytes: want %d at most", task.ErrInvalid, len(c.Note), MaxRateNote)
	}
	_, err := c.Limit()
	return err
}

// ChangeRates gives tasks other rate limits than they are declared with, all of
// them or none. Workers that are told by CommandRate have them at once, others
// with a heartbeat, and those that start later from the beginning; so has the
// pull API. Tasks that were told the moment of a slot already keep it.
//
// The store that holds the tasks has to have the power broker.PowerRates, and
// memos; otherwise the error is broker.ErrUnsupported.
func (c *Client) ChangeRates(ctx context.Context, changes ...RateChange) error {
	for i := range changes {
		if err := changes[i].Validate(); err != nil {
			return fmt.Errorf("change rate of %s: %w", changes[i].Task, err)
		}
	}
	if !broker.CapabilitiesOf(c.broker).Has(broker.PowerRates) {
		return fmt.Errorf("change rates: %w", broker.ErrUnsupported)
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	err := c.editRates(ctx, func(all map[string]RateChange) error {
		for _, r := range changes {
			r.Since = now
			all[r.Task] = r
		}
		if len(all) > MaxRateChanges {
			return fmt.Errorf("%w number of tasks with changed rates, %d: want %d at most", task.ErrInvalid, len(all), MaxRateChanges)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("change rates: %w", err)
	}
	return nil
}

// ResetRates gives tasks the rates again that they are declared with, and says of
// each whether it had another.
func (c *Client) ResetRates(ctx context.Context, tasks ...string) ([]bool, error) {
	had := make([]bool, len(tasks))
	err := c.editRates(ctx, func(all map[string]RateChange) error {
		for i, name := range tasks {
			_, had[i] = all[name]
		}
		for _, name := range tasks {
			delete(all, name)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reset rates: %w", err)
	}
	return had, nil
}

// RateChanges lists the rate limits that were changed, by task; none where the
// store keeps no memos.
func (c *Client) RateChanges(ctx context.Context) ([]RateChange, error) {
	all, _, err := c.readRates(ctx)
	if err != nil {
		return nil, fmt.Errorf("list changed rates: %w", err)
	}
	list := make([]RateChange, 0, len(all))
	for _, r := range all {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b RateChange) int { return cmp.Compare(a.Task, b.Task) })
	return list, nil
}

func (c *Client) readRates(ctx context.Context) (map[string]RateChange, []byte, error) {
	if c.memos == nil {
		return nil, nil, nil
	}
	raw, err := c.memos.Look(ctx, ratesMemo)
	if err != nil {
		return nil, nil, err
	}
	all, err := parseRates(raw)
	return all, raw, err
}

func parseRates(raw []byte) (map[string]RateChange, error) {
	all := map[string]RateChange{}
	if raw == nil {
		return all, nil
	}
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, fmt.Errorf("what the store has of them cannot be read: %w", err)
	}
	return all, nil
}

// editRates changes the changes, in one step.
func (c *Client) editRates(ctx context.Context, edit func(map[string]RateChange) error) error {
	if c.memos == nil {
		return broker.ErrUnsupported
	}
	all, old, err := c.readRates(ctx)
	for range ratesTrys {
		if err != nil {
			return err
		}
		if err := edit(all); err != nil {
			return err
		}
		var value []byte
		if len(all) > 0 {
			if value, err = json.Marshal(all); err != nil {
				return err
			}
		}
		if bytes.Equal(old, value) {
			return nil
		}
		there, err2 := c.memos.Swap(ctx, ratesMemo, old, value, ratesFor)
		if err2 != nil {
			return err2
		}
		if bytes.Equal(there, value) {
			return nil
		}
		old = there
		all, err = parseRates(old)
	}
	return fmt.Errorf("%w: others change them all the time", broker.ErrUnavailable)
}

// rates is what a worker has to know of changes. One that a newer version wrote,
// and that cannot be read, leaves the declared rate in force.
func (w *Worker) rates(ctx context.Context) (map[string]*runner.Limit, error) {
	all, _, err := w.client.readRates(ctx)
	if err != nil {
		return nil, err
	}
	limits := make(map[string]*runner.Limit, len(all))
	for name, r := range all {
		t := w.tasks[name]
		if t == nil || t.Name != name {
			continue
		}
		l, err := r.Limit()
		if err != nil {
			w.logger.WarnContext(ctx, "a changed rate limit cannot be read; the declared one is in force", "task", name, "error", err)
			continue
		}
		if l != nil {
			l.FailOpen = t.Limit != nil && t.Limit.FailOpen
		}
		limits[name] = l.runnerLimit(name)
	}
	return limits, nil
}
