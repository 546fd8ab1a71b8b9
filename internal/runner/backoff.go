package runner

import (
	"math"
	"math/rand/v2"
	"time"
)

// The defaults of Retry.
const (
	DefaultRetryBase   = time.Second
	DefaultRetryFactor = 2.0
	DefaultRetryMax    = 10 * time.Minute
)

// Delay is how long to wait before the next attempt; attempt counts from 0,
// the first one that failed. It is never negative, and at most Max unless Wait
// is set.
func (p Retry) Delay(attempt int, err error) time.Duration {
	if p.Wait != nil {
		return max(0, p.Wait(attempt, err))
	}
	ceiling := p.Max
	if ceiling <= 0 {
		ceiling = DefaultRetryMax
	}
	base := p.Base
	if base <= 0 {
		base = min(DefaultRetryBase, ceiling)
	}
	factor := p.Factor
	if factor == 0 {
		factor = DefaultRetryFactor
	}
	return jittered(grown(base, factor, ceiling, attempt), p.Jitter)
}

// grown is base × factor^attempt, at most ceiling. The power is taken in
// floating point, where it overflows to infinity and not to a negative wait.
func grown(base time.Duration, factor float64, ceiling time.Duration, attempt int) time.Duration {
	wait := float64(base) * math.Pow(max(factor, 1), float64(max(attempt, 0)))
	if !(wait < float64(ceiling)) { // also when it is infinite or no number
		return ceiling
	}
	return time.Duration(wait)
}

// jittered makes the given share of a wait random: 0 means all of it, a
// negative one none. What is random never comes out as nothing at all, so that
// a full jitter is still a wait.
func jittered(wait time.Duration, share float64) time.Duration {
	if share < 0 || wait <= 0 {
		return wait
	}
	if share == 0 || share > 1 {
		share = 1
	}
	random := int64(float64(wait) * share)
	if random <= 0 {
		return wait
	}
	return wait - time.Duration(rand.Int64N(random))
}

// patience is the wait after the n-th failure in a row (from 1) to reach the
// store: from 50 ms to 5 s, half of it random, so that a fleet that lost its
// store does not come back as one.
func patience(failures int) time.Duration {
	return jittered(grown(50*time.Millisecond, 2, 5*time.Second, failures-1), 0.5)
}

// loud says whether the n-th failure in a row is worth a line: 1, 2, 4, 8, …
func loud(failures int) bool { return failures > 0 && failures&(failures-1) == 0 }
