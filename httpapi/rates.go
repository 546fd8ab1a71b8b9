package httpapi

import (
	"errors"
	"reflect"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// rateRoutes look at the rate limits that were changed, and change them.
func rateRoutes() []route {
	name := inPath("task", "The name that the task is declared with.")
	changed := reflect.TypeFor[RateChanged]()
	return []route{{
		method: "GET", path: "/v1/rates", role: Read, summary: "List the tasks whose rate limit was changed",
		answer: reflect.TypeFor[RateList](), problems: []string{unavailable}, handle: (*Server).listRates,
	}, {
		method: "PUT", path: "/v1/rates/{task}", role: Operate, summary: "Give a task another rate limit than it is declared with, until that is removed",
		params: []param{name}, body: reflect.TypeFor[RateSet](), answer: changed, waits: true,
		problems: []string{unsupported, unavailable, busy}, handle: (*Server).putRate,
	}, {
		method: "DELETE", path: "/v1/rates/{task}", role: Operate, summary: "Give a task the rate limit again that it is declared with",
		params: []param{name, query("timeout", "How long workers' replies are waited for, 60s at most; 5s unless given.")}, answer: changed, waits: true,
		problems: []string{unsupported, unavailable, busy}, handle: (*Server).deleteRate,
	}}
}

// RateList lists the rate limits that were changed.
type RateList struct {
	Rates []stem.RateChange `json:"rates" doc:"By task."`
}

// RateSet is a task's new rate limit.
type RateSet struct {
	Rate    string   `json:"rate" doc:"So many in a second, a minute, an hour or a day: 10/s, 100/m, 500/h, 1000/d; or none."`
	Burst   int      `json:"burst,omitempty" doc:"So many may start at once after a pause; 1 unless given: all are the same time apart."`
	Note    string   `json:"note,omitempty" doc:"Why, to those who look; 1024 bytes at most."`
	Timeout Duration `json:"timeout,omitempty" doc:"How long workers' replies are waited for, 60s at most; 5s unless given."`
}

// RateChanged is what came of a change, which is kept, and that workers were told
// of. Each reply's data is what was in force and what is; who is silent has the
// change with its next heartbeat.
type RateChanged struct {
	Task    string        `json:"task"`
	Changed bool          `json:"changed" doc:"false: it had the rate that it is declared with."`
	Replies []WorkerReply `json:"replies" doc:"By worker."`
	Silent  []string      `json:"silent" doc:"Workers that live, by their heartbeats, and did not reply in time."`
}

func (s *Server) listRates(c *call) (any, error) {
	rates, err := s.client.RateChanges(c.ctx())
	if err != nil {
		return nil, err
	}
	return RateList{Rates: list(rates)}, nil
}

// rateTask is the task that a path names, by the name that it is declared with.
func (s *Server) rateTask(c *call) (string, error) {
	name := c.r.PathValue("task")
	if err := task.ValidateName(name); err != nil {
		return "", wrong("task", "%s", err)
	}
	if t, ok := s.tasks[name]; ok {
		name = t.Name()
	}
	return name, nil
}

func (s *Server) putRate(c *call) (any, error) {
	name, err := s.rateTask(c)
	if err != nil {
		return nil, err
	}
	body := bodyOf[RateSet](c)
	r := stem.RateChange{Task: name, Rate: body.Rate, Burst: body.Burst, Note: body.Note}
	if len(r.Note) > stem.MaxRateNote {
		return nil, at(problem(invalidArgument, "want %d bytes at most", stem.MaxRateNote), "note")
	}
	if err := r.Validate(); err != nil {
		return nil, at(problem(invalidArgument, "%s, or none", err), "rate")
	}
	if time.Duration(body.Timeout) > maxWait {
		return nil, at(problem(invalidArgument, "want %s at most", maxWait), "timeout")
	}
	if err := s.client.ChangeRates(c.ctx(), r); err != nil {
		return nil, err
	}
	s.opts.Logger.InfoContext(c.ctx(), "rate limit changed", "task", name, "rate", r.Rate, "burst", r.Burst,
		"token", c.tokenName(), "request_id", c.id)
	return s.tellRate(c, name, time.Duration(body.Timeout))
}

func (s *Server) deleteRate(c *call) (any, error) {
	name, err := s.rateTask(c)
	if err != nil {
		return nil, err
	}
	wait, p := c.duration("timeout", stem.DefaultAskTime, maxWait)
	if p != nil {
		return nil, p
	}
	had, err := s.client.ResetRates(c.ctx(), name)
	if err != nil {
		return nil, err
	}
	if !had[0] {
		return RateChanged{Task: name, Replies: []WorkerReply{}, Silent: []string{}}, nil
	}
	s.opts.Logger.InfoContext(c.ctx(), "rate limit as declared again", "task", name, "token", c.tokenName(), "request_id", c.id)
	return s.tellRate(c, name, wait)
}

// tellRate tells workers of a change that is kept, and this server's own pullers.
func (s *Server) tellRate(c *call, name string, wait time.Duration) (any, error) {
	s.limits.forget()
	asked, err := s.askAll(c, "*", wait, stem.CommandRate, stem.RateArgs{Task: name})
	if err != nil && !errors.Is(err, broker.ErrUnsupported) {
		return nil, err
	}
	return RateChanged{Task: name, Changed: true, Replies: asked.Replies, Silent: asked.Silent}, nil
}
