package stemcmd

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"
)

// rate is a flag value: so many in a second, a minute, or an hour. Zero is no
// limit.
type rate struct {
	many int
	per  time.Duration
}

func (r *rate) String() string {
	if r.many == 0 {
		return ""
	}
	unit := map[time.Duration]string{time.Second: "s", time.Minute: "m", time.Hour: "h"}[r.per]
	return strconv.Itoa(r.many) + "/" + unit
}
func (r *rate) Type() string { return "rate" }
func (r *rate) Set(text string) error {
	many, unit, _ := strings.Cut(text, "/")
	n, err := strconv.Atoi(many)
	per := map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour}[unit]
	if err != nil || n < 1 || n > 1_000_000 || per == 0 {
		return errors.New("want how many in a second, a minute or an hour, such as 100/s, 60/m or 10/h")
	}
	r.many, r.per = n, per
	return nil
}

// span is the time that n take.
func (r *rate) span(n int) time.Duration {
	return time.Duration(float64(r.per) * float64(n) / float64(r.many))
}

// batch is how many go at once: what comes in a tenth of a second, so that the
// load is even; at least one, and at most that many.
func (r *rate) batch(most int) int {
	if r.many == 0 {
		return most
	}
	tenth := float64(r.many) * float64(100*time.Millisecond) / float64(r.per)
	return min(max(int(tenth), 1), most)
}

// wait returns when n that went at that moment have had their time, or with the
// reason why the context ended. Without more to follow it does not wait.
func (r *rate) wait(ctx context.Context, began time.Time, n int, more bool) error {
	if r.many == 0 || !more {
		return nil
	}
	t := time.NewTimer(time.Until(began.Add(r.span(n))))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
