package httpapi

import (
	"context"
	"reflect"
	"strings"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// workerRoutes look at workers, tell them what to do, and stop queues for them.
func workerRoutes() []route {
	asked := reflect.TypeFor[Asked]()
	whom := []param{
		query("worker", "A worker's id, or a pattern with *; all unless given."),
		query("timeout", "How long replies are waited for, 60s at most; 5s unless given."),
	}
	look := func(kind, summary string) route {
		return route{
			method: "GET", path: "/v1/control/" + kind, role: Read, summary: summary, params: whom, answer: asked, waits: true,
			problems: []string{notFound, unsupported, unavailable, busy},
			handle:   func(s *Server, c *call) (any, error) { return s.lookAt(c, kind) },
		}
	}
	queue := []param{inPath("queue", "The queue.")}
	return []route{{
		method: "GET", path: "/v1/workers", role: Read, summary: "List live workers", answer: reflect.TypeFor[WorkerList](),
		problems: []string{unsupported, unavailable}, handle: (*Server).listWorkers,
	}, {
		method: "GET", path: "/v1/workers/{id}", role: Read, summary: "Show a live worker", params: []param{inPath("id", "The worker's id.")},
		answer: reflect.TypeFor[store.Heartbeat](), problems: []string{notFound, unsupported, unavailable}, handle: (*Server).getWorker,
	},
		look(stem.CommandPing, "Ask workers whether they hear"),
		look(stem.CommandInspect, "Ask workers what they hold: each reply's data is active, prefetched and unsettled tasks"),
		look(stem.CommandStats, "Ask workers for their counters: each reply's data is a heartbeat"),
		control[WorkerShutdown](stem.CommandShutdown, "Tell workers to stop"),
		control[WorkerScale](stem.CommandScale, "Change how many handlers workers run at once, as long as they live"),
		control[WorkerLogLevel](stem.CommandLogLevel, "Change from which level on workers log, as long as they live"),
		{
			method: "GET", path: "/v1/pauses", role: Read, summary: "List paused queues", answer: reflect.TypeFor[PauseList](),
			problems: []string{unavailable}, handle: (*Server).listPauses,
		}, {
			method: "POST", path: "/v1/queues/{queue}/pause", role: Operate, summary: "Stop a queue from being received, until it is resumed",
			params: queue, body: reflect.TypeFor[QueuePause](), answer: reflect.TypeFor[QueuePaused](),
			problems: []string{unsupported, unavailable}, handle: (*Server).pauseQueue,
		}, {
			method: "POST", path: "/v1/queues/{queue}/resume", role: Operate, summary: "Let a paused queue go on",
			params: queue, body: reflect.TypeFor[QueueResume](), answer: reflect.TypeFor[QueuePaused](),
			problems: []string{unsupported, unavailable}, handle: (*Server).resumeQueue,
		}, {
			method: "GET", path: "/v1/revocations", role: Read, summary: "List tasks that were told to stop and have not ended",
			params: paging(), answer: reflect.TypeFor[RevocationList](),
			problems: []string{unsupported, unavailable}, handle: (*Server).listRevocations,
		}}
}

// command is the body of a command that changes workers.
type command interface {
	// whom is the workers and the time, and args the command's own part; or what
	// is wrong with it.
	whom() (worker string, wait Duration)
	args() (any, *Problem)
}

// control is the route of such a command.
func control[T any, P interface {
	*T
	command
}](kind, summary string) route {
	rt := route{
		method: "POST", path: "/v1/control/" + kind, role: Operate, summary: summary,
		body: reflect.TypeFor[T](), answer: reflect.TypeFor[Asked](), waits: true,
		problems: []string{notFound, unsupported, unavailable, busy},
		handle: func(s *Server, c *call) (any, error) {
			body := P(bodyOf[T](c))
			args, p := body.args()
			if p != nil {
				return nil, p
			}
			worker, wait := body.whom()
			if worker == "" {
				return nil, at(problem(invalidArgument, `say which workers: "*" takes all`), "worker")
			}
			if !isWorkers(worker) {
				return nil, at(problem(invalidArgument, "want a worker's id, or a pattern with *"), "worker")
			}
			if time.Duration(wait) > maxWait {
				return nil, at(problem(invalidArgument, "want %s at most", maxWait), "timeout")
			}
			return s.ask(c, worker, time.Duration(wait), kind, args)
		},
	}
	if kind == stem.CommandShutdown {
		rt.problems = append(rt.problems, confirmationMissing)
	}
	return rt
}

// isWorkers reports whether a text is a worker's id, or a pattern of such.
func isWorkers(text string) bool { return task.ValidateID(strings.ReplaceAll(text, "*", "x")) == nil }

func (b *WorkerShutdown) whom() (string, Duration) { return b.Worker, b.Timeout }
func (b *WorkerScale) whom() (string, Duration)    { return b.Worker, b.Timeout }
func (b *WorkerLogLevel) whom() (string, Duration) { return b.Worker, b.Timeout }

func (b *WorkerShutdown) args() (any, *Problem) {
	if b.Mode == "" {
		b.Mode = "warm"
	}
	if p := oneOf("mode", b.Mode, "warm", "soft", "hard"); p != nil {
		return nil, p
	}
	if !b.Confirm {
		p := problem(confirmationMissing, `set "confirm": true to stop workers`)
		p.Pointer = "/confirm"
		return nil, p
	}
	return stem.ShutdownArgs{Mode: b.Mode}, nil
}

// maxScale is how many handlers at once a worker may be told to run.
const maxScale = 100_000

func (b *WorkerScale) args() (any, *Problem) {
	if b.Concurrency < 1 || b.Concurrency > maxScale {
		return nil, at(problem(invalidArgument, "want a number from 1 to %d", maxScale), "concurrency")
	}
	return stem.ScaleArgs{Concurrency: b.Concurrency}, nil
}

func (b *WorkerLogLevel) args() (any, *Problem) {
	return stem.LogLevelArgs{Level: b.Level}, oneOf("level", b.Level, "debug", "info", "warn", "error")
}

func oneOf(field, word string, words ...string) *Problem {
	for _, w := range words {
		if w == word {
			return nil
		}
	}
	return at(problem(invalidArgument, "want one of %s", strings.Join(words, ", ")), field)
}

// lookAt asks workers what changes nothing.
func (s *Server) lookAt(c *call, kind string) (any, error) {
	worker, ok := c.query["worker"]
	if !ok {
		worker = "*"
	}
	if !isWorkers(worker) {
		return nil, wrong("worker", "want a worker's id, or a pattern with *")
	}
	wait, p := c.duration("timeout", stem.DefaultAskTime, maxWait)
	if p != nil {
		return nil, p
	}
	return s.ask(c, worker, wait, kind, nil)
}

// ask sends a command to workers, of which there is one at least, and tells what
// they replied.
func (s *Server) ask(c *call, worker string, wait time.Duration, kind string, args any) (any, error) {
	answer, err := s.askAll(c, worker, wait, kind, args)
	if err != nil {
		return nil, err
	}
	if len(answer.Replies)+len(answer.Silent) == 0 {
		return nil, problem(notFound, "no live worker fits %s", worker)
	}
	if args != nil {
		s.opts.Logger.InfoContext(c.ctx(), "command to workers", "command", kind, "worker", worker,
			"count", answer.done(), "token", c.tokenName(), "request_id", c.id)
	}
	return answer, nil
}

func (s *Server) askAll(c *call, worker string, wait time.Duration, kind string, args any) (Asked, error) {
	ctx, cancel := context.WithCancel(c.ctx())
	defer cancel()
	defer context.AfterFunc(s.stop, cancel)()
	if wait > 0 {
		wait = max(wait, time.Millisecond)
	}
	asked, err := s.client.Ask(ctx, stem.AskOptions{To: worker, Wait: wait}, kind, args)
	answer := Asked{Replies: make([]WorkerReply, len(asked.Replies)), Silent: list(asked.Silent)}
	for i, r := range asked.Replies {
		answer.Replies[i] = WorkerReply{
			Worker: r.Worker, OK: r.Err == "", TookMS: float64(r.Took.Microseconds()) / 1000, Data: r.Data, Error: r.Err,
		}
	}
	return answer, err
}

// done is how many workers did what they were told.
func (a *Asked) done() int {
	n := 0
	for _, r := range a.Replies {
		if r.OK {
			n++
		}
	}
	return n
}

func (s *Server) listWorkers(c *call) (any, error) {
	beats, err := s.client.Workers(c.ctx())
	if err != nil {
		return nil, err
	}
	for i := range beats {
		beats[i] = shownBeat(beats[i])
	}
	return WorkerList{Workers: list(beats)}, nil
}

func shownBeat(h store.Heartbeat) store.Heartbeat {
	h.Queues, h.Running = list(h.Queues), list(h.Running)
	return h
}

func (s *Server) getWorker(c *call) (any, error) {
	id := c.r.PathValue("id")
	if err := task.ValidateID(id); err != nil {
		return nil, wrong("id", "%s", err)
	}
	beats, err := s.client.Workers(c.ctx())
	if err != nil {
		return nil, err
	}
	for i := range beats {
		if beats[i].Worker == id {
			return shownBeat(beats[i]), nil
		}
	}
	return nil, problem(notFound, "no live worker is called %s", id)
}

func (s *Server) listPauses(c *call) (any, error) {
	pauses, err := s.client.PausedQueues(c.ctx())
	if err != nil {
		return nil, err
	}
	return PauseList{Pauses: list(pauses)}, nil
}

func (s *Server) pauseQueue(c *call) (any, error) {
	name, body := c.r.PathValue("queue"), bodyOf[QueuePause](c)
	if err := task.ValidateQueue(name); err != nil {
		return nil, wrong("queue", "%s", err)
	}
	if len(body.Note) > broker.MaxPauseNote {
		return nil, at(problem(invalidArgument, "want %d bytes at most", broker.MaxPauseNote), "note")
	}
	if err := s.client.PauseQueues(c.ctx(), body.Note, name); err != nil {
		return nil, err
	}
	s.opts.Logger.InfoContext(c.ctx(), "queue paused", "queue", name, "token", c.tokenName(), "request_id", c.id)
	return QueuePaused{Queue: name, Paused: true, Changed: true}, nil
}

func (s *Server) resumeQueue(c *call) (any, error) {
	name := c.r.PathValue("queue")
	if err := task.ValidateQueue(name); err != nil {
		return nil, wrong("queue", "%s", err)
	}
	was, err := s.client.ResumeQueues(c.ctx(), name)
	if err != nil {
		return nil, err
	}
	changed := len(was) == 1 && was[0]
	if changed {
		s.opts.Logger.InfoContext(c.ctx(), "queue resumed", "queue", name, "token", c.tokenName(), "request_id", c.id)
	}
	return QueuePaused{Queue: name, Changed: changed}, nil
}

func (s *Server) listRevocations(c *call) (any, error) {
	limit, cursor, p := c.page()
	if p != nil {
		return nil, p
	}
	pending, next, err := s.client.PendingRevocations(c.ctx(), broker.Page{Limit: limit, Cursor: cursor})
	if err != nil {
		return nil, err
	}
	return RevocationList{Revocations: list(pending), Cursor: next}, nil
}
