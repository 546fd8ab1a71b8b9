package stemcmd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
)

func (s *session) workerDiagnoseCommand() *cobra.Command {
	f := &askFlags{}
	c := &cobra.Command{
		Use:   "diagnose",
		Short: "Looks at workers and what they should do, says what is wrong and what to do",
		Long: `Looks at workers and at what they should do: whether any lives, whose heartbeat is
late, who does not reply, which tasks run for more than an hour, or were told to stop
and do not, which queues wait and nobody receives, or are paused, or grow old, and
whether tasks die. It lists the rate limits that were changed. Each finding says what to do. It changes nothing. The exit code is 1 when something was found.
doctor verifies the stores themselves.`,
		Example: `  {{stem}} worker diagnose
  {{stem}} worker diagnose --worker web-1 --output json`,
		Args: noArguments,
	}
	f.add(s, c, "`GLOB` of the ids of workers to look at; default: all")
	c.RunE = s.asks(func(ctx context.Context, _ []string) error { return s.diagnose(ctx, f) })
	return c
}

// diagnosis gathers findings.
type diagnosis struct {
	s     *session
	found []finding
}

func (d *diagnosis) add(check, subject string, ok bool, detail, advice string) {
	f := finding{Check: check, Subject: subject, OK: ok, Detail: detail}
	if !ok {
		f.Advice = advice
	}
	d.found = append(d.found, f)
}

func (s *session) diagnose(ctx context.Context, f *askFlags) error {
	client, err := s.client(ctx)
	if err != nil {
		return err
	}
	workers, err := live(ctx, client, f)
	if err != nil {
		return err
	}
	d := &diagnosis{s: s}
	d.add("alive", "workers", len(workers) > 0, several(len(workers), "worker")+" by their heartbeats",
		"Start one with "+s.app.Name+" worker run; if some should be running, look at their logs: do they use this store and namespace?")
	for i := range workers {
		d.worker(&workers[i])
	}
	if len(workers) > 0 {
		a, err := s.askBy(ctx, client, f, stem.CommandPing, nil)
		if err != nil {
			return err
		}
		for _, w := range a.Silent {
			d.add("replies", "worker "+w, false, fmt.Sprintf("no reply within %s", s.askTime()),
				"Is its process stopped, or starved of CPU, or dead? See worker healthcheck on its host. Its tasks come back when their leases end")
		}
	}
	if err := d.queues(ctx, client); err != nil {
		return err
	}
	if err := d.rates(ctx, client); err != nil {
		return err
	}
	return s.tellFindings(d.found)
}

// longRun is for how long a task may run before it is pointed out.
const longRun = time.Hour

func (d *diagnosis) worker(h *stem.Heartbeat) {
	name := "worker " + h.Worker
	row := workerRowOf(*h, time.Since(h.At))
	d.add("heartbeat", name, row.State != stateLate && row.State != stateGone,
		fmt.Sprintf("last %s ago, every %s", span(row.silent), interval(h)),
		"A worker that is stopped, starved or cut off from the store says nothing; compare the clocks of its host and this one")
	if h.Isolates.Total == 0 {
		d.add("isolates", name, false, "no isolate is left: handlers do not return after their hard limit",
			"Restart it, and make those handlers obey their context; its log has their stacks")
	} else if h.Isolates.Active == h.Isolates.Total && h.Inflight > h.Isolates.Total {
		d.add("isolates", name, true, fmt.Sprintf("all %d are busy", h.Isolates.Total), "")
	}
	for _, j := range h.Running {
		if ran := time.Since(j.Since); ran > longRun {
			d.add("running", "task "+j.ID, false, fmt.Sprintf("%s runs for %s at %s", j.Name, span(ran), h.Worker),
				"If that is too long: "+d.s.app.Name+" tasks cancel "+j.ID+" --terminate, and give the task a hard timeout")
		}
	}
}

func (d *diagnosis) queues(ctx context.Context, client *stem.Client) error {
	rows, err := queueReports(ctx, client)
	if err != nil {
		return err
	}
	for i := range rows {
		q := &rows[i]
		name := "queue " + q.Name
		old := time.Duration(q.OldestAgeSeconds * float64(time.Second))
		switch {
		case q.State == "unheard":
			d.add("received", name, false, fmt.Sprintf("%d ready, the oldest for %s, and no live worker receives it", q.Ready, span(old)),
				"Start one with "+d.s.app.Name+" worker run --queues "+q.Name)
		case q.State == "paused" && q.Ready > 0:
			d.add("received", name, false, strings.TrimSuffix(fmt.Sprintf("paused, with %d ready: %s", q.Ready, q.Note), ": "),
				"Let it go on with "+d.s.app.Name+" queue resume "+q.Name)
		case q.Ready > 0 && old > backlogAge:
			d.add("received", name, false, fmt.Sprintf("%d ready, the oldest for %s, with %s", q.Ready, span(old), several(q.Workers, "worker")),
				"The workers do not keep up: start more, or "+d.s.app.Name+" worker scale; observe tasks shows what takes long")
		default:
			d.add("received", name, true, fmt.Sprintf("%d ready, %s", q.Ready, several(q.Workers, "worker")), "")
		}
		if q.Dead > 0 {
			d.add("dead letters", name, false, fmt.Sprintf("%d", q.Dead), "Look at them with "+d.s.app.Name+" dlq list --queue "+q.Name+" --group")
		}
	}
	return d.revocations(ctx, client)
}

// rates lists the rate limits that somebody changed, which is easily forgotten.
func (d *diagnosis) rates(ctx context.Context, client *stem.Client) error {
	all, err := client.RateChanges(ctx)
	for i := range all {
		r := &all[i]
		d.add("rate", "task "+r.Task, true, strings.TrimSuffix(fmt.Sprintf("changed to %s, %s: %s", r.Rate, ago(r.Since), r.Note), ": "), "")
	}
	return err
}

// backlogAge is how old a ready task may be before it is pointed out.
const backlogAge = 5 * time.Minute

// revocations points out what was to be stopped and is not.
func (d *diagnosis) revocations(ctx context.Context, client *stem.Client) error {
	list, _, err := client.PendingRevocations(ctx, broker.Page{Limit: 20})
	if errors.Is(err, broker.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, r := range list {
		if !r.Terminate {
			continue // it may run to its end
		}
		d.add("revoked", "task "+r.ID, false, "was told to stop, and has not: at "+r.Worker,
			"Its handler does not obey its context. Stop that worker hard, or give the task a hard timeout")
	}
	return nil
}
