package runner

import (
	"math"
	"time"
)

// Bounds of the automatic prefetch: what starts within prefetchSpan at the
// present rate, but no more than this.
const (
	prefetchSpan  = 10 * time.Millisecond
	prefetchMost  = 256
	prefetchBytes = 4 << 20

	prefetchAge = time.Second // held and not started for so long: given back
)

// pace follows the rate at which handlers start, as a moving average that
// forgets within some milliseconds.
type pace struct {
	at     time.Duration // of the last sample
	starts int64         // counted until then
	rate   float64       // a second
}

const (
	paceSample = time.Millisecond
	paceMemory = 5 * time.Millisecond
)

// sample takes in how many starts there have been until now.
func (p *pace) sample(now time.Duration, starts int64) {
	dt := now - p.at
	if dt < paceSample {
		return
	}
	recent := float64(starts-p.starts) / dt.Seconds()
	p.rate += (recent - p.rate) * (1 - math.Exp(-float64(dt)/float64(paceMemory)))
	p.at, p.starts = now, starts
}

// ahead is how many deliveries to hold beyond what the isolates execute.
func (p *pace) ahead() int {
	return int(min(prefetchMost, p.rate*prefetchSpan.Seconds()))
}
