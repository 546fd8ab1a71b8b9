package stemcmd

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem/beat"
	"github.com/stemjobs/stem/schedule"
	"github.com/stemjobs/stem/store"
)

// nextFlags choose moments to show.
type nextFlags struct {
	id, spec, timezone string
	count              whole
	after              instant
}

func (s *session) scheduleDryRunCommand() *cobra.Command {
	f := &nextFlags{count: whole{value: 5, least: 1, most: 10_000}}
	c := &cobra.Command{
		Use:   "dry-run --id ID | --spec SPEC",
		Short: "Shows when a schedule, or a spec, fires next",
		Long: `Shows when a schedule of the store, or a spec that is tried, fires next: with zone
and offset, so that the days on which clocks change can be seen. Nothing is enqueued.`,
		Example: `  {{stem}} schedule dry-run --id nightly-report --count 10
  {{stem}} schedule dry-run --spec "30 2 * * *" --timezone Europe/Berlin --after 2026-03-28T00:00:00Z
  {{stem}} schedule dry-run --spec "solar:sunset@52.52,13.4-15m"`,
		Args: noArguments,
	}
	flags := c.Flags()
	flags.StringVar(&f.id, "id", "", "`ID` of a schedule")
	flags.StringVar(&f.spec, "spec", "", "`SPEC` such as every:5m, \"0 2 * * *\", @daily, solar:sunset@52.52,13.4")
	flags.StringVar(&f.timezone, "timezone", "", "`ZONE` of a cron, such as Europe/Berlin; default: UTC")
	flags.Var(&f.count, "count", "so many")
	flags.Var(&f.after, "after", "after this `MOMENT`; default: now")
	notTogether(c, "id", "spec", "timezone")
	c.RunE = s.short(func(ctx context.Context, _ []string) error { return s.scheduleDryRun(ctx, f) })
	return c
}

func (s *session) scheduleDryRun(ctx context.Context, f *nextFlags) error {
	after := time.Time(f.after)
	var entry beat.Entry
	switch {
	case f.id != "":
		b, err := s.book(ctx, true)
		if err != nil {
			return err
		}
		l, err := b.Get(ctx, f.id)
		if err != nil {
			return err
		}
		if l.Problem != nil {
			return fmt.Errorf("schedule %s: its definition cannot be read: %w", f.id, l.Problem)
		}
		if after.IsZero() {
			if after, err = b.Now(ctx); err != nil {
				return err
			}
		}
		entry = l.Entry
	case f.spec != "":
		d, err := schedule.ParseDefinition(f.spec)
		if err != nil {
			return usage("--spec: %w", err)
		}
		if f.timezone != "" {
			d.Timezone = f.timezone
		}
		entry = beat.Entry{ID: "dry-run", Task: "dry-run", Spec: d}
		if err := entry.Validate(); err != nil {
			return usage("--%w", err)
		}
	default:
		return usage("schedule dry-run needs --id or --spec").hinted("See %s --help", s.cmd.CommandPath())
	}
	if after.IsZero() {
		after = time.Now()
	}
	moments, err := entry.Next(after, f.count.value)
	if err != nil {
		return err
	}
	if when, err := entry.Describe(); err == nil && (s.flags.output == asTable || s.flags.output == asWide) {
		s.note("%s", when)
	}
	_, err = list(s, momentView(), one(moments))
	return err
}

// nextMoment is a moment to come as JSON.
type nextMoment struct {
	Due      time.Time `json:"due"` // with the offset of its zone
	Zone     string    `json:"zone"`
	Fires    time.Time `json:"fires"`
	JitterMS float64   `json:"jitterMs"`
}

func momentView() view[beat.Moment] {
	type row = beat.Moment
	const form = "Mon 2006-01-02 15:04:05.999 -07:00 MST"
	return view[row]{
		columns: []column[row]{
			{head: "DUE", cell: func(m *row) string { return m.Due.Format(form) }},
			{head: "UTC", cell: func(m *row) string { return moment(m.Due) }},
			{head: "JITTER", right: true, cell: func(m *row) string { return m.Fires.Sub(m.Due).String() }},
			{head: "IN", cell: func(m *row) string { return ago(m.Fires) }},
		},
		name: func(m *row) string { return m.Due.Format(time.RFC3339Nano) },
		json: func(m *row) any {
			return nextMoment{m.Due, m.Due.Location().String(), m.Fires, float64(m.Fires.Sub(m.Due).Microseconds()) / 1000}
		},
		empty: "it never fires again",
	}
}

func (s *session) scheduleExportCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "export [ID...]",
		Short: "Writes schedules as a file that apply reads: YAML, or JSON with --output json",
		Example: `  {{stem}} schedule export > schedules.yaml
  {{stem}} schedule export nightly-report --output json`,
		ValidArgsFunction: s.completeSchedules,
	}
	c.RunE = s.long(func(ctx context.Context, args []string) error {
		b, err := s.book(ctx, true)
		if err != nil {
			return err
		}
		var records []store.Schedule
		for _, id := range args {
			l, err := b.Get(ctx, id)
			if err != nil {
				return err
			}
			records = append(records, l.Record)
		}
		if len(args) == 0 {
			for page, err := range b.All(ctx) {
				if err != nil {
					return err
				}
				for i := range page {
					records = append(records, page[i].Record)
				}
			}
		}
		return beat.ExportFile(s.stdout, records, s.flags.output == asJSON || s.flags.output == asJSONL)
	})
	return c
}
