package chaos

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// TestCheckerCatches feeds the checker histories that break one promise each.
func TestCheckerCatches(t *testing.T) {
	at := func(s float64) time.Time {
		return time.Unix(0, 0).Add(time.Duration(s * float64(time.Second)))
	}
	good := []Event{
		{Kind: Enqueued, At: at(0), ID: "a"},
		{Kind: Started, At: at(1), ID: "a", PID: 1},
		{Kind: Killed, At: at(2), PID: 1},
		{Kind: Started, At: at(4), ID: "a", PID: 2},
		{Kind: Ended, At: at(5), ID: "a", PID: 2},
		{Kind: Settled, At: at(5), ID: "a", PID: 2, State: "succeeded"},
		{Kind: Read, At: at(6), ID: "a", State: "succeeded"},
	}
	without := func(k Kind) (out []Event) {
		for _, e := range good {
			if e.Kind != k {
				out = append(out, e)
			}
		}
		return out
	}
	and := func(e Event) []Event { return append(append([]Event{}, good...), e) }
	for _, c := range []struct {
		name   string
		events []Event
		bound  time.Duration
		want   string // part of the fault; "": none
	}{
		{"a sound history", good, 3 * time.Second, ""},
		{"lost", without(Read), 3 * time.Second, "is lost"},
		{"still running at the end", and(Event{Kind: Read, At: at(7), ID: "a", State: "running"}), 3 * time.Second, "is lost"},
		{"two outcomes", and(Event{Kind: Settled, At: at(7), ID: "a", State: "failed"}), 3 * time.Second, "2 terminal outcomes"},
		{"never enqueued", without(Enqueued), 3 * time.Second, "never enqueued"},
		{"ended without a start", without(Started), 3 * time.Second, "started 0 times"},
		{"succeeded without a handler", without(Ended), 3 * time.Second, "no handler returned"},
		{"redelivered late", good, time.Second, "after 2s"},
		{"redelivered late, after an outcome that was not stored", slices.Insert(slices.Clone(good), 2,
			Event{Kind: Ended, At: at(1.5), ID: "a", PID: 1}), time.Second, "after 2s"},
		{"killed again before it started", slices.Insert(slices.Clone(good), 3,
			Event{Kind: Killed, At: at(3), PID: 3}), time.Second, ""},
		{"killed again, and late after that", slices.Insert(slices.Clone(good), 3,
			Event{Kind: Killed, At: at(2.5), PID: 3}), time.Second, "after 1.5s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := checkHistory(c.events, c.bound)
			got := strings.Join(f.faults, "; ")
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("faults %q, want %q", got, c.want)
			}
			if c.want == "" && (f.redelivered != 1 || f.settled != 1) {
				t.Errorf("%d redeliveries and %d outcomes, want 1 of each", f.redelivered, f.settled)
			}
		})
	}
}
