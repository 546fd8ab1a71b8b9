package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/encode"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// Problem is an error as the API answers it (RFC 9457). Its Type is stable and
// what callers branch on; docs/api.md lists them all.
type Problem struct {
	Type      string       `json:"type" doc:"What went wrong: a stable relative URI."`
	Title     string       `json:"title" doc:"The type in words."`
	Status    int          `json:"status" doc:"The HTTP status."`
	Detail    string       `json:"detail,omitempty" doc:"What went wrong this time."`
	Pointer   string       `json:"pointer,omitempty" doc:"JSON pointer to the part of the body that is wrong."`
	Parameter string       `json:"parameter,omitempty" doc:"The query or path parameter, or the header, that is wrong."`
	ID        string       `json:"id,omitempty" doc:"The task concerned."`
	Task      *stem.Status `json:"task,omitempty" doc:"The task that has the id already."`
	RequestID string       `json:"requestId,omitempty" doc:"The request, as in the server's log."`

	retryAfter string // seconds
	allow      string
	cause      error // for the log
}

// Error is the problem in one line.
func (p *Problem) Error() string {
	switch {
	case p.Detail == "":
		return p.Title
	case p.Pointer != "":
		return p.Pointer + ": " + p.Detail
	}
	return p.Detail
}

// kind is one type of problem: its last path segment, status and title.
type kind struct {
	slug   string
	status int
	title  string
}

// problemPath is what the types of problems begin with.
const problemPath = "/problems/"

// The types of problems. kinds lists them for the documentation.
const (
	invalidArgument     = "invalid-argument"
	malformedJSON       = "malformed-json"
	unknownField        = "unknown-field"
	duplicateField      = "duplicate-field"
	unknownParameter    = "unknown-parameter"
	unauthenticated     = "unauthenticated"
	forbidden           = "forbidden"
	hostRefused         = "host-refused"
	crossOrigin         = "cross-origin"
	notFound            = "not-found"
	methodNotAllowed    = "method-not-allowed"
	requestTimeout      = "request-timeout"
	taskExists          = "task-exists"
	leaseLost           = "lease-lost"
	conflict            = "conflict"
	requestIDReused     = "request-id-reused"
	tooLarge            = "too-large"
	mediaType           = "unsupported-media-type"
	confirmationMissing = "confirmation-missing"
	queueFull           = "queue-full"
	internalError       = "internal"
	unsupported         = "unsupported"
	unavailable         = "unavailable"
	outcomeUnknown      = "outcome-unknown"
	busy                = "busy"
)

func kinds() []kind {
	return []kind{
		{invalidArgument, 400, "A value breaks a rule"},
		{malformedJSON, 400, "The body is not JSON as it should be"},
		{unknownField, 400, "The body has a field that is not known here"},
		{duplicateField, 400, "The body has a field twice"},
		{unknownParameter, 400, "The query has a parameter that is not known here, or twice"},
		{confirmationMissing, 400, "What destroys wants \"confirm\": true, or \"dryRun\": true"},
		{unauthenticated, 401, "No valid token was given"},
		{forbidden, 403, "The token lacks the role"},
		{crossOrigin, 403, "Another site's page sent this request"},
		{notFound, 404, "There is no such thing"},
		{methodNotAllowed, 405, "The path does not take this method"},
		{requestTimeout, 408, "The body did not arrive in time"},
		{taskExists, 409, "A task with this id exists"},
		{conflict, 409, "It was changed by somebody else"},
		{leaseLost, 409, "The lease passed to another worker, or the task is settled"},
		{requestIDReused, 409, "The requestId was used for another request"},
		{tooLarge, 413, "The body or the task is too large"},
		{mediaType, 415, "The body must be application/json"},
		{hostRefused, 421, "This server does not answer to that host name"},
		{queueFull, 429, "The queue accepts no more"},
		{internalError, 500, "The server failed"},
		{unsupported, 501, "The store lacks this ability"},
		{unavailable, 503, "The store cannot be reached just now"},
		{outcomeUnknown, 503, "The store did not answer: it may or may not have happened"},
		{busy, 503, "The server has no room for more waiting clients, or is stopping"},
	}
}

func kindOf(slug string) kind {
	for _, k := range kinds() {
		if k.slug == slug {
			return k
		}
	}
	return kind{internalError, 500, "The server failed"}
}

func problem(slug, format string, args ...any) *Problem {
	k := kindOf(slug)
	p := &Problem{Type: problemPath + k.slug, Title: k.title, Status: k.status, Detail: fmt.Sprintf(format, args...)}
	if k.status == http.StatusServiceUnavailable || k.status == http.StatusTooManyRequests {
		p.retryAfter = "1"
	}
	return p
}

// wrong is the problem of a wrong parameter or header.
func wrong(parameter, format string, args ...any) *Problem {
	p := problem(invalidArgument, format, args...)
	p.Parameter = parameter
	return p
}

// problemOf turns any error of a handler into its problem.
func problemOf(err error) *Problem {
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	var exists *stem.TaskExistsError
	slug := internalError
	switch {
	case errors.As(err, &exists):
		p := problem(taskExists, "%s", err)
		p.ID, p.Task = exists.ID, exists.Status
		return p
	case errors.Is(err, stem.ErrQueueFull):
		slug = queueFull
	case errors.Is(err, task.ErrTooLarge):
		slug = tooLarge
	case errors.Is(err, task.ErrInvalid), errors.Is(err, encode.ErrUnknown):
		slug = invalidArgument
	case errors.Is(err, store.ErrConflict):
		slug = conflict
	case errors.Is(err, store.ErrNotFound), errors.Is(err, broker.ErrNotFound), errors.Is(err, store.ErrNoSchedule):
		slug = notFound
	case errors.Is(err, broker.ErrLeaseLost):
		slug = leaseLost
	case errors.Is(err, broker.ErrUnsupported):
		slug = unsupported
	case errors.Is(err, stem.ErrOutcomeUnknown):
		slug = outcomeUnknown
	case errors.Is(err, broker.ErrUnavailable), errors.Is(err, broker.ErrClosed),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		slug = unavailable
	}
	if p = problem(slug, "%s", err); slug == internalError || slug == outcomeUnknown || slug == unavailable {
		p.cause = err
		if p.Detail = "the server's log says more under this request's id"; slug == outcomeUnknown {
			p.Detail = "the store did not answer; to repeat with the same id or Idempotency-Key is safe"
		}
	}
	return p
}
