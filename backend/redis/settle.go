package redis

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// settlement is a settlement as the exchange script takes it.
type settlement struct {
	id      string
	args    []string
	sent    []string // what it has to do in other partitions: entries of the outbox
	refused error
}

func kindOf(s task.State) byte {
	switch s {
	case task.Succeeded:
		return kindSucceeded
	case task.Cancelled:
		return kindCancelled
	case task.Failed:
		return kindDead
	case task.Retried:
		return kindRetried
	case task.Queued:
		return kindReleased
	default:
		return 0
	}
}

// newSettlement makes a settlement's arguments; see settle_all, settle_plain and
// settle_slow in lua/settle.lua. value is the task's, if it is known and an
// ended task keeps it as it is.
func (db *DB) newSettlement(s *broker.Settlement, value string, now int64) settlement {
	o := &s.Outcome
	v := settlement{id: s.Receipt.ID}
	kind := kindOf(o.State)
	if kind == 0 {
		v.refused = fmt.Errorf("%w outcome: a task that is held cannot become %q", task.ErrInvalid, o.State)
		return v
	}
	if v.refused = task.ValidateTime("notBefore", o.NotBefore); v.refused != nil {
		return v
	}
	keep := strconv.FormatInt(keepMillis(o.Keep), 10)
	plain := (kind == kindSucceeded || kind == kindCancelled) && o.Error == nil && len(s.Release)+len(s.Followups) == 0
	var end []byte
	if kind != kindReleased && kind != kindRetried {
		if !plain || o.Keep < 0 {
			value = ""
		}
		end = make([]byte, 0, len("s@")+96+len(o.Result)+len(o.Worker)+len(o.Reason)+len(value))
		if value != "" {
			end = append(end, kind, '@')
			kind -= 'a' - 'A'
		}
		if end = appendEnd(end, s); o.Keep != 0 {
			end = append(end, value...)
		}
	}
	v.args = append(make([]string, 0, 4), strconv.FormatInt(s.Receipt.Epoch, 10), string(rune(kind)), rueidis.BinaryString(end))
	if plain {
		v.args = append(v.args, keep)
		return v
	}
	v.refused = db.more(&v, s, keep, now)
	return v
}

// more appends the rest of a settlement that is not plain.
func (db *DB) more(v *settlement, s *broker.Settlement, keep string, now int64) error {
	o := &s.Outcome
	reserved, worker, failure := 0, "", ""
	if o.Reserved && o.State == task.Queued {
		reserved = 1
	}
	if o.Worker != "" {
		worker = escape(o.Worker)
	}
	if o.Error != nil {
		text, err := json.Marshal(o.Error)
		if err != nil {
			return fmt.Errorf("%w outcome: its error: %w", task.ErrInvalid, err)
		}
		failure = string(text)
	}
	home := db.partition(v.id)
	var releases, followups []string
	near := 0
	for _, key := range s.Release {
		if db.partition(key) == home {
			releases = append(releases, key)
		} else {
			v.sent = append(v.sent, releaseEntry(v.id, key))
		}
	}
	for i := range s.Followups {
		f := &s.Followups[i]
		data, err := prepare(f)
		if err != nil {
			return fmt.Errorf("follow-up %d: %w", i, err)
		}
		if db.near(f, home) {
			near++
			followups = appendPublication(followups, f.Envelope, data, f.Claims, now)
			continue
		}
		entry, err := publicationEntry(data, f.Claims)
		if err != nil {
			return fmt.Errorf("follow-up %d: %w", i, err)
		}
		v.sent = append(v.sent, entry)
	}
	v.args = append(v.args, fmt.Sprintf("%s %d %d %d %d %d %d %d", keep, millis(o.NotBefore), o.Attempt, reserved,
		millis(o.StartedAt), len(releases), near, len(v.sent)), worker, failure)
	v.args = append(append(append(v.args, releases...), followups...), v.sent...)
	return nil
}

// near reports whether a publication can be stored in that partition's step.
func (db *DB) near(p *broker.Publication, partition int) bool {
	return db.partition(p.Envelope.ID) == partition && (len(db.tags) == 1 || len(p.Claims) == 0)
}

// appendEnd appends what is kept of a terminal outcome, after its length in seven
// digits.
func appendEnd(b []byte, s *broker.Settlement) []byte {
	o := &s.Outcome
	const digits = 7
	b = append(b, "0000000"...)
	from := len(b)
	b = strconv.AppendInt(append(b, `{"epoch":`...), s.Receipt.Epoch, 10)
	if o.Attempt != 0 {
		b = strconv.AppendInt(append(b, `,"attempt":`...), int64(o.Attempt), 10)
	}
	if o.Worker != "" {
		b = appendQuoted(append(b, `,"worker":`...), o.Worker)
	}
	if !o.StartedAt.IsZero() {
		b = strconv.AppendInt(append(b, `,"started":`...), o.StartedAt.UnixMicro(), 10)
	}
	ended := o.EndedAt
	if ended.IsZero() {
		ended = time.Now()
	}
	b = strconv.AppendInt(append(b, `,"ended":`...), ended.UnixMicro(), 10)
	if o.Reason != "" {
		b = appendQuoted(append(b, `,"reason":`...), o.Reason)
	}
	if o.State == task.Succeeded && len(o.Result) > 0 {
		b = append(append(b, `,"result":`...), o.Result...)
	}
	b = append(b, '}')
	appendPadded(b[from-digits:from-digits], int64(len(b)-from), digits)
	return b
}

// appendQuoted appends text as JSON.
func appendQuoted(b []byte, text string) []byte {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return append(b, quote(text)...)
		}
	}
	return append(append(append(b, '"'), text...), '"')
}

// quote returns text as JSON.
func quote(text string) []byte {
	quoted, err := json.Marshal(text)
	if err != nil { // never: it is a string
		return []byte(`""`)
	}
	return quoted
}

// renewalArgs makes a renewal's arguments; see renew_all in lua/settle.lua.
func renewalArgs(args []string, r *broker.Renewal) ([]string, error) {
	start, worker, progress := "0", "", ""
	if r.Start {
		start = "1"
	}
	if r.Worker != "" {
		worker = escape(r.Worker)
	}
	if r.Progress != nil {
		text, err := json.Marshal(r.Progress)
		if err != nil {
			return nil, fmt.Errorf("%w progress: %w", task.ErrInvalid, err)
		}
		progress = string(text)
	}
	return append(args, strconv.FormatInt(r.Receipt.Epoch, 10), strconv.FormatInt(ceilMillis(r.Extend), 10), start, worker, progress), nil
}
