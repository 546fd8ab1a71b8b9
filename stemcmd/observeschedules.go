package stemcmd

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem/beat"
)

// scheduleReport is what observe schedules says, as JSON.
type scheduleReport struct {
	Leader        string      `json:"leader"`       // id of the beat that leads; "": none does
	LeaseLeftMS   int64       `json:"leaseLeftMs"`  // until its lead ends, unless it is renewed
	Active        int         `json:"active"`       // schedules that have a next moment
	Overdue       int         `json:"overdue"`      // of them, those whose moment passed more than 5 s ago
	WorstDriftMS  float64     `json:"worstDriftMs"` // of the newest firings
	Failing       int         `json:"failing"`      // schedules whose newest task was not enqueued
	Schedules     []beat.View `json:"schedules"`
	TotalFired    int64       `json:"totalFired"`
	TotalMisfired int64       `json:"totalMisfired"`
}

func (s *session) observeSchedulesCommand() *cobra.Command {
	f := &watchFlags{}
	c := &cobra.Command{
		Use:   "schedules",
		Short: "Reports on schedules: next run, last run, jitter, drift, state, who leads, the last error",
		Example: `  {{stem}} observe schedules
  {{stem}} observe schedules --watch
  {{stem}} observe schedules --output json`,
		Args: noArguments,
	}
	f.add(c)
	c.RunE = s.reporting(f, func(ctx context.Context) (func(context.Context) error, error) {
		b, err := s.book(ctx, true)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context) error { return s.reportSchedules(ctx, b) }, nil
	})
	return c
}

// overdue is how late a moment is that a beat should have fired.
const overdue = 5 * time.Second

func (s *session) reportSchedules(ctx context.Context, b *beat.Book) error {
	lead, err := b.Leader(ctx)
	if err != nil {
		return err
	}
	now, err := b.Now(ctx)
	if err != nil {
		return err
	}
	r := scheduleReport{Leader: lead.Holder, LeaseLeftMS: lead.TTL.Milliseconds(), Schedules: []beat.View{}}
	for page, err := range views(b.All(ctx)) {
		if err != nil {
			return err
		}
		for i := range page {
			v := &page[i]
			r.Schedules = append(r.Schedules, *v)
			r.TotalFired += v.Fired
			r.TotalMisfired += v.Misfired
			r.WorstDriftMS = max(r.WorstDriftMS, v.DriftMS)
			if v.LastError != "" {
				r.Failing++
			}
			if v.Status == beat.StatusActive {
				r.Active++
			}
			if v.Overdue(now) > overdue {
				r.Overdue++
			}
		}
	}
	if done, err := s.object(r); done {
		return err
	}
	if s.flags.output != asName {
		s.reportHead(&r)
	}
	_, err = list(s, observedView(), one(r.Schedules))
	return err
}

func (s *session) reportHead(r *scheduleReport) {
	leader := "no beat leads: nothing fires"
	if r.Leader != "" {
		leader = fmt.Sprintf("%s leads", r.Leader)
	}
	text := fmt.Sprintf("%s; %d active, %d overdue, %d failing", leader, r.Active, r.Overdue, r.Failing)
	if s.colour(s.p.Stdout) && (r.Leader == "" || r.Overdue > 0) {
		text = red + clean(text) + plainColour
		fmt.Fprintln(s.stdout, text)
		return
	}
	fmt.Fprintln(s.stdout, clean(text))
}

func observedView() view[beat.View] {
	type row = beat.View
	return view[row]{
		columns: []column[row]{
			{head: "ID", cell: func(v *row) string { return v.ID }},
			{head: "STATE", cell: func(v *row) string { return string(v.Status) }, paint: func(v *row) string { return scheduleColour(v.Status) }},
			{head: "NEXT RUN", cell: func(v *row) string { return ago(v.NextAt) }},
			{head: "LAST RUN", cell: func(v *row) string { return ago(v.LastFired) }},
			{head: "JITTER", right: true, cell: func(v *row) string { return fmt.Sprintf("%.0f ms", v.JitterMS) }},
			{head: "DRIFT", right: true, cell: func(v *row) string { return fmt.Sprintf("%.1f ms", v.DriftMS) }},
			{head: "FIRED", right: true, cell: func(v *row) string { return fmt.Sprint(v.Fired) }},
			{head: "MISFIRED", right: true, cell: func(v *row) string { return fmt.Sprint(v.Misfired) }},
			{head: "LAST ERROR", cell: func(v *row) string { return v.LastError }},
		},
		name:  func(v *row) string { return v.ID },
		empty: "there are no schedules",
	}
}
