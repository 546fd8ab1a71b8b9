package redis

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/stemjobs/stem/task"
)

// The forms of what the scripts read and write; docs/redis.md describes them,
// lua/common.lua has the other half.

// Bits of a task value's flag.
const (
	flagUnusual = 1  // a lease of its own, or an attempt
	flagErrors  = 2  // {tag}:e:ID has errors
	flagClaims  = 4  // {tag}:c:ID has claims
	flagDelayed = 8  // it was delayed when it was published
	flagBare    = 16 // its args go when it has succeeded or is cancelled
	flagCut     = 32 // its args are the first KiB, or are gone
)

// Bits of an ended value's flag.
const (
	endRun    = 1 // the run record's line follows the outcome
	endHidden = 2 // no status is shown
)

// Kinds of task values, and of settlements.
const (
	kindLive      = 'w'
	kindSucceeded = 's'
	kindCancelled = 'c'
	kindDead      = 'x'
	kindReleased  = 'q'
	kindRetried   = 't'
)

var errForeign = errors.New("it is not a value that Stem wrote")

// taskKey is the key of a task's value: see task_key in lua/common.lua.
func taskKey(tag, id string) string {
	if id != "" && id[0] == ':' {
		return tag + ":t:" + id
	}
	return tag + id
}

// value is a task's value, taken apart.
type value struct {
	kind   byte
	hidden bool
	ended  outcome // of one that ended
	run    *run    // of one that ended with it

	flag      int
	storedAt  int64 // ms
	enqueued  int64 // ms
	priority  int
	queue     string
	lease     int64 // ms; 0: its consumer's
	attempt   int
	notBefore int64 // ms; 0: none
	argsAt    int
	argsLen   int
	envelope  string
}

// outcome is what is kept of how a task ended.
type outcome struct {
	Epoch   int64           `json:"epoch"`
	Attempt int             `json:"attempt"`
	Worker  string          `json:"worker"`
	Started int64           `json:"started"` // µs
	Ended   int64           `json:"ended"`   // µs
	EndedMs int64           `json:"endedMs"`
	Reason  string          `json:"reason"`
	Result  json.RawMessage `json:"result"`
}

// parseValue takes a task's value apart.
func parseValue(v string) (value, error) {
	var p value
	if len(v) < 2 {
		return p, errForeign
	}
	p.kind = v[0]
	if p.kind != kindLive {
		rest, err := p.parseEnd(v)
		if err != nil {
			return p, err
		}
		v = rest
	}
	line, envelope, ok := strings.Cut(v, "\n")
	if !ok || len(line) < 3 || line[0] != kindLive {
		return p, errForeign
	}
	p.envelope, p.flag = envelope, int(line[1])-'@'
	var words [9]string
	count := 0
	for word := range strings.SplitSeq(line[2:], " ") {
		if count < len(words) {
			words[count] = word
		}
		count++
	}
	if count != len(words) {
		return p, errForeign
	}
	n := numbers{}
	p.storedAt, p.enqueued = n.int(words[0]), n.int(words[1])
	p.priority, p.queue = int(n.int(words[2])), words[3]
	p.lease, p.attempt, p.notBefore = n.int(words[4]), int(n.int(words[5])), n.int(words[6])
	p.argsAt, p.argsLen = int(n.int(words[7])), int(n.int(words[8]))
	return p, n.err
}

// parseEnd reads the outcome that stands before a value, and returns the rest.
func (p *value) parseEnd(v string) (rest string, err error) {
	if len(v) < 9 {
		return "", errForeign
	}
	n, err := strconv.Atoi(v[2:9])
	if err != nil || n < 0 || len(v) < 9+n {
		return "", errForeign
	}
	var ended outcome // of its own, so that a value without one is not the heap's
	if err := json.Unmarshal([]byte(v[9:9+n]), &ended); err != nil {
		return "", fmt.Errorf("outcome: %w", err)
	}
	p.ended = ended
	flag := int(v[1]) - '@'
	p.hidden = flag&endHidden != 0
	v = v[9+n:]
	if flag&endRun == 0 {
		return v, nil
	}
	line, rest, ok := strings.Cut(v, "\n")
	if !ok {
		return "", errForeign
	}
	p.run, err = parseRun(line)
	return rest, err
}

// numbers reads many numbers and remembers the first error.
type numbers struct{ err error }

func (n *numbers) int(s string) int64 {
	i, err := strconv.ParseInt(s, 10, 64)
	if err != nil && n.err == nil {
		n.err = errForeign
	}
	return i
}

// run is a run record, taken apart.
type run struct {
	epoch, place      int64
	priority          int
	queue             string
	lease             int64
	flags             string
	attempt, base     int
	starts, replays   int
	since, notBefore  int64 // ms
	started, replayed int64 // ms
	holder, worker    string
	progress          string
}

// Flags of a run record.
const (
	runHeld        = "h" // the receipt of its newest lease is good
	runStarted     = "s" // that lease was started
	runLapsed      = "l" // that lease ended, and nobody took the task since
	runRedelivered = "r"
	runRevoked     = "v" // {tag}:rev has the revocation
	runReserved    = "m" // it waits for the slot of a rate limit
	runRunning     = "R"
	runRetried     = "T"
)

func (r *run) has(flag string) bool { return strings.Contains(r.flags, flag) }

func parseRun(line string) (*run, error) {
	if at := strings.IndexAny(line, " ="); at >= 0 && line[at] == '=' {
		line = line[:at] + " " + line[at+1:]
	}
	w := strings.SplitN(line, " ", 17)
	if len(w) < 16 {
		return nil, errForeign
	}
	n := numbers{}
	r := &run{
		epoch: n.int(w[0]), place: n.int(w[1]), priority: int(n.int(w[2])), queue: w[3], lease: n.int(w[4]), flags: w[5],
		attempt: int(n.int(w[6])), base: int(n.int(w[7])), starts: int(n.int(w[8])), replays: int(n.int(w[9])),
		since: n.int(w[10]), notBefore: n.int(w[11]), started: n.int(w[12]), replayed: n.int(w[13]), holder: w[14],
	}
	r.worker = unescape(w[15])
	if len(w) == 17 {
		r.progress = w[16]
	}
	return r, n.err
}

// escape makes one word of a name, for run records.
func escape(name string) string {
	if name == "" {
		return "-"
	}
	return url.QueryEscape(name)
}

func unescape(word string) string {
	if word == "-" {
		return ""
	}
	name, err := url.QueryUnescape(word)
	if err != nil {
		return word
	}
	return name
}

// newValue is the value of a new task, at that moment by the server's clock. It is
// seldom longer than the envelope: more is left out of that than stands before it.
func newValue(e *task.Envelope, data []byte, now int64) []byte {
	return appendValue(make([]byte, 0, len(data)), e, data, now)
}

func appendValue(b []byte, e *task.Envelope, data []byte, now int64) []byte {
	b = append(appendPadded(append(b, kindLive, byte('@'+bare(e))), now, 13), ' ')
	b = append(appendPadded(b, e.EnqueuedAt.UnixMilli(), 15), ' ')
	b = append(strconv.AppendInt(b, int64(e.Priority), 10), ' ')
	b = append(append(b, e.Queue...), ' ')
	b = append(strconv.AppendInt(b, ceilMillis(e.VisibilityTimeout), 10), ' ')
	b = append(strconv.AppendInt(b, int64(e.Attempt), 10), ' ')
	b = append(strconv.AppendInt(b, millis(e.NotBefore), 10), ' ')
	lean, moved := leanOf(e, data)
	argsAt := len(`{"id":"","name":"","args":`) + len(e.ID) + len(e.Name) - moved
	argsLen := len(e.Args)
	if argsLen == 0 {
		argsLen = len("null")
	}
	b = append(strconv.AppendInt(b, int64(argsAt), 10), ' ')
	b = append(strconv.AppendInt(b, int64(argsLen), 10), '\n')
	for _, part := range lean {
		b = append(b, part...)
	}
	return b
}

// bare is the flag of a task whose args go with its end, or 0.
func bare(e *task.Envelope) int {
	if task.KeepsArgs(e.Meta) {
		return 0
	}
	return flagBare
}

// cut returns v, which p is, without its args.
func (p *value) cut(v string) string {
	from := len(v) - len(p.envelope) + p.argsAt
	if from+p.argsLen > len(v) {
		return "" // the script knows what to do with it
	}
	return v[:1] + string(rune(v[1]+flagCut)) + v[2:from] + v[from+p.argsLen:]
}

// status is the status of a task; now is the server's time.
func (p *value) status(id string, r *run, errs []string, keptFor int64, now int64) task.Status {
	e, err := p.decode(id)
	if err != nil {
		e = &task.Envelope{ID: id, Queue: p.queue, Priority: p.priority, EnqueuedAt: time.UnixMilli(p.enqueued).UTC()}
	}
	s := task.NewStatus(e)
	s.Queue, s.Attempt = p.queue, p.attempt
	if p.flag&flagDelayed == 0 {
		s.NotBefore = time.Time{} // a moment in the past is now
	}
	if p.run != nil {
		r = p.run
	}
	if r != nil {
		r.describe(&s)
	}
	s.Errors = parseErrors(errs)
	if len(s.Errors) > 0 {
		s.Error = &s.Errors[len(s.Errors)-1]
	}
	if p.kind != kindLive {
		p.describeEnd(&s)
		if keptFor > 0 {
			s.ExpiresAt = time.UnixMilli(now + keptFor).UTC()
		}
	}
	return s
}

// parseErrors reads the errors of attempts, and leaves out what is none.
func parseErrors(texts []string) (errs []task.Error) {
	for _, text := range texts {
		var e task.Error
		if json.Unmarshal([]byte(text), &e) == nil {
			errs = append(errs, e)
		}
	}
	return errs
}

// describe writes what a run record says.
func (r *run) describe(s *task.Status) {
	switch {
	case r.has(runRunning):
		s.State = task.Running
	case r.has(runRetried):
		s.State = task.Retried
	}
	s.Attempt, s.Epoch, s.Starts = r.attempt, r.epoch, r.starts
	s.NotBefore, s.StartedAt = moment(r.notBefore), moment(r.started)
	if r.started > 0 {
		s.Worker = r.worker
	}
	if r.progress != "" {
		p := &task.Progress{}
		if json.Unmarshal([]byte(r.progress), p) == nil {
			s.Progress = p
		}
	}
	s.ReplayCount, s.LastReplayAt = r.replays, moment(r.replayed)
	if r.has(runReserved) {
		s.MarkRateLimited(true)
	}
}

// describeEnd writes what an outcome says.
func (p *value) describeEnd(s *task.Status) {
	o := &p.ended
	switch p.kind {
	case kindSucceeded:
		s.State = task.Succeeded
	case kindCancelled:
		s.State = task.Cancelled
	default:
		s.State = task.Failed
	}
	s.Starts = 0
	s.Attempt = max(s.Attempt, o.Attempt)
	s.Epoch = max(s.Epoch, o.Epoch)
	if o.Worker != "" {
		s.Worker = o.Worker
	}
	if o.Started != 0 {
		s.StartedAt = time.UnixMicro(o.Started).UTC()
	}
	s.FinishedAt = moment(o.EndedMs)
	if o.Ended != 0 {
		s.FinishedAt = time.UnixMicro(o.Ended).UTC()
	}
	s.Reason, s.Result = o.Reason, bytes.Clone(o.Result)
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// moment is the time of milliseconds; 0: none.
func moment(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// ceilMillis rounds up, so that a lease is never shorter than asked for.
func ceilMillis(d time.Duration) int64 {
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}

// keepMillis is a retention as the scripts have it: -1 for ever, 0 not at all.
func keepMillis(d time.Duration) int64 {
	if d < 0 {
		return -1
	}
	return ceilMillis(d)
}

// appendPadded appends n with zeros before it to that many digits.
func appendPadded(b []byte, n int64, digits int) []byte {
	text := strconv.AppendInt(make([]byte, 0, 20), n, 10)
	for range digits - len(text) {
		b = append(b, '0')
	}
	return append(b, text...)
}
