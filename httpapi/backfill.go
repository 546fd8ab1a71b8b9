package httpapi

import (
	"reflect"
	"time"

	"github.com/stemjobs/stem/beat"
)

func backfillRoute(id param) route {
	return route{
		method: "POST", path: "/v1/schedules/{id}/backfill", role: Operate, summary: "Enqueue the tasks of moments that have passed",
		params: []param{id}, body: reflect.TypeFor[ScheduleBackfill](), answer: reflect.TypeFor[ScheduleBackfilled](),
		problems: []string{notFound, confirmationMissing, outcomeUnknown, unsupported, unavailable}, handle: (*Server).backfillSchedule,
	}
}

func (s *Server) backfillSchedule(c *call) (any, error) {
	b, err := s.book()
	if err != nil {
		return nil, err
	}
	id, body := c.r.PathValue("id"), bodyOf[ScheduleBackfill](c)
	if p := confirmed(body.Confirm, body.DryRun); p != nil {
		return nil, p
	}
	if body.From.IsZero() {
		return nil, at(problem(invalidArgument, "say from which moment on"), "from")
	}
	if body.To.IsZero() {
		if body.To, err = b.Now(c.ctx()); err != nil {
			return nil, err
		}
	}
	by := "the API"
	if name := c.tokenName(); name != "" {
		by += ", " + name
	}
	done, err := b.Backfill(c.ctx(), id, by, body.From, body.To, body.DryRun)
	if err != nil {
		return nil, scheduleProblem(err, "")
	}
	answer := ScheduleBackfilled{Moments: make([]BackfilledMoment, len(done)), DryRun: body.DryRun}
	for i := range done {
		answer.Moments[i] = backfilled(&done[i], body.DryRun)
	}
	if !body.DryRun {
		s.logSchedule(c, "schedule backfilled", id)
	}
	return answer, nil
}

func backfilled(m *beat.Backfilled, preview bool) BackfilledMoment {
	out := BackfilledMoment{Due: m.Due.Round(time.Millisecond), Task: m.Task, State: "enqueued"}
	switch {
	case preview:
		out.State = "preview"
	case m.Err != nil:
		out.State, out.Error = "failed", problemOf(m.Err).Error()
	case m.Known:
		out.State = "known"
	}
	return out
}

// count is how many tasks a backfill enqueued, and whether it may have changed
// anything.
func (b *ScheduleBackfilled) count() (n int, changed bool) {
	for _, m := range b.Moments {
		switch m.State {
		case "enqueued":
			n++
		case "failed":
			changed = true // perhaps
		}
	}
	return n, changed || n > 0
}
