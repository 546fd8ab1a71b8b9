package store_test

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// Slots agree with the rule that they stand for, tried out moment by moment: each
// is the first at which no span that ends with it has more than the rate and the
// burst allow.
func TestLinesAgainstASlowOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := store.Rate{
			Count: rapid.IntRange(1, 50).Draw(t, "count"),
			Per:   time.Duration(rapid.IntRange(500, 100_000).Draw(t, "per µs")) * time.Microsecond,
			Burst: rapid.IntRange(0, 6).Draw(t, "burst"),
		}
		interval, burst := rate.Interval().Microseconds(), int64(max(rate.Burst, 1))
		if interval*int64(rate.Count) < rate.Per.Microseconds() {
			t.Fatalf("%d times %d µs is less than %s", rate.Count, interval, rate.Per)
		}
		var l store.Lines
		var given []int64
		again := l
		now := int64(1_000_000)
		for range rapid.IntRange(1, 40).Draw(t, "slots") {
			now += int64(rapid.IntRange(0, int(3*interval)).Draw(t, "pause")) * int64(rapid.IntRange(0, 1).Draw(t, "any"))
			at := l.Take(rate, false, now)
			allowed := func(at int64) bool {
				for i, from := range given {
					n := int64(len(given) - i + 1) // slots from there to this one
					if at-from < (n-burst)*interval {
						return false
					}
				}
				return true
			}
			if at < now || !allowed(at) {
				t.Fatalf("slot %d at %d, asked for at %d after %v: too early", len(given), at, now, given)
			}
			if at > now && allowed(at-1) {
				t.Fatalf("slot %d at %d, asked for at %d after %v: too late", len(given), at, now, given)
			}
			given = append(given, at)
			if l.Again != again.Again {
				t.Fatal("the other line moved")
			}
		}
		if l.Idle(now) != (l.First <= now) || !l.Idle(l.First) {
			t.Fatal("Idle does not say whether the state matters")
		}
	})
}

// A clock that is set back takes the lines with it; what is less than a second is
// no step, however often it comes.
func TestStepBack(t *testing.T) {
	const second = 1_000_000
	for _, c := range []struct{ seen, now, by, newest int64 }{
		{0, 50 * second, 0, 50 * second}, {50 * second, 51 * second, 0, 51 * second}, {51 * second, 50 * second, 0, 51 * second},
		{51 * second, 50*second - 1, second + 1, 50*second - 1}, {5000 * second, second, 4999 * second, second},
	} {
		if by, newest := store.StepBack(c.seen, c.now); by != c.by || newest != c.newest {
			t.Errorf("from %d to %d: by %d, newest %d; want %d and %d", c.seen, c.now, by, newest, c.by, c.newest)
		}
	}
	var l store.Lines
	rate := store.Rate{Count: 1, Per: time.Second}
	for range 3 {
		l.Take(rate, false, 5000*second)
	}
	l.Back(4000 * second)
	if at := l.Take(rate, false, 1000*second); at != 1003*second {
		t.Errorf("the fourth slot, after a step of 4000 s: at %d", at)
	}
}

func TestParseRate(t *testing.T) {
	for text, want := range map[string]store.Rate{
		"10/s": {Count: 10, Per: time.Second}, "100/m": {Count: 100, Per: time.Minute},
		"500/h": {Count: 500, Per: time.Hour}, "1000/d": {Count: 1000, Per: 24 * time.Hour},
		"100000/s": {Count: 100_000, Per: time.Second},
	} {
		got, err := store.ParseRate(text)
		if err != nil || got != want || got.String() != text {
			t.Errorf("ParseRate(%q) = %+v (%s), %v", text, got, got, err)
		}
	}
	for _, text := range []string{"", "/", "10", "10/", "/s", "10/w", "10 /s", "10/ s", "+1/s", "-1/s", "0/s", "1e3/s", "1.5/s", "10/s/s", "10/S", "100001/s", "99999999999999999999/s"} {
		if r, err := store.ParseRate(text); !errors.Is(err, task.ErrInvalid) {
			t.Errorf("ParseRate(%q) = %+v, %v", text, r, err)
		}
	}
	if s := (store.Rate{Count: 5, Per: 90 * time.Second}).String(); s != "5/1m30s" {
		t.Errorf("String says %q", s)
	}
}
