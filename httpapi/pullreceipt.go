package httpapi

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// pullReceipt is the receipt that a puller gets: the broker's, and what the
// retry policy needs to know of the delivery, so that a server which never saw
// it settles by the same rules.
type pullReceipt struct {
	broker.Receipt
	attempt    int
	base       int // attempt at the last replay
	maxRetries int
	meta       bool // the envelope has more that matters: links, retention, encoders
}

// String is ATTEMPT.BASE.RETRIES~ and the broker's receipt; an "m" stands
// before the first tilde where there is meta.
func (r pullReceipt) String() string {
	m := ""
	if r.meta {
		m = "m"
	}
	return fmt.Sprintf("%d.%d.%d%s~%s", r.attempt, r.base, r.maxRetries, m, r.Receipt)
}

func parsePullReceipt(text string) (r pullReceipt, err error) {
	head, rest, _ := strings.Cut(text, "~")
	if r.Receipt, err = broker.ParseReceipt(rest); err != nil {
		return r, fmt.Errorf("%w receipt: want one as a lease gave it", task.ErrInvalid)
	}
	head, r.meta = strings.CutSuffix(head, "m")
	parts := strings.Split(head, ".")
	numbers := []*int{&r.attempt, &r.base, &r.maxRetries}
	if len(parts) != len(numbers) {
		return r, fmt.Errorf("%w receipt: want one as a lease gave it", task.ErrInvalid)
	}
	for i, n := range numbers {
		if *n, err = strconv.Atoi(parts[i]); err != nil || *n < 0 || *n >= math.MaxInt32 {
			return r, fmt.Errorf("%w receipt: want one as a lease gave it", task.ErrInvalid)
		}
	}
	if r.base > r.attempt {
		return r, fmt.Errorf("%w receipt: want one as a lease gave it", task.ErrInvalid)
	}
	return r, nil
}

// receiptOf is what a puller gets for a delivery.
func receiptOf(d *broker.Delivery) pullReceipt {
	return pullReceipt{
		Receipt: d.Receipt, attempt: d.Attempt, base: d.RetryBase, maxRetries: d.Envelope.MaxRetries,
		meta: len(d.Envelope.Meta) > 0,
	}
}
