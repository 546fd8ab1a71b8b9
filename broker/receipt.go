package broker

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/stemjobs/stem/task"
)

// Receipt is the right to settle one delivery. It is a value: any process that
// has it may settle.
type Receipt struct {
	ID    string // the task's
	Epoch int64  // of the lease
	Token string // the backend's own: A-Z a-z 0-9 . _ -
}

// String returns the receipt as one word, the task's id last.
func (r Receipt) String() string {
	return strconv.FormatInt(r.Epoch, 10) + "~" + r.Token + "~" + r.ID
}

// ParseReceipt reads what String wrote. The error wraps task.ErrInvalid.
func ParseReceipt(s string) (Receipt, error) {
	epoch, rest, ok1 := strings.Cut(s, "~")
	token, id, ok2 := strings.Cut(rest, "~")
	n, err := strconv.ParseInt(epoch, 10, 64)
	if !ok1 || !ok2 || err != nil || n < 0 || task.ValidateID(id) != nil || len(token) > 256 {
		return Receipt{}, fmt.Errorf("%w receipt %.80q: want EPOCH~TOKEN~ID as it was given", task.ErrInvalid, s)
	}
	return Receipt{ID: id, Epoch: n, Token: token}, nil
}
