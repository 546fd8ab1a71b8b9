package store

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/stemjobs/stem/task"
)

// Limiter gives out slots at a rate, over all workers of a store (rules R1–R6,
// broker.PowerRates). A broker that has the power implements it; where broker
// and results are two stores, the broker's is the one that counts.
//
// It is a GCRA (generic cell rate algorithm) that reserves: who cannot go at
// once is told the moment of a slot that is his alone, and need not ask again.
// Its state is one moment a line: when the slot after the last one begins.
type Limiter interface {
	// Reserve takes a slot for each reservation, in their order and in one
	// step, and answers for each. An error means that nothing is known of any
	// of them: slots may have been taken that nobody will use. So are those of
	// tasks that are cancelled before their slot comes; there is no way to hand
	// one back.
	Reserve(ctx context.Context, batch []Reservation) ([]Slot, error)
}

// Reservation asks for one slot.
type Reservation struct {
	Key  string // 1–MaxLimitKey bytes; whose slots are counted together
	Rate Rate   // of the key; whoever asks brings it, and nothing remembers it

	// Again is set by who had a slot and lost it: it came after its moment had
	// passed, or its lease ended. It takes its slot from a line of its own, so
	// that it does not wait behind everybody a second time.
	Again bool
}

// Slot is the answer to one reservation.
type Slot struct {
	At   time.Time     // when it begins, by the store's clock; never before now
	Wait time.Duration // until then; 0: now
	Err  error         // task.ErrInvalid; no slot was taken
}

// MaxLimitKey is how many bytes a key of a limit may have.
const MaxLimitKey = 256

// Rate is how many slots there are in a time. Slots are Interval apart; of
// those that nobody took, Burst may be taken at once.
type Rate struct {
	Count int           // 1 or more
	Per   time.Duration // up to 365 days; the interval is then at least 10 µs
	Burst int           // 0: 1, which is none: no two slots are nearer than Interval
}

// Bounds of a rate: the interval between two slots, and the burst.
const (
	minInterval = 10 * time.Microsecond
	maxPer      = 365 * 24 * time.Hour
	maxBurst    = 1_000_000
)

// Interval is the time between two slots: Per/Count, rounded up to whole
// microseconds, so that the rate is never exceeded.
func (r Rate) Interval() time.Duration {
	n := int64(max(r.Count, 1)) * int64(time.Microsecond)
	return time.Duration((int64(r.Per)+n-1)/n) * time.Microsecond
}

// Tolerance is how far ahead of its interval a slot may be: (Burst-1) of them.
func (r Rate) Tolerance() time.Duration { return r.Interval() * time.Duration(max(r.Burst, 1)-1) }

// Validate says what is wrong with a rate. The error wraps task.ErrInvalid.
func (r Rate) Validate() error {
	switch {
	case r.Count < 1:
		return fmt.Errorf("%w rate: %d in %s: want 1 or more", task.ErrInvalid, r.Count, r.Per)
	case r.Per <= 0 || r.Per > maxPer:
		return fmt.Errorf("%w rate: %d in %s: want a time of up to 365 days", task.ErrInvalid, r.Count, r.Per)
	case r.Per/time.Duration(r.Count) < minInterval:
		return fmt.Errorf("%w rate: %d in %s: want 100,000 a second or less", task.ErrInvalid, r.Count, r.Per)
	case r.Burst < 0 || r.Burst > maxBurst:
		return fmt.Errorf("%w rate: burst %d: want 0 to %d", task.ErrInvalid, r.Burst, maxBurst)
	case r.Interval() > maxPer/time.Duration(max(r.Burst, 1)):
		return fmt.Errorf("%w rate: a burst of %d at %s: want no more than comes in 365 days", task.ErrInvalid, r.Burst, r)
	}
	return nil
}

// Check says what is wrong with a reservation. The error wraps task.ErrInvalid.
func (r *Reservation) Check() error {
	if r.Key == "" || len(r.Key) > MaxLimitKey {
		return fmt.Errorf("%w limit key %.40q: want 1–%d bytes", task.ErrInvalid, r.Key, MaxLimitKey)
	}
	return r.Rate.Validate()
}

// Lines is the state of one key: when the slot after the last one begins, of
// those who ask first, and of those who ask again. Moments are microseconds
// since 1970, by the store's clock. What lies in the past is as good as none.
type Lines struct{ First, Again int64 }

// Take takes the next slot at a moment, and returns when it begins. The rate
// must be valid.
func (l *Lines) Take(r Rate, again bool, now int64) (at int64) {
	line, tolerance := &l.First, r.Tolerance().Microseconds()
	if again {
		line, tolerance = &l.Again, 0
	}
	at = max(now, *line-tolerance)
	*line = max(now, *line) + r.Interval().Microseconds()
	return at
}

// Idle reports whether the state says no more than a new one would.
func (l *Lines) Idle(now int64) bool { return l.First <= now && l.Again <= now }

// maxBack is how much earlier than before a clock may be read without a meaning.
const maxBack = time.Second

// StepBack tells by how much a clock was set back that says now, and was at its
// newest at seen before, and what is to be kept as seen. All lines go back by as
// much: what waits for its slot waits as long as it did. Slots that were given
// begin when they would have, beside the new ones. By less than a second nothing
// moves. All are microseconds.
func StepBack(seen, now int64) (by, newest int64) {
	if by = seen - now; by > maxBack.Microseconds() {
		return by, now
	}
	return 0, max(seen, now)
}

// Back moves the lines back.
func (l *Lines) Back(by int64) { l.First, l.Again = l.First-by, l.Again-by }

// NewSlot is the slot that begins at a moment of Take, answered at now.
func NewSlot(at, now int64) Slot {
	return Slot{At: time.UnixMicro(at).UTC(), Wait: time.Duration(at-now) * time.Microsecond}
}

// rateUnits are the times that a rate is written with.
func rateUnits() map[string]time.Duration {
	return map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour}
}

// ParseRate reads a rate such as 10/s, 100/m, 500/h or 1000/d: how many in a
// second, a minute, an hour or a day. The error wraps task.ErrInvalid.
func ParseRate(text string) (Rate, error) {
	many, unit, _ := strings.Cut(text, "/")
	n, err := strconv.Atoi(many)
	per := rateUnits()[unit]
	if err != nil || n < 1 || per == 0 || many[0] == '+' {
		return Rate{}, fmt.Errorf("%w rate %.40q: want how many in a second, minute, hour or day, such as 10/s, 100/m, 500/h or 1000/d",
			task.ErrInvalid, text)
	}
	r := Rate{Count: n, Per: per}
	return r, r.Validate()
}

// String writes the rate as ParseRate reads it, without its burst; a time that
// is none of those units in full, as in 5/1m30s.
func (r Rate) String() string {
	for unit, per := range rateUnits() {
		if per == r.Per {
			return strconv.Itoa(r.Count) + "/" + unit
		}
	}
	return strconv.Itoa(r.Count) + "/" + r.Per.String()
}
