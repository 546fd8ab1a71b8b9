package memory

import (
	"bytes"
	"encoding/json"
	"slices"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/ledger"
	"github.com/stemjobs/stem/task"
)

// place is where a record is; it is in exactly one.
type place uint8

const (
	nowhere place = iota
	ready         // in its queue's line, at its priority
	delayed       // in its queue's due
	leased        // in its queue's leases
	dead          // in the graveyard
	done          // succeeded or cancelled: the status alone
	foreign       // the status of a task that a broker elsewhere holds
)

// state is a task.State in one byte.
type state uint8

const (
	queued state = iota
	running
	retried
	succeeded
	failed
	cancelled
)

func (s state) name() task.State {
	names := [...]task.State{task.Queued, task.Running, task.Retried, task.Succeeded, task.Failed, task.Cancelled}
	return names[s]
}

func (s state) terminal() bool { return s >= succeeded }

// stateOf is a valid state as a byte.
func stateOf(name task.State) state {
	for s := queued; s <= cancelled; s++ {
		if s.name() == name {
			return s
		}
	}
	return queued
}

// record is one task with its status. There may be millions: what few of them
// have is in extra.
type record struct {
	id  string
	at  int64          // when it was enqueued, in ms: its place in the timeline
	env *task.Envelope // without what no status shows once it is trimmed; nil: a foreign one's
	q   *queue         // nil: a foreign one's

	prev, next *record // its neighbours in a line, while it is in one
	seq        int64   // its place in its line: lower ones come first
	since      int64   // when it became ready
	index      int32   // in the pile that it is in; -1: none
	size       int32   // of the encoded envelope
	starts     int32

	place       place
	state       state
	trimmed     bool // env's args are what the status keeps
	held        bool // the newest lease is neither settled, given back, nor passed on
	started     bool // in the newest lease
	reserved    bool // it has a slot of a rate limit, or had it when its newest lease began
	redelivered bool // a lease ended without settlement, since the last one that did not
	hidden      bool // a dead letter whose status is gone
	removed     bool // from the DB

	attempt    int
	epoch      int64     // of the newest lease
	holder     *consumer // of that lease, while it is held
	startedAt  int64     // moments; 0: none
	finishedAt int64
	expires    int64 // when a done record goes; 0: never
	worker     string
	result     json.RawMessage
	extra      *extra // nil for most

	entry *ledger.Entry // of a foreign one, which has nothing else but its state and when it goes
}

// extra is what few records have.
type extra struct {
	errors   []task.Error
	progress *task.Progress
	claims   []string // those without a time of their own, which end with the task
	revoke   *broker.Revocation

	notBefore time.Time
	reason    string // of a failed or cancelled one

	replays    int
	retryBase  int
	replayedAt time.Time
	deadAt     time.Time
	deadSeq    int64 // in the graveyard
}

func (r *record) setIndex(i int32) { r.index = i }

// more returns the record's extra part, which it makes if need be.
func (r *record) more() *extra {
	if r.extra == nil {
		r.extra = &extra{}
	}
	return r.extra
}

func (r *record) revocation() *broker.Revocation {
	if r.extra == nil {
		return nil
	}
	return r.extra.revoke
}

func (r *record) replays() int {
	if r.extra == nil {
		return 0
	}
	return r.extra.replays
}

func (r *record) notBefore() time.Time {
	if r.extra == nil {
		return time.Time{}
	}
	return r.extra.notBefore
}

func (r *record) setNotBefore(t time.Time) {
	if r.extra != nil || !t.IsZero() {
		r.more().notBefore = t
	}
}

func (r *record) setReason(reason string) {
	if r.extra != nil || reason != "" {
		r.more().reason = reason
	}
}

func (r *record) addError(e *task.Error) {
	if e != nil {
		x := r.more()
		x.errors = task.AppendError(x.errors, e)
	}
}

func (r *record) setProgress(p *task.Progress) {
	if p != nil {
		r.more().progress = ownProgress(p)
	}
}

func newRecord(e *task.Envelope, size int) *record {
	r := &record{id: e.ID, at: e.EnqueuedAt.UnixMilli(), env: e, index: -1, size: int32(size), attempt: e.Attempt}
	r.setNotBefore(e.NotBefore)
	return r
}

// trim drops of the envelope what no status shows.
func (r *record) trim() {
	if r.trimmed {
		return
	}
	r.trimmed = true
	args := task.KeepArgs(r.env.Args)
	if !task.KeepsArgs(r.env.Meta) {
		args = nil
	}
	if len(args) == len(r.env.Args) && len(r.env.Unknown) == 0 && small(r.env.Headers) {
		return // nothing to gain
	}
	e := *r.env
	if len(args) == len(e.Args) {
		args = bytes.Clone(args) // it may be a part of a larger message
	}
	e.Args, e.Headers, e.Unknown = args, nil, nil
	r.env = &e
}

// small reports whether headers take less than a copy of their envelope does, as a
// trace's do.
func small(headers map[string]string) bool {
	n := 0
	for k, v := range headers {
		n += len(k) + len(v)
	}
	return n <= 512
}

// queueName is where the task is, or was.
func (r *record) queueName() string {
	if r.q != nil {
		return r.q.name
	}
	return r.env.Queue
}

// status writes the record's status to s.
func (r *record) status(s *task.Status) {
	if r.entry != nil {
		*s = ownStatus(&r.entry.Status)
		s.ExpiresAt = timeOf(r.expires)
		return
	}
	e := r.env
	*s = task.Status{
		ID: r.id, Name: e.Name, State: r.state.name(), Queue: r.queueName(),
		Priority: e.Priority, Attempt: r.attempt, MaxRetries: e.MaxRetries, Epoch: r.epoch, Starts: int(r.starts),
		Worker: r.worker, EnqueuedAt: e.EnqueuedAt, StartedAt: timeOf(r.startedAt), FinishedAt: timeOf(r.finishedAt),
		ExpiresAt: timeOf(r.expires), Args: e.Args, Result: bytes.Clone(r.result), Meta: e.Meta,
	}
	if !r.trimmed {
		s.Args = task.KeepArgs(e.Args)
	}
	s.MarkRateLimited(r.reserved)
	x := r.extra
	if x == nil {
		return
	}
	if n := len(x.errors); n > 0 {
		s.Errors = slices.Clone(x.errors)
		s.Error = &s.Errors[n-1]
	}
	if x.progress != nil {
		p := *x.progress
		s.Progress = &p
	}
	s.NotBefore, s.Reason = x.notBefore, x.reason
	s.ReplayCount, s.LastReplayAt = x.replays, x.replayedAt
}
