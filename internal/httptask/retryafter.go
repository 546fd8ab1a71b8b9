package httptask

import (
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// MaxRetryAfter is the longest wait that a server can ask for.
const MaxRetryAfter = 24 * time.Hour

// RetryAfter reads how long a server asks to be left alone: a number of
// seconds, or a moment, which is compared with the answer's own Date, since
// two clocks differ; now stands in where there is none. It is false when the
// header is missing, malformed, or asks for no wait at all.
func RetryAfter(h http.Header, now time.Time) (time.Duration, bool) {
	text := strings.TrimSpace(h.Get("Retry-After"))
	var wait time.Duration
	if text != "" && strings.Trim(text, "0123456789") == "" {
		seconds, err := strconv.ParseUint(text, 10, 32)
		if err != nil || seconds > uint64(MaxRetryAfter/time.Second) {
			return MaxRetryAfter, true
		}
		wait = time.Duration(seconds) * time.Second
	} else {
		at, err := http.ParseTime(text)
		if err != nil {
			return 0, false
		}
		if sent, err := http.ParseTime(h.Get("Date")); err == nil {
			now = sent
		}
		wait = min(at.Sub(now), MaxRetryAfter)
	}
	return wait, wait > 0
}

// spread makes a wait up to a tenth longer, so that those who were sent away
// together do not come back together.
func spread(wait time.Duration) time.Duration {
	return min(wait+rand.N(wait/10+1), MaxRetryAfter)
}
