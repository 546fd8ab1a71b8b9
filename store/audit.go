package store

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// Audit keeps what people changed: who, what, how many, why, and how it ended. It
// only grows, and forgets by time alone. A backend that has it returns it from a
// method Audit.
//
//   - U1  Note keeps a record, field by field as it was given, its moment to the
//     millisecond. A repeat of the same moment and id changes nothing.
//   - U2  List returns newest first by At, then the highest id first, in pages
//     that neither repeat nor skip a record; filters agree with AuditQuery.Match.
//     It sees what an earlier call stored, by whichever process.
//   - U3  A record is listed until keep has passed since it was noted, by the
//     store's clock, and never after it.
//   - U4  All methods are safe for concurrent use. A record that does not pass
//     Check, a keep below a millisecond and a cursor that no page gave are
//     task.ErrInvalid, and nothing is kept. After the backend's Close every call is
//     broker.ErrClosed; a cancelled context ends a call with its error.
type Audit interface {
	Note(ctx context.Context, a Action, keep time.Duration) error
	List(ctx context.Context, q AuditQuery) (actions []Action, cursor string, err error)
}

// AuditKeep is how long records are kept unless told otherwise: 90 days.
const AuditKeep = 90 * 24 * time.Hour

// Action is one record of an audit.
type Action struct {
	ID     string    `json:"id"` // UUIDv7
	At     time.Time `json:"at"`
	Who    string    `json:"who"`              // a user and host, or a token's name
	Via    string    `json:"via"`              // "cli", or "api"
	What   string    `json:"what"`             // such as "dlq replay"
	On     string    `json:"on,omitempty"`     // ids, or the filter
	Count  int       `json:"count"`            // how many were changed; 0 also where nobody counts
	Reason string    `json:"reason,omitempty"` // as the person gave it
	Error  string    `json:"error,omitempty"`  // of what did not end well
}

// maxAuditText bounds each text of a record, in bytes.
const maxAuditText = 4096

// NewAction makes a record of now; texts that are too long are cut.
func NewAction(who, via, what, on string) (Action, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return Action{}, fmt.Errorf("make the id of an audit record: %w", err)
	}
	return Action{
		ID: id.String(), At: time.Now().UTC().Truncate(time.Millisecond),
		Who: cutText(who), Via: via, What: what, On: cutText(on),
	}, nil
}

// Ended adds what came of it.
func (a Action) Ended(count int, reason string, err error) Action {
	a.Count, a.Reason = count, cutText(reason)
	if err != nil {
		a.Error = cutText(err.Error())
	}
	return a
}

func cutText(s string) string {
	s = strings.ToValidUTF8(s, "�")
	if len(s) <= maxAuditText {
		return s
	}
	return strings.ToValidUTF8(s[:maxAuditText-3], "") + "…"
}

// Check is rule U4's check of what Note was given.
func (a *Action) Check(keep time.Duration) error {
	switch {
	case task.ValidateID(a.ID) != nil:
		return fmt.Errorf("%w id %.80q of an audit record", task.ErrInvalid, a.ID)
	case a.At.IsZero() || a.Who == "" || a.Via == "" || a.What == "":
		return fmt.Errorf("%w audit record without moment, who, via or what", task.ErrInvalid)
	case max(len(a.Who), len(a.Via), len(a.What), len(a.On), len(a.Reason), len(a.Error)) > maxAuditText:
		return fmt.Errorf("%w audit record with a text of more than %d bytes", task.ErrInvalid, maxAuditText)
	case keep < time.Millisecond:
		return fmt.Errorf("%w time %s of an audit record: want a millisecond or more", task.ErrInvalid, keep)
	}
	return nil
}

// AuditQuery selects records; fields left empty select all.
type AuditQuery struct {
	Who   string // or a pattern with "*"
	Via   string
	What  string // or a pattern with "*"
	On    string // a part of it, in any case
	Since time.Time
	Until time.Time // At in [Since, Until)

	Limit  int    // 0: 50; at most 1000
	Cursor string // of the page before; empty: the first page
}

// Size is the query's limit with its default and its bound applied.
func (q AuditQuery) Size() int { return broker.Page{Limit: q.Limit}.Size() }

// Match reports whether the query selects a.
func (q AuditQuery) Match(a *Action) bool {
	switch {
	case q.Who != "" && !broker.Match(q.Who, a.Who),
		q.Via != "" && q.Via != a.Via,
		q.What != "" && !broker.Match(q.What, a.What),
		q.On != "" && !strings.Contains(strings.ToLower(a.On), strings.ToLower(q.On)),
		!q.Since.IsZero() && a.At.Before(q.Since),
		!q.Until.IsZero() && !a.At.Before(q.Until):
		return false
	}
	return true
}

// Before reports whether a comes after the cursor's record in a listing, newest
// first: it is older, or of the same millisecond with a lower id. The zero
// cursor is before all.
func (c Cursor) Before(at time.Time, id string) bool {
	if c.ID == "" {
		return true
	}
	ms, from := at.UnixMilli(), c.At.UnixMilli()
	return ms < from || ms == from && id < c.ID
}
