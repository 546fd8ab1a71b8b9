package stem

import (
	"fmt"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/store"
)

// RateLimit bounds how often a task starts, over all workers of the store that
// holds the tasks. It is a TaskOption; Rate is the short form.
//
// A task that may not start yet goes back at once with the moment of a slot that
// is reserved for it, uncounted, and others take its place. So each waits its
// turn once, and a limited task holds up nobody else. Each attempt takes a slot,
// at the end of the line; so does a task that is cancelled before its slot comes.
// Slots whose moment nobody met by a second are lost, and their tasks take others:
// while there is something to catch up with, up to twice as many start.
//
// A worker whose store cannot keep limits does not start.
type RateLimit struct {
	Count int           // so many starts, 1 or more, …
	Per   time.Duration // … in this time, up to 365 days; at most 100,000 a second
	Burst int           // so many may start at once after a pause; 0: 1, all are Per/Count apart

	// FailOpen starts tasks while the store cannot be asked. Otherwise they wait
	// until it can.
	FailOpen bool
}

// Rate bounds how often a task starts: "10/s", "100/m", "500/h" or "1000/d", as
// a RateLimit without burst. A text that is no rate makes NewTask panic.
func Rate(text string) TaskOption {
	r, err := store.ParseRate(text)
	return executionOption(func(d *definition) {
		if err != nil {
			d.err = err
			return
		}
		RateLimit{Count: r.Count, Per: r.Per}.applyTask(d)
	})
}

func (l RateLimit) rate() store.Rate { return store.Rate{Count: l.Count, Per: l.Per, Burst: l.Burst} }

// String writes the limit as Rate reads it, without its burst.
func (l RateLimit) String() string { return l.rate().String() }

func (l RateLimit) applyTask(d *definition) {
	if err := l.rate().Validate(); err != nil {
		d.err = err
		return
	}
	d.limit = &l
}

// runnerLimit is the limit of that task as the runner has it; its old names share
// it.
func (l *RateLimit) runnerLimit(name string) *runner.Limit {
	if l == nil {
		return nil
	}
	return runner.NewLimit(name, l.rate(), l.FailOpen)
}

// limiter finds what keeps the rate limits of the worker's tasks; nil where the
// store keeps none, which is an error if a task is declared with one.
func (w *Worker) limiter() (store.Limiter, error) {
	caps := broker.CapabilitiesOf(w.client.broker)
	l, ok := broker.As[store.Limiter](w.client.broker)
	if ok && caps.Has(broker.PowerRates) {
		return l, nil
	}
	for _, name := range w.Names() {
		if w.tasks[name].Limit != nil {
			return nil, fmt.Errorf("task %s has a rate limit of %s, and the backend %s keeps none: %w",
				name, w.tasks[name].Limit.Rate, caps.Backend, broker.ErrUnsupported)
		}
	}
	return nil, nil
}
