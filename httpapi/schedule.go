package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/stemjobs/stem/beat"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
)

func scheduleRoutes() []route {
	id := inPath("id", "The schedule's id.")
	shown, change := reflect.TypeFor[beat.View](), reflect.TypeFor[ScheduleChange]()
	edit := func(verb, summary string, handle func(*Server, *call) (any, error)) route {
		return route{
			method: "POST", path: "/v1/schedules/{id}/" + verb, role: Operate, summary: summary, params: []param{id},
			body: change, answer: shown, problems: []string{notFound, conflict, unsupported, unavailable}, handle: handle,
		}
	}
	return []route{{
		method: "GET", path: "/v1/schedules", role: Read, summary: "List schedules", answer: reflect.TypeFor[ScheduleList](),
		params: paging(), problems: []string{unsupported, unavailable}, handle: (*Server).listSchedules,
	}, {
		method: "POST", path: "/v1/schedules/apply", role: Operate, summary: "Make many schedules what they are to be, all or nothing",
		batch: true, body: reflect.TypeFor[ScheduleApply](), answer: reflect.TypeFor[beat.PlanView](),
		problems: []string{notFound, conflict, confirmationMissing, unsupported, unavailable}, handle: (*Server).applySchedules,
	}, {
		method: "POST", path: "/v1/schedules/preview", role: Read, summary: "Show when a schedule would fire",
		body: reflect.TypeFor[SchedulePreview](), answer: reflect.TypeFor[ScheduleMoments](), handle: (*Server).previewSchedule,
	}, {
		method: "GET", path: "/v1/schedules/{id}", role: Read, summary: "Show a schedule", params: []param{id}, answer: shown,
		problems: []string{notFound, unsupported, unavailable}, handle: (*Server).getSchedule,
	}, {
		method: "PUT", path: "/v1/schedules/{id}", role: Operate, summary: "Create a schedule, or change it", params: []param{id},
		body: reflect.TypeFor[ScheduleEntry](), answer: shown,
		problems: []string{notFound, conflict, unsupported, unavailable}, handle: (*Server).putSchedule,
	}, {
		method: "DELETE", path: "/v1/schedules/{id}", role: Operate, summary: "Remove a schedule with its history",
		params: []param{id, integer("version", "That it must be at: another is a conflict.")}, answer: reflect.TypeFor[Changed](),
		problems: []string{notFound, conflict, unsupported, unavailable}, handle: (*Server).deleteSchedule,
	}, {
		method: "GET", path: "/v1/schedules/{id}/history", role: Read, summary: "Show what became of a schedule's newest moments",
		params: []param{id, integer("limit", "How many, 100 at most; 100 unless given.")}, answer: reflect.TypeFor[ScheduleHistory](),
		problems: []string{notFound, unsupported, unavailable}, handle: (*Server).scheduleHistory,
	}, {
		method: "GET", path: "/v1/schedules/{id}/next", role: Read, summary: "Show when a schedule fires next",
		params: []param{id, integer("count", "How many, 1000 at most; 5 unless given.")}, answer: reflect.TypeFor[ScheduleMoments](),
		problems: []string{notFound, unsupported, unavailable}, handle: (*Server).scheduleNext,
	},
		edit("enable", "Make a schedule fire from now on", (*Server).enableSchedule),
		edit("disable", "Stop a schedule until it is enabled", (*Server).disableSchedule),
		edit("pause", "Stop a schedule for a while, with a note", (*Server).pauseSchedule),
		edit("resume", "End a pause", (*Server).resumeSchedule),
		{
			method: "POST", path: "/v1/schedules/{id}/run", role: Operate, summary: "Enqueue a schedule's task now",
			params: []param{id}, body: reflect.TypeFor[ScheduleRun](), answer: reflect.TypeFor[ScheduleRan](),
			problems: []string{notFound, queueFull, outcomeUnknown, unsupported, unavailable}, handle: (*Server).runSchedule,
		}, backfillRoute(id)}
}

// book is the schedules that the server has, or the problem that it has none.
func (s *Server) book() (*beat.Book, error) {
	if s.opts.Schedules == nil {
		return nil, problem(unsupported, "this server's store keeps no schedules")
	}
	return s.opts.Schedules, nil
}

// scheduleProblem points to the field that an error is of.
func scheduleProblem(err error, within string) error {
	var field *beat.FieldError
	if !errors.As(err, &field) {
		return err
	}
	p := problem(invalidArgument, "%s", field.Err)
	if p.Pointer = within; field.Field != "" {
		p.Pointer += "/" + strings.ReplaceAll(field.Field, ".", "/")
	}
	return p
}

// desired is the entry that a body asks for.
func (e *ScheduleEntry) desired(within string) (beat.Desired, error) {
	raw, err := json.Marshal(e)
	if err != nil {
		return beat.Desired{}, fmt.Errorf("encode a schedule: %w", err)
	}
	d, err := beat.ParseDesired(raw)
	return d, scheduleProblem(err, within)
}

func (s *Server) listSchedules(c *call) (any, error) {
	b, err := s.book()
	if err != nil {
		return nil, err
	}
	limit, cursor, p := c.page()
	if p != nil {
		return nil, p
	}
	page, next, err := b.List(c.ctx(), broker.Page{Limit: limit, Cursor: cursor})
	if err != nil {
		return nil, err
	}
	lead, err := b.Leader(c.ctx())
	if err != nil {
		return nil, err
	}
	answer := ScheduleList{Schedules: make([]beat.View, len(page)), Cursor: next, Leader: lead.Holder}
	for i := range page {
		answer.Schedules[i] = page[i].View()
	}
	return answer, nil
}

func (s *Server) getSchedule(c *call) (any, error) {
	b, err := s.book()
	if err != nil {
		return nil, err
	}
	return viewed(b.Get(c.ctx(), c.r.PathValue("id")))
}

func viewed(l beat.Listed, err error) (any, error) {
	if err != nil {
		return nil, scheduleProblem(err, "")
	}
	return l.View(), nil
}

func (s *Server) putSchedule(c *call) (any, error) {
	b, err := s.book()
	if err != nil {
		return nil, err
	}
	id, body := c.r.PathValue("id"), bodyOf[ScheduleEntry](c)
	if body.ID != "" && body.ID != id {
		p := problem(invalidArgument, "the path names another schedule")
		p.Pointer = "/id"
		return nil, p
	}
	body.ID = id
	d, err := body.desired("")
	if err != nil {
		return nil, err
	}
	if _, err := b.Apply(c.ctx(), []beat.Desired{d}, false); err != nil {
		return nil, scheduleProblem(err, "")
	}
	s.logSchedule(c, "schedule applied", id)
	return viewed(b.Get(c.ctx(), id))
}

func (s *Server) logSchedule(c *call, what, id string) {
	s.opts.Logger.InfoContext(c.ctx(), what, "schedule", id, "token", c.tokenName(), "request_id", c.id)
}

// maxApply is how many schedules one call may apply.
const maxApply = 10_000

func (s *Server) applySchedules(c *call) (any, error) {
	b, err := s.book()
	if err != nil {
		return nil, err
	}
	body := bodyOf[ScheduleApply](c)
	if len(body.Schedules) > maxApply {
		p := problem(invalidArgument, "%d schedules: want %d at most", len(body.Schedules), maxApply)
		p.Pointer = "/schedules"
		return nil, p
	}
	if p := confirmed(body.Confirm || !body.Prune, body.DryRun); p != nil {
		return nil, p
	}
	desired := make([]beat.Desired, len(body.Schedules))
	for i := range body.Schedules {
		if desired[i], err = body.Schedules[i].desired("/schedules/" + strconv.Itoa(i)); err != nil {
			return nil, err
		}
	}
	plan, err := b.Plan(c.ctx(), desired, body.Prune)
	if err != nil {
		return nil, scheduleProblem(err, "/schedules")
	}
	if !body.DryRun {
		if err := b.Commit(c.ctx(), plan); err != nil {
			return nil, err
		}
		s.opts.Logger.InfoContext(c.ctx(), "schedules applied", "created", plan.Count(beat.ActionCreate), "changed", plan.Count(beat.ActionChange),
			"deleted", plan.Count(beat.ActionDelete), "token", c.tokenName(), "request_id", c.id)
	}
	return plan.View(body.DryRun), nil
}

func (s *Server) deleteSchedule(c *call) (any, error) {
	b, err := s.book()
	if err != nil {
		return nil, err
	}
	var o beat.ChangeOptions
	if text, ok := c.query["version"]; ok {
		if o.Version, err = strconv.ParseInt(text, 10, 64); err != nil || o.Version < 1 {
			return nil, wrong("version", "want a number of 1 or more")
		}
	}
	id := c.r.PathValue("id")
	if err := b.Delete(c.ctx(), id, o); err != nil {
		return nil, err
	}
	s.logSchedule(c, "schedule deleted", id)
	return Changed{Count: 1, IDs: []string{id}}, nil
}

func (s *Server) scheduleHistory(c *call) (any, error) {
	b, err := s.book()
	if err != nil {
		return nil, err
	}
	limit, p := c.count("limit", store.MaxHistory, store.MaxHistory)
	if p != nil {
		return nil, p
	}
	records, err := b.History(c.ctx(), c.r.PathValue("id"), limit)
	if err != nil {
		return nil, err
	}
	return ScheduleHistory{History: beat.ViewRecords(records)}, nil
}

// count is a query parameter: how many.
func (c *call) count(name string, other, most int) (int, *Problem) {
	text, ok := c.query[name]
	if !ok {
		return other, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		return 0, wrong(name, "want a number from 1 to %d", most)
	}
	return n, nil
}

// maxMoments is how many moments to come are told at once.
const maxMoments = 1000

func (s *Server) scheduleNext(c *call) (any, error) {
	b, err := s.book()
	if err != nil {
		return nil, err
	}
	n, p := c.count("count", 5, maxMoments)
	if p != nil {
		return nil, p
	}
	l, err := b.Get(c.ctx(), c.r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	now, err := b.Now(c.ctx())
	if err != nil {
		return nil, err
	}
	return momentsOf(&l.Entry, now, n)
}

func (s *Server) previewSchedule(c *call) (any, error) {
	body := bodyOf[SchedulePreview](c)
	e := ScheduleEntry{ID: body.ID, Task: "preview", Spec: body.Spec, Jitter: body.Jitter, StartAt: body.StartAt, EndAt: body.EndAt}
	if e.ID == "" {
		e.ID = "preview"
	}
	d, err := e.desired("")
	if err != nil {
		return nil, err
	}
	after, n := body.After, body.Count
	if after.IsZero() {
		after = time.Now()
	}
	if n == 0 {
		n = 5
	}
	if n < 1 || n > maxMoments {
		p := problem(invalidArgument, "want a number from 1 to %d", maxMoments)
		p.Pointer = "/count"
		return nil, p
	}
	return momentsOf(&d.Entry, after, n)
}

func momentsOf(e *beat.Entry, after time.Time, n int) (any, error) {
	moments, err := e.Next(after, n)
	if err != nil {
		return nil, scheduleProblem(err, "")
	}
	answer := ScheduleMoments{Moments: make([]ScheduleMoment, len(moments))}
	if answer.When, err = e.Describe(); err != nil {
		return nil, scheduleProblem(err, "")
	}
	for i, m := range moments {
		answer.Moments[i] = ScheduleMoment{
			Due: m.Due, Zone: m.Due.Location().String(), Fires: m.Fires,
			JitterMS: float64(m.Fires.Sub(m.Due).Microseconds()) / 1000,
		}
	}
	return answer, nil
}

// editSchedule changes one schedule.
func (s *Server) editSchedule(c *call, what string, edit func(b *beat.Book, id string, o beat.ChangeOptions) (beat.Listed, error)) (any, error) {
	b, err := s.book()
	if err != nil {
		return nil, err
	}
	body, id := bodyOf[ScheduleChange](c), c.r.PathValue("id")
	if body.Version < 0 {
		p := problem(invalidArgument, "want a number of 1 or more")
		p.Pointer = "/version"
		return nil, p
	}
	l, err := edit(b, id, beat.ChangeOptions{Version: body.Version})
	if err != nil {
		return nil, scheduleProblem(err, "")
	}
	s.logSchedule(c, "schedule "+what, id)
	return l.View(), nil
}

func (s *Server) enableSchedule(c *call) (any, error) {
	return s.editSchedule(c, "enabled", func(b *beat.Book, id string, o beat.ChangeOptions) (beat.Listed, error) {
		return b.Enable(c.ctx(), id, o)
	})
}

func (s *Server) disableSchedule(c *call) (any, error) {
	return s.editSchedule(c, "disabled", func(b *beat.Book, id string, o beat.ChangeOptions) (beat.Listed, error) {
		return b.Disable(c.ctx(), id, o)
	})
}

func (s *Server) pauseSchedule(c *call) (any, error) {
	return s.editSchedule(c, "paused", func(b *beat.Book, id string, o beat.ChangeOptions) (beat.Listed, error) {
		return b.Pause(c.ctx(), id, bodyOf[ScheduleChange](c).Note, o)
	})
}

func (s *Server) resumeSchedule(c *call) (any, error) {
	return s.editSchedule(c, "resumed", func(b *beat.Book, id string, o beat.ChangeOptions) (beat.Listed, error) {
		return b.Resume(c.ctx(), id, o)
	})
}

func (s *Server) runSchedule(c *call) (any, error) {
	b, err := s.book()
	if err != nil {
		return nil, err
	}
	id, by := c.r.PathValue("id"), "the API"
	if name := c.tokenName(); name != "" {
		by += ", " + name
	}
	r, err := b.Run(c.ctx(), id, by)
	if err != nil {
		return nil, err
	}
	s.logSchedule(c, "schedule run by hand", id)
	return ScheduleRan{Task: r.ID}, nil
}
