package beat

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/stemjobs/stem/schedule"
	"github.com/stemjobs/stem/store"
)

func entryOf(t interface{ Fatal(...any) }, spec string, change func(*Entry)) candidate {
	d, err := schedule.ParseDefinition(spec)
	if err != nil {
		t.Fatal(err)
	}
	e := &Entry{ID: "e", Task: "t", Spec: d}
	change(e)
	m, err := e.compile(&schedule.Loader{})
	if err != nil {
		t.Fatal(err)
	}
	return candidate{definition: definition{entry: e, moments: m}}
}

// TestEveryMomentIsDecided: whatever the policy, the jitter and the time that has
// passed, the claims follow each other without a gap, and each moment that is due is
// fired or passed over, once.
func TestEveryMomentIsDecided(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec := rapid.SampledFrom([]string{"every:1s", "every:7s", "* * * * *", "*/20 * * * * *", "0 0 * * *"}).Draw(t, "spec")
		c := entryOf(t, spec, func(e *Entry) {
			e.Jitter = time.Duration(rapid.IntRange(0, 5000).Draw(t, "jitter")) * time.Millisecond
			e.Misfire.Policy = rapid.SampledFrom([]Policy{PolicyLatest, PolicyAll, PolicySkip}).Draw(t, "policy")
			e.Misfire.Grace = time.Duration(rapid.IntRange(0, 120).Draw(t, "grace")) * time.Second
			if e.Misfire.Policy == PolicyAll {
				e.Misfire.Max = rapid.IntRange(0, 40).Draw(t, "max")
			}
			if rapid.Bool().Draw(t, "skip overlaps") {
				e.Overlap = OverlapSkip
			}
		})
		begin := time.UnixMilli(rapid.Int64Range(1e12, 2e12).Draw(t, "begin"))
		c.ID, c.Version = "e", 1
		c.NextDue = c.moments.next(begin)
		now := c.moments.at(c.NextDue).Add(time.Duration(rapid.IntRange(0, 3600_000).Draw(t, "late")) * time.Millisecond)

		want := 0
		due := c.NextDue
		for ; due.Equal(c.NextDue) || !c.moments.at(due).After(now); due = c.moments.next(due) {
			want++
		}
		next, got := c.NextDue, 0
		for _, s := range c.decide(now) {
			f := s.firing
			if !f.Due.Equal(next) || f.Version != 1 {
				t.Fatalf("a claim of %v follows one that ends at %v", f.Due, next)
			}
			if !f.NextAt.Equal(c.moments.at(f.Next)) {
				t.Fatalf("next %v is looked at at %v", f.Next, f.NextAt)
			}
			got += f.Missed
			if f.Outcome != store.OutcomeMisfired {
				got++
			}
			if grace := c.entry.grace(); grace > 0 && s.fires && now.Sub(c.moments.at(f.Due)) > grace {
				t.Fatalf("%v fires %s late", f.Due, now.Sub(c.moments.at(f.Due)))
			}
			next = f.Next
		}
		if got != want || !next.Equal(due) {
			t.Fatalf("%d moments decided, of %d; then %v, want %v", got, want, next, due)
		}
	})
}

// TestQueuedMoments: of moments that have waited for a task, one fires at most, and
// the entry then stands at the one that follows.
func TestQueuedMoments(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := entryOf(t, rapid.SampledFrom([]string{"every:1s", "* * * * *"}).Draw(t, "spec"), func(e *Entry) {
			e.Jitter = time.Duration(rapid.IntRange(0, 5000).Draw(t, "jitter")) * time.Millisecond
			e.Misfire.Policy = rapid.SampledFrom([]Policy{PolicyLatest, PolicyAll, PolicySkip}).Draw(t, "policy")
			e.Misfire.Grace = time.Duration(rapid.IntRange(0, 120).Draw(t, "grace")) * time.Second
			e.Overlap = OverlapQueue
		})
		c.ID, c.NextDue = "e", c.moments.next(time.UnixMilli(rapid.Int64Range(1e12, 2e12).Draw(t, "begin")))
		now := c.moments.at(c.NextDue).Add(time.Duration(rapid.IntRange(0, 600_000).Draw(t, "late")) * time.Millisecond)
		shots, next := c.decide(now), c.NextDue
		for i, s := range shots {
			if !s.firing.Due.Equal(next) || s.fires && i < len(shots)-1 {
				t.Fatalf("%d of %d claims is of %v, fires %v; want one of %v, and the last alone to fire", i, len(shots), s.firing.Due, s.fires, next)
			}
			next = s.firing.Next
		}
		last := shots[len(shots)-1]
		if due := !c.moments.at(next).After(now); due && (!last.fires || c.entry.policy() == PolicyLatest) {
			t.Fatalf("%v is due still, policy %s", next, c.entry.policy())
		}
		if after := c.moments.next(last.firing.Due); last.fires && !next.Equal(after) {
			t.Fatalf("after %v comes %v, want %v", last.firing.Due, next, after)
		}
	})
}

// TestLateBesidesJitter: of two moments the later one may be later than its grace
// while the one before it is not, since each has a jitter of its own.
func TestLateBesidesJitter(t *testing.T) {
	c := entryOf(t, "every:1s", func(e *Entry) {
		e.Jitter, e.Misfire = 2753*time.Millisecond, Misfire{Policy: PolicyAll, Grace: time.Second}
	})
	for c.NextDue = time.UnixMilli(1e12); c.moments.at(c.NextDue).Before(c.moments.at(c.NextDue.Add(time.Second)).Add(time.Second)); {
		c.NextDue = c.NextDue.Add(time.Second)
	}
	now := c.moments.at(c.NextDue)
	shots := c.decide(now)
	if len(shots) < 2 || !shots[0].fires || shots[1].fires || shots[1].firing.Outcome != store.OutcomeMisfired || shots[1].firing.Missed != 1 {
		t.Errorf("decided at %v: %+v", now, shots)
	}
}

// TestYearsMissed: however many moments were missed, the work is bounded.
func TestYearsMissed(t *testing.T) {
	for _, c := range []struct {
		policy Policy
		fired  int
	}{{PolicyLatest, 1}, {PolicyAll, 500}, {PolicySkip, 100}} {
		x := entryOf(t, "every:100ms", func(e *Entry) {
			if e.Misfire.Policy = c.policy; c.policy == PolicyAll {
				e.Misfire.Max = 500
			}
		})
		x.NextDue = time.UnixMilli(1e12)
		now := x.NextDue.Add(10 * 365 * 24 * time.Hour)
		fired, next := 0, time.Time{}
		for _, s := range x.decide(now) {
			if s.fires {
				fired++
			}
			next = s.firing.Next
		}
		if fired < c.fired || fired > c.fired+1 || !next.After(now) || next.Sub(now) > 100*time.Millisecond {
			t.Errorf("%s: %d fired, want %d; then %v after now", c.policy, fired, c.fired, next.Sub(now))
		}
	}
}
