package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/beat"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// read is a GET of a path with those parameters; those that are "" are left out.
func read[T any](ctx context.Context, c *Client, path string, params ...string) (T, error) {
	q := url.Values{}
	for i := 0; i+1 < len(params); i += 2 {
		if params[i+1] != "" {
			q.Set(params[i], params[i+1])
		}
	}
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	var answer T
	_, err := c.do(ctx, http.MethodGet, path, nil, &answer)
	return answer, err
}

// send is a request with a body; nil: without one.
func send[T any](ctx context.Context, c *Client, method, path string, body any) (T, error) {
	var answer T
	var raw []byte
	if body != nil {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			return answer, fmt.Errorf("encode the request: %w", err)
		}
	}
	_, err := c.do(ctx, method, path, raw, &answer)
	return answer, err
}

// during says what an error is of.
func during(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), err)
}

func number(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

func instant(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// Workers lists the live workers, as stem.Client.Workers does.
func (c *Client) Workers(ctx context.Context) ([]store.Heartbeat, error) {
	l, err := read[WorkerList](ctx, c, "/v1/workers")
	return l.Workers, during(err, "list workers")
}

// Worker shows a live worker, or is stem.ErrNotFound.
func (c *Client) Worker(ctx context.Context, id string) (store.Heartbeat, error) {
	h, err := read[store.Heartbeat](ctx, c, "/v1/workers/"+url.PathEscape(id))
	return h, during(err, "show worker %s", id)
}

// Ask sends a command to workers and returns what they replied; see
// stem.Client.Ask. args is what that command takes: stem.ShutdownArgs,
// stem.ScaleArgs or stem.LogLevelArgs; nil for the others. When no worker fits,
// nobody replied, and that is no error.
func (c *Client) Ask(ctx context.Context, o stem.AskOptions, kind string, args any) (stem.Asked, error) {
	if o.To == "" {
		o.To = "*"
	}
	if o.Wait == 0 {
		o.Wait = stem.DefaultAskTime
	}
	var answer Asked
	var err error
	switch a := args.(type) {
	case nil:
		answer, err = read[Asked](ctx, c, "/v1/control/"+url.PathEscape(kind), "worker", o.To, "timeout", o.Wait.String())
	case stem.ShutdownArgs:
		answer, err = send[Asked](ctx, c, http.MethodPost, "/v1/control/shutdown",
			WorkerShutdown{Worker: o.To, Mode: a.Mode, Confirm: true, Timeout: Duration(o.Wait)})
	case stem.ScaleArgs:
		answer, err = send[Asked](ctx, c, http.MethodPost, "/v1/control/scale",
			WorkerScale{Worker: o.To, Concurrency: a.Concurrency, Timeout: Duration(o.Wait)})
	case stem.LogLevelArgs:
		answer, err = send[Asked](ctx, c, http.MethodPost, "/v1/control/log-level",
			WorkerLogLevel{Worker: o.To, Level: a.Level, Timeout: Duration(o.Wait)})
	default:
		err = fmt.Errorf("%w arguments %T of a command", task.ErrInvalid, args)
	}
	var p *Problem
	if errors.As(err, &p) && p.Type == problemPath+notFound {
		return stem.Asked{}, nil
	}
	out := stem.Asked{Silent: answer.Silent, Replies: make([]stem.WorkerReply, len(answer.Replies))}
	for i, r := range answer.Replies {
		out.Replies[i] = stem.WorkerReply{
			Worker: r.Worker, Took: time.Duration(r.TookMS * float64(time.Millisecond)), Data: r.Data, Err: r.Error,
		}
	}
	return out, during(err, "ask workers")
}

// Revoke asks that a task never starts, or stops. The answer's State is
// cancelled, asked or too-late; a task that nobody knows is stem.ErrNotFound.
func (c *Client) Revoke(ctx context.Context, id string, r RevokeRequest) (Revoked, error) {
	answer, err := send[Revoked](ctx, c, http.MethodPost, "/v1/tasks/"+url.PathEscape(id)+"/revoke", r)
	return answer, during(err, "revoke task %s", id)
}

// PendingRevocations returns a page of the tasks that were told to stop and have
// not ended, and the cursor of the next; "" after the last.
func (c *Client) PendingRevocations(ctx context.Context, p broker.Page) ([]broker.PendingRevocation, string, error) {
	l, err := read[RevocationList](ctx, c, "/v1/revocations", "limit", number(p.Limit), "cursor", p.Cursor)
	return l.Revocations, l.Cursor, during(err, "list revocations")
}

// PauseQueue stops a queue from being received, by any worker, until
// ResumeQueue. note says why.
func (c *Client) PauseQueue(ctx context.Context, queue, note string) error {
	_, err := send[QueuePaused](ctx, c, http.MethodPost, "/v1/queues/"+url.PathEscape(queue)+"/pause", QueuePause{Note: note})
	return during(err, "pause queue %s", queue)
}

// ResumeQueue lets a paused queue go on, and says whether it was paused.
func (c *Client) ResumeQueue(ctx context.Context, queue string) (bool, error) {
	q, err := send[QueuePaused](ctx, c, http.MethodPost, "/v1/queues/"+url.PathEscape(queue)+"/resume", QueueResume{})
	return q.Changed, during(err, "resume queue %s", queue)
}

// PausedQueues lists the paused queues, by name.
func (c *Client) PausedQueues(ctx context.Context) ([]broker.Pause, error) {
	l, err := read[PauseList](ctx, c, "/v1/pauses")
	return l.Pauses, during(err, "list paused queues")
}

// ratePath is the path of a task's changed rate limit.
func ratePath(name string) string { return "/v1/rates/" + url.PathEscape(name) }

// ChangeRate gives a task another rate limit than it is declared with, as
// stem.Client.ChangeRates does, and tells workers, for whose replies the server
// waits so long; 0: 5 s.
func (c *Client) ChangeRate(ctx context.Context, r stem.RateChange, wait time.Duration) (RateChanged, error) {
	a, err := send[RateChanged](ctx, c, http.MethodPut, ratePath(r.Task),
		RateSet{Rate: r.Rate, Burst: r.Burst, Note: r.Note, Timeout: Duration(wait)})
	return a, during(err, "change rate of %s", r.Task)
}

// ResetRate gives a task the rate limit again that it is declared with, and
// tells workers, for whose replies the server waits so long; 0: 5 s.
func (c *Client) ResetRate(ctx context.Context, name string, wait time.Duration) (RateChanged, error) {
	path := ratePath(name)
	if wait > 0 {
		path += "?timeout=" + wait.String()
	}
	a, err := send[RateChanged](ctx, c, http.MethodDelete, path, nil)
	return a, during(err, "reset rate of %s", name)
}

// RateChanges lists the rate limits that were changed, by task.
func (c *Client) RateChanges(ctx context.Context) ([]stem.RateChange, error) {
	l, err := read[RateList](ctx, c, "/v1/rates")
	return l.Rates, during(err, "list changed rates")
}

// Audit lists who changed what, newest first, and the cursor of the next page;
// "" after the last.
func (c *Client) Audit(ctx context.Context, q store.AuditQuery) ([]store.Action, string, error) {
	l, err := read[AuditList](ctx, c, "/v1/audit", "who", q.Who, "via", q.Via, "what", q.What, "on", q.On,
		"since", instant(q.Since), "until", instant(q.Until), "limit", number(q.Limit), "cursor", q.Cursor)
	return l.Actions, l.Cursor, during(err, "list the audit")
}

// schedulePath is the path of a schedule, or of what is below it.
func schedulePath(id, below string) string { return "/v1/schedules/" + url.PathEscape(id) + below }

// Schedules lists a page of schedules, and says which beat leads.
func (c *Client) Schedules(ctx context.Context, p broker.Page) (ScheduleList, error) {
	l, err := read[ScheduleList](ctx, c, "/v1/schedules", "limit", number(p.Limit), "cursor", p.Cursor)
	return l, during(err, "list schedules")
}

// Schedule shows a schedule, or is stem.ErrNotFound.
func (c *Client) Schedule(ctx context.Context, id string) (beat.View, error) {
	v, err := read[beat.View](ctx, c, schedulePath(id, ""))
	return v, during(err, "show schedule %s", id)
}

// PutSchedule creates the schedule e.ID, or changes it. An e.Version that is not
// the stored one is store.ErrConflict.
func (c *Client) PutSchedule(ctx context.Context, e ScheduleEntry) (beat.View, error) {
	v, err := send[beat.View](ctx, c, http.MethodPut, schedulePath(e.ID, ""), e)
	return v, during(err, "put schedule %s", e.ID)
}

// ApplySchedules makes many schedules what they are to be, all or nothing, and
// tells what it changed; or, with DryRun, would.
func (c *Client) ApplySchedules(ctx context.Context, a ScheduleApply) (beat.PlanView, error) {
	v, err := send[beat.PlanView](ctx, c, http.MethodPost, "/v1/schedules/apply", a)
	return v, during(err, "apply %d schedules", len(a.Schedules))
}

// DeleteSchedule removes a schedule with its history. A version that is not the
// stored one is store.ErrConflict; 0: whichever.
func (c *Client) DeleteSchedule(ctx context.Context, id string, version int64) error {
	path := schedulePath(id, "")
	if version != 0 {
		path += "?version=" + strconv.FormatInt(version, 10)
	}
	_, err := send[Changed](ctx, c, http.MethodDelete, path, nil)
	return during(err, "delete schedule %s", id)
}

// EnableSchedule makes a schedule fire from now on.
func (c *Client) EnableSchedule(ctx context.Context, id string, ch ScheduleChange) (beat.View, error) {
	return c.changeSchedule(ctx, id, "enable", ch)
}

// DisableSchedule stops a schedule until it is enabled.
func (c *Client) DisableSchedule(ctx context.Context, id string, ch ScheduleChange) (beat.View, error) {
	return c.changeSchedule(ctx, id, "disable", ch)
}

// PauseSchedule stops a schedule for a while, with a note.
func (c *Client) PauseSchedule(ctx context.Context, id string, ch ScheduleChange) (beat.View, error) {
	return c.changeSchedule(ctx, id, "pause", ch)
}

// ResumeSchedule ends a pause.
func (c *Client) ResumeSchedule(ctx context.Context, id string, ch ScheduleChange) (beat.View, error) {
	return c.changeSchedule(ctx, id, "resume", ch)
}

func (c *Client) changeSchedule(ctx context.Context, id, verb string, ch ScheduleChange) (beat.View, error) {
	v, err := send[beat.View](ctx, c, http.MethodPost, schedulePath(id, "/"+verb), ch)
	return v, during(err, "%s schedule %s", verb, id)
}

// RunSchedule enqueues a schedule's task now, and returns the task's id. After
// stem.ErrOutcomeUnknown a repeat may enqueue it twice.
func (c *Client) RunSchedule(ctx context.Context, id string) (string, error) {
	r, err := send[ScheduleRan](ctx, c, http.MethodPost, schedulePath(id, "/run"), ScheduleRun{})
	return r.Task, during(err, "run schedule %s", id)
}

// BackfillSchedule enqueues the tasks of moments that have passed, each once, or
// with DryRun shows which; see beat.Book.Backfill. To repeat is safe.
func (c *Client) BackfillSchedule(ctx context.Context, id string, b ScheduleBackfill) (ScheduleBackfilled, error) {
	m, err := send[ScheduleBackfilled](ctx, c, http.MethodPost, schedulePath(id, "/backfill"), b)
	return m, during(err, "backfill schedule %s", id)
}

// ScheduleHistory shows what became of a schedule's newest moments; limit 0: 100.
func (c *Client) ScheduleHistory(ctx context.Context, id string, limit int) (ScheduleHistory, error) {
	h, err := read[ScheduleHistory](ctx, c, schedulePath(id, "/history"), "limit", number(limit))
	return h, during(err, "show the history of schedule %s", id)
}

// ScheduleNext shows when a schedule fires next; count 0: 5.
func (c *Client) ScheduleNext(ctx context.Context, id string, count int) (ScheduleMoments, error) {
	m, err := read[ScheduleMoments](ctx, c, schedulePath(id, "/next"), "count", number(count))
	return m, during(err, "show the moments of schedule %s", id)
}
