package runner_test

import (
	"errors"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/stemjobs/stem/internal/runner"
)

// Any policy and any attempt give a wait that is not negative, not above the
// ceiling, and not below what the jitter leaves.
func TestDelayStaysInItsBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := runner.Retry{
			Base:   time.Duration(rapid.Int64Range(0, math.MaxInt64).Draw(t, "base")),
			Factor: rapid.Float64Range(0, 1e6).Draw(t, "factor"),
			Max:    time.Duration(rapid.Int64Range(0, math.MaxInt64).Draw(t, "max")),
			Jitter: rapid.Float64Range(-1, 1).Draw(t, "jitter"),
		}
		attempt := rapid.IntRange(0, math.MaxInt).Draw(t, "attempt")
		ceiling := p.Max
		if ceiling == 0 {
			ceiling = runner.DefaultRetryMax
		}
		got := p.Delay(attempt, nil)
		if got < 0 || got > ceiling {
			t.Fatalf("%+v, attempt %d: %s is outside 0…%s", p, attempt, got, ceiling)
		}
		plain := p
		plain.Jitter = -1
		full := plain.Delay(attempt, nil)
		share := p.Jitter
		switch {
		case share == 0:
			share = 1
		case share < 0:
			share = 0
		}
		if least := float64(full) * (1 - share) * (1 - 1e-9); float64(got) < least-1 {
			t.Fatalf("%+v, attempt %d: %s is below %.0f of %s", p, attempt, got, least, full)
		}
	})
}

// Without jitter a later attempt never waits less.
func TestDelayGrows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := runner.Retry{
			Base:   time.Duration(rapid.Int64Range(1, int64(time.Hour)).Draw(t, "base")),
			Factor: rapid.Float64Range(1, 100).Draw(t, "factor"),
			Max:    time.Duration(rapid.Int64Range(1, int64(24*time.Hour)).Draw(t, "max")),
			Jitter: -1,
		}
		n := rapid.IntRange(0, 1000).Draw(t, "attempt")
		if a, b := p.Delay(n, nil), p.Delay(n+1, nil); b < a {
			t.Fatalf("%+v: attempt %d waits %s, attempt %d only %s", p, n, a, n+1, b)
		}
	})
}

func TestDelayDefaults(t *testing.T) {
	p := runner.Retry{Jitter: -1}
	for attempt, want := range map[int]time.Duration{
		0: time.Second, 1: 2 * time.Second, 5: 32 * time.Second, 9: 512 * time.Second,
		10: 10 * time.Minute, 63: 10 * time.Minute, 64: 10 * time.Minute, math.MaxInt: 10 * time.Minute,
	} {
		if got := p.Delay(attempt, nil); got != want {
			t.Errorf("attempt %d waits %s, want %s", attempt, got, want)
		}
	}
	// Full jitter spreads over the whole range: of many waits, some fall into
	// each quarter.
	var quarters [4]int
	for range 400 {
		d := runner.Retry{}.Delay(2, nil)
		quarters[min(int(d/time.Second), 3)]++
	}
	for i, n := range quarters {
		if n == 0 {
			t.Errorf("no wait in quarter %d of 4 s: %v", i+1, quarters)
		}
	}
}

func TestDelayByOwnFunction(t *testing.T) {
	boom := errors.New("boom")
	p := runner.Retry{Max: time.Second, Wait: func(attempt int, err error) time.Duration {
		if !errors.Is(err, boom) {
			return -time.Hour
		}
		return time.Duration(attempt) * time.Hour
	}}
	if got := p.Delay(3, boom); got != 3*time.Hour {
		t.Errorf("Delay = %s, want what the function said", got)
	}
	if got := p.Delay(3, nil); got != 0 {
		t.Errorf("Delay = %s, want 0 for a negative wait", got)
	}
}
