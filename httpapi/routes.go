package httpapi

import (
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/stemjobs/stem"
)

// route is one row of the table that the mux, the checks, the OpenAPI document
// and the tests are made of.
type route struct {
	method, path string
	role         Role // "": any token
	summary      string
	params       []param
	body         reflect.Type // nil: none is read
	batch        bool         // the body may be as large as a batch's
	answer       reflect.Type
	status       int            // of an answer
	also         map[int]string // other statuses with an answer
	waits        bool           // it waits or streams
	stream       bool           // it answers with server-sent events
	problems     []string       // beside those that every route has
	handle       func(*Server, *call) (any, error)

	shape *shape
}

// param is a parameter of a route.
type param struct {
	name, in, doc string // in: path, query or header
	kind          string // "": string; integer; boolean
}

func query(name, doc string) param { return param{name: name, in: "query", doc: doc} }
func integer(name, doc string) param {
	return param{name: name, in: "query", doc: doc, kind: "integer"}
}
func inPath(name, doc string) param { return param{name: name, in: "path", doc: doc} }
func header(name, doc string) param { return param{name: name, in: "header", doc: doc} }

// routes is the table.
func routes() []route {
	return slices.Concat(taskRoutes(), operateRoutes(), workerRoutes(), rateRoutes(), scheduleRoutes(), auditRoutes(), pullRoutes(), []route{{
		method: "GET", path: "/openapi.json", summary: "This document",
		answer: reflect.TypeFor[json.RawMessage](),
		handle: func(s *Server, _ *call) (any, error) { return json.RawMessage(s.spec), nil },
	}})
}

func taskRoutes() []route {
	id := inPath("id", "The task's id.")
	status := reflect.TypeFor[stem.Status]()
	key := header("Idempotency-Key", "A repeat with this key, within 24 hours, stores nothing and gets the first task's id.")
	traced := []param{key, header("traceparent", "The trace that the task goes on in, as W3C Trace Context has it, with tracestate beside it.")}
	return []route{{
		method: "POST", path: "/v1/tasks", role: Enqueue, summary: "Enqueue a task", params: traced,
		body: reflect.TypeFor[NewTask](), answer: reflect.TypeFor[Enqueued](), status: 201,
		also:     map[int]string{200: "An earlier task holds the idempotency key."},
		problems: []string{taskExists, queueFull, outcomeUnknown, unavailable}, handle: (*Server).postTask,
	}, {
		method: "POST", path: "/v1/tasks/batch", role: Enqueue, summary: "Enqueue many tasks, each with its own outcome",
		params: traced, body: reflect.TypeFor[NewTasks](), batch: true, answer: reflect.TypeFor[EnqueuedMany](),
		problems: []string{outcomeUnknown, unavailable}, handle: (*Server).postBatch,
	}, {
		method: "GET", path: "/v1/tasks", role: Read, summary: "List tasks", answer: reflect.TypeFor[TaskList](),
		params: append([]param{
			query("q", "The query language of the command line: state:failed name:email.* since:2h. Not with its single words."),
			query("state", "States, with commas in between."), query("name", "A task name, or a pattern with *."),
			query("queue", "A name, or a pattern with *."), query("worker", "The worker's id."),
			query("reason", "Of failed and cancelled tasks."), query("error", "A part of the error's type or message."),
			query("args", "A part of the kept arguments."),
			query("since", "Enqueued since: RFC 3339, or a duration ago such as 2h."),
			query("until", "Enqueued before: RFC 3339, or a duration ago such as 2h."),
		}, paging()...),
		problems: []string{unsupported, unavailable}, handle: (*Server).listTasks,
	}, {
		method: "GET", path: "/v1/tasks/{id}", role: Read, summary: "Show a task", params: []param{id}, answer: status,
		problems: []string{notFound, unsupported, unavailable}, handle: (*Server).getTask,
	}, {
		method: "GET", path: "/v1/tasks/{id}/wait", role: Read, summary: "Wait for a task's end", answer: status, waits: true,
		params:   []param{id, query("timeout", "How long, 60s at most; 30s unless given.")},
		also:     map[int]string{202: "The time is over and the task has not ended: as it is now."},
		problems: []string{notFound, unsupported, unavailable, busy}, handle: (*Server).waitTask,
	}, {
		method: "GET", path: "/v1/tasks/{id}/events", role: Read, summary: "Follow a task until its end (server-sent events)",
		params: []param{id, header("Last-Event-ID", "The last event seen: it is not sent again.")},
		answer: status, waits: true, stream: true,
		also:     map[int]string{204: "The last event seen was the end."},
		problems: []string{notFound, unsupported, unavailable, busy}, handle: (*Server).taskEvents,
	}, {
		method: "POST", path: "/v1/tasks/{id}/revoke", role: Operate, summary: "Revoke a task", params: []param{id},
		body: reflect.TypeFor[RevokeRequest](), answer: reflect.TypeFor[Revoked](),
		problems: []string{notFound, unsupported, unavailable}, handle: (*Server).revokeTask,
	}}
}

func paging() []param {
	return []param{integer("limit", "How many, 1000 at most; 50 unless given."), query("cursor", "Of the page before.")}
}

func operateRoutes() []route {
	return []route{{
		method: "GET", path: "/v1/queues", role: Read, summary: "List queues", answer: reflect.TypeFor[QueueList](),
		params:   []param{query("name", "Names, with commas in between; all that hold anything unless given.")},
		problems: []string{unavailable}, handle: (*Server).listQueues,
	}, {
		method: "POST", path: "/v1/queues/{queue}/purge", role: Operate, summary: "Cancel every task that waits in a queue",
		params: []param{inPath("queue", "The queue.")}, body: reflect.TypeFor[QueuePurge](), answer: reflect.TypeFor[Changed](),
		problems: []string{confirmationMissing, unavailable}, handle: (*Server).purgeQueue,
	}, {
		method: "GET", path: "/v1/deadletters", role: Read, summary: "List dead letters", answer: reflect.TypeFor[DeadList](),
		params: append([]param{
			query("queue", "A name, or a pattern with *."), query("task", "A task name, or a pattern with *."),
			query("reason", "Such as retries-exhausted."), query("before", "Dead since before: RFC 3339, or a duration ago such as 24h."),
		}, paging()...),
		problems: []string{unavailable}, handle: (*Server).listDead,
	}, {
		method: "GET", path: "/v1/deadletters/{id}", role: Read, summary: "Show a dead letter with its envelope",
		params: []param{inPath("id", "The task's id.")}, answer: reflect.TypeFor[DeadLetter](),
		problems: []string{notFound, unavailable}, handle: (*Server).getDead,
	}, {
		method: "POST", path: "/v1/deadletters/replay", role: Operate, summary: "Put dead letters back into their queues",
		body: reflect.TypeFor[DeadReplay](), answer: reflect.TypeFor[Changed](),
		problems: []string{unavailable}, handle: (*Server).replayDead,
	}, {
		method: "POST", path: "/v1/deadletters/purge", role: Operate, summary: "Remove dead letters for good",
		body: reflect.TypeFor[DeadPurge](), answer: reflect.TypeFor[Changed](),
		problems: []string{confirmationMissing, unavailable}, handle: (*Server).purgeDead,
	}, {
		method: "GET", path: "/v1/scale", role: Read, summary: "The number for an autoscaler", answer: reflect.TypeFor[Scale](),
		params:   []param{query("queue", "The queue; required.")},
		problems: []string{unavailable}, handle: (*Server).scale,
	}}
}

func pullRoutes() []route {
	return []route{{
		method: "POST", path: "/v1/lease", role: Work, summary: "Take tasks to execute", waits: true,
		body: reflect.TypeFor[LeaseRequest](), answer: reflect.TypeFor[LeaseAnswer](),
		problems: []string{requestIDReused, unavailable, busy}, handle: (*Server).lease,
	}, {
		method: "POST", path: "/v1/extend", role: Work, summary: "Keep leases, and report progress", batch: true,
		body: reflect.TypeFor[ExtendRequest](), answer: reflect.TypeFor[ExtendAnswer](),
		problems: []string{requestIDReused, unavailable}, handle: (*Server).extend,
	}, {
		method: "POST", path: "/v1/settle", role: Work, summary: "End leased tasks", batch: true,
		body: reflect.TypeFor[SettleRequest](), answer: reflect.TypeFor[SettleAnswer](),
		problems: []string{requestIDReused, unavailable}, handle: (*Server).settle,
	}}
}

// buildRoutes makes the mux and the document.
func (s *Server) buildRoutes() error {
	table := routes()
	s.mux = http.NewServeMux()
	known := map[reflect.Type]*shape{}
	methods := map[string][]string{}
	for i := range table {
		rt := &table[i]
		if rt.status == 0 {
			rt.status = http.StatusOK
		}
		if rt.body != nil {
			rt.shape = shapeOf(rt.body, known)
		}
		s.handlePattern(rt.method+" "+rt.path, func(c *call) { s.serve(c, rt) })
		methods[rt.path] = append(methods[rt.path], rt.method)
	}
	paths := http.NewServeMux() // without methods
	for path, allowed := range methods {
		if slices.Contains(allowed, "GET") {
			methods[path] = append(allowed, "HEAD")
		}
		slices.Sort(methods[path])
		paths.HandleFunc(path, http.NotFound)
	}
	s.handlePattern("/", func(c *call) {
		if _, path := paths.Handler(c.r); path != "" {
			allow := strings.Join(methods[path], ", ")
			p := problem(methodNotAllowed, "this path takes %s", allow)
			p.allow = allow
			c.fail(p)
			return
		}
		c.fail(problem(notFound, "no such path; /openapi.json lists those there are"))
	})
	var err error
	s.spec, err = document(table)
	return err
}

func (s *Server) handlePattern(pattern string, handle func(*call)) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		if c, ok := w.(*call); ok {
			c.r = r // with the path's values
			handle(c)
		}
	})
}
