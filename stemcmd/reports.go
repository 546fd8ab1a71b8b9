package stemcmd

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// shows is a report on what a client can see.
type shows func(ctx context.Context, client *stem.Client) error

// onClient opens the stores for a report, once.
func (s *session) onClient(show shows) func(ctx context.Context) (func(context.Context) error, error) {
	return func(ctx context.Context) (func(context.Context) error, error) {
		client, err := s.client(ctx)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context) error { return show(ctx, client) }, nil
	}
}

// queueReport is one queue as observe queues tells it.
type queueReport struct {
	queueInfo
	State   string `json:"state"` // ok, paused, or unheard: tasks wait and no live worker receives it
	Note    string `json:"note,omitempty"`
	Workers int    `json:"workers"` // live ones that receive it
}

func (s *session) observeQueuesCommand() *cobra.Command {
	f := &watchFlags{}
	c := &cobra.Command{
		Use:   "queues",
		Short: "Reports on queues: what they hold, who hears them, which are paused",
		Long: `Reports on queues: what they hold, how old the oldest ready task is, how many live
workers receive it, and whether it is paused, or unheard: tasks are ready and nobody
receives it. The numbers are kept counters; none is counted for this.`,
		Example: `  {{stem}} observe queues
  {{stem}} observe queues --watch --every 1s`,
		Args: noArguments,
	}
	f.add(c)
	c.RunE = s.reporting(f, s.onClient(func(ctx context.Context, client *stem.Client) error {
		rows, err := queueReports(ctx, client)
		if err != nil {
			return err
		}
		_, err = list(s, queueReportView(), one(rows))
		return err
	}))
	return c
}

// queueReports puts together what the broker and the workers say.
func queueReports(ctx context.Context, client *stem.Client) ([]queueReport, error) {
	infos, err := client.Queues(ctx)
	if err != nil {
		return nil, err
	}
	pauses, err := client.PausedQueues(ctx)
	if err != nil {
		return nil, err
	}
	workers, err := anyWorkers(ctx, client)
	if err != nil {
		return nil, err
	}
	rows := map[string]*queueReport{}
	for i := range infos {
		rows[infos[i].Name] = &queueReport{queueInfo: queueInfoOf(&infos[i]), State: "ok"}
	}
	for _, p := range pauses {
		r := rows[p.Queue]
		if r == nil {
			r = &queueReport{queueInfo: queueInfo{Name: p.Queue}}
			rows[p.Queue] = r
		}
		r.State, r.Note = "paused", p.Note
	}
	out := make([]queueReport, 0, len(rows))
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		r := rows[name]
		for i := range workers {
			if hears(&workers[i], name) {
				r.Workers++
			}
		}
		if r.Workers == 0 && r.Ready > 0 && r.State == "ok" {
			r.State = "unheard"
		}
		out = append(out, *r)
	}
	return out, nil
}

func queueReportView() view[queueReport] {
	type row = queueReport
	return view[row]{
		columns: []column[row]{
			{head: "QUEUE", cell: func(q *row) string { return q.Name }},
			{head: "STATE", cell: func(q *row) string { return q.State }, paint: func(q *row) string {
				switch q.State {
				case "unheard":
					return red
				case "paused":
					return yellow
				default:
					return green
				}
			}},
			{head: "READY", right: true, cell: func(q *row) string { return strconv.Itoa(q.Ready) }},
			{head: "DELAYED", right: true, cell: func(q *row) string { return strconv.Itoa(q.Delayed) }},
			{head: "LEASED", right: true, cell: func(q *row) string { return strconv.Itoa(q.Leased) }},
			{head: "DEAD", right: true, cell: func(q *row) string { return strconv.Itoa(q.Dead) }},
			{head: "OLDEST", cell: func(q *row) string {
				if q.Ready == 0 {
					return "-"
				}
				return span(time.Duration(q.OldestAgeSeconds * float64(time.Second)))
			}},
			{head: "WORKERS", right: true, cell: func(q *row) string { return strconv.Itoa(q.Workers) }},
			{head: "NOTE", cell: func(q *row) string { return q.Note }},
		},
		name:  func(q *row) string { return q.Name },
		empty: "no queue holds anything, and none is paused",
	}
}

func (s *session) observeWorkersCommand() *cobra.Command {
	f := &watchFlags{}
	c := &cobra.Command{
		Use:   "workers",
		Short: "Reports on workers: who lives, who is late, what they did",
		Long: `Reports on workers by their heartbeats: who lives, who is late, what they did since
they started. worker status --follow shows heartbeats as they come.`,
		Example: `  {{stem}} observe workers
  {{stem}} observe workers --watch --output wide`,
		Args: noArguments,
	}
	f.add(c)
	c.RunE = s.reporting(f, s.onClient(func(ctx context.Context, client *stem.Client) error {
		rows, err := workerRows(ctx, client, &askFlags{})
		if err != nil {
			return err
		}
		_, err = list(s, workerView(), one(rows))
		return err
	}))
	return c
}

// deadReport is how many dead letters of a queue died for one reason, among the
// newest.
type deadReport struct {
	Queue  string    `json:"queue"`
	Reason string    `json:"reason"`
	Count  int       `json:"count"`
	Oldest time.Time `json:"oldest"`
	Newest time.Time `json:"newest"`
	Task   string    `json:"task"` // of the newest
	Error  string    `json:"error,omitempty"`
}

// observeMost is how many dead letters, or statuses, one report looks at.
const observeMost = 10_000

func (s *session) observeDeadCommand() *cobra.Command {
	f := &watchFlags{}
	c := &cobra.Command{
		Use:   "dlq",
		Short: "Reports on dead letters: how many by queue and reason",
		Long: `Reports on dead letters: how many there are by queue and reason, among the newest
10,000, with the newest error of each. dlq list --group goes by kinds of error.`,
		Example: `  {{stem}} observe dlq
  {{stem}} observe dlq --watch --output json`,
		Args: noArguments,
	}
	f.add(c)
	c.RunE = s.reporting(f, s.onClient(s.observeDead))
	return c
}

func (s *session) observeDead(ctx context.Context, client *stem.Client) error {
	type key struct{ queue, reason string }
	found := map[key]*deadReport{}
	var next string
	for page, err := range deadPages(ctx, client, broker.DeadFilter{}, observeMost, "", &next) {
		if err != nil {
			return err
		}
		for i := range page {
			d := &page[i]
			r := found[key{d.Queue, d.Reason}]
			if r == nil {
				r = &deadReport{Queue: d.Queue, Reason: d.Reason, Newest: utcTime(d.DeadAt), Task: d.Envelope.Name}
				if d.Error != nil {
					r.Error = d.Error.Message
				}
				found[key{d.Queue, d.Reason}] = r
			}
			r.Count++
			r.Oldest = utcTime(d.DeadAt)
		}
	}
	rows := make([]deadReport, 0, len(found))
	for _, r := range found {
		rows = append(rows, *r)
	}
	slices.SortFunc(rows, func(a, b deadReport) int {
		return cmp.Or(cmp.Compare(a.Queue, b.Queue), b.Count-a.Count, cmp.Compare(a.Reason, b.Reason))
	})
	if _, err := list(s, deadReportView(), one(rows)); err != nil {
		return err
	}
	if next != "" {
		s.note("%d dead letters were looked at, and there are older ones", observeMost)
	}
	return nil
}

func deadReportView() view[deadReport] {
	type row = deadReport
	return view[row]{
		columns: []column[row]{
			{head: "QUEUE", cell: func(d *row) string { return d.Queue }},
			{head: "REASON", cell: func(d *row) string { return d.Reason }},
			{head: "COUNT", right: true, cell: func(d *row) string { return strconv.Itoa(d.Count) }},
			{head: "OLDEST", cell: func(d *row) string { return ago(d.Oldest) }},
			{head: "NEWEST", cell: func(d *row) string { return ago(d.Newest) }},
			{head: "TASK", cell: func(d *row) string { return d.Task }},
			{head: "ERROR", cell: func(d *row) string { return d.Error }},
		},
		name:  func(d *row) string { return d.Queue + " " + d.Reason },
		empty: "no dead letters",
	}
}

// taskReport counts the statuses of one task.
type taskReport struct {
	Task      string  `json:"task"`
	Queued    int     `json:"queued"`
	Running   int     `json:"running"`
	Retried   int     `json:"retried"`
	Succeeded int     `json:"succeeded"`
	Failed    int     `json:"failed"`
	Cancelled int     `json:"cancelled"`
	MeanMS    float64 `json:"meanMs"` // of the last executions of those that ended
	LongestMS float64 `json:"longestMs"`

	timed int
	total time.Duration
	most  time.Duration
}

func (s *session) observeTasksCommand() *cobra.Command {
	f := &watchFlags{}
	since := "1h"
	c := &cobra.Command{
		Use:   "tasks",
		Short: "Reports on tasks: how many in which state, and how long they take",
		Long: `Reports on the tasks enqueued --since: how many of each name are in which state, and
how long they took, from the newest 10,000 statuses.`,
		Example: `  {{stem}} observe tasks
  {{stem}} observe tasks --since 10m --watch`,
		Args: noArguments,
	}
	f.add(c)
	c.Flags().StringVar(&since, "since", since, "enqueued at or after this `MOMENT`, or so long ago")
	c.RunE = s.reporting(f, s.onClient(func(ctx context.Context, client *stem.Client) error {
		from, err := store.ParseMoment(since, time.Now())
		if err != nil {
			return usage("--since: %w", err)
		}
		return s.observeTasks(ctx, client, from)
	}))
	return c
}

func (s *session) observeTasks(ctx context.Context, client *stem.Client, since time.Time) error {
	found := map[string]*taskReport{}
	var last store.List
	for page, err := range statusPages(ctx, client, store.Query{Since: since}, observeMost, &last) {
		if err != nil {
			return err
		}
		for i := range page {
			r := found[page[i].Name]
			if r == nil {
				r = &taskReport{Task: page[i].Name}
				found[page[i].Name] = r
			}
			r.count(&page[i])
		}
	}
	rows := make([]taskReport, 0, len(found))
	for _, name := range slices.Sorted(maps.Keys(found)) {
		rows = append(rows, *found[name])
	}
	if _, err := list(s, taskReportView(), one(rows)); err != nil {
		return err
	}
	if last.Cursor != "" {
		s.note("%d statuses were looked at, and there are older ones", observeMost)
	}
	return nil
}

func (r *taskReport) count(st *stem.Status) {
	switch st.State {
	case task.Queued:
		r.Queued++
	case task.Running:
		r.Running++
	case task.Retried:
		r.Retried++
	case task.Succeeded:
		r.Succeeded++
	case task.Failed:
		r.Failed++
	case task.Cancelled:
		r.Cancelled++
	}
	if took := st.FinishedAt.Sub(st.StartedAt); !st.StartedAt.IsZero() && !st.FinishedAt.IsZero() && took >= 0 {
		r.timed++
		r.total += took
		r.most = max(r.most, took)
		r.MeanMS = float64((r.total / time.Duration(r.timed)).Microseconds()) / 1000
		r.LongestMS = float64(r.most.Microseconds()) / 1000
	}
}

func taskReportView() view[taskReport] {
	type row = taskReport
	count := func(head string, n func(*row) int) column[row] {
		return column[row]{head: head, right: true, cell: func(r *row) string { return strconv.Itoa(n(r)) }}
	}
	took := func(r *row, d time.Duration) string {
		if r.timed == 0 {
			return "-"
		}
		return span(d)
	}
	return view[row]{
		columns: []column[row]{
			{head: "TASK", cell: func(r *row) string { return r.Task }},
			count("QUEUED", func(r *row) int { return r.Queued }),
			count("RUNNING", func(r *row) int { return r.Running }),
			count("RETRIED", func(r *row) int { return r.Retried }),
			count("SUCCEEDED", func(r *row) int { return r.Succeeded }),
			count("FAILED", func(r *row) int { return r.Failed }),
			count("CANCELLED", func(r *row) int { return r.Cancelled }),
			{head: "MEAN", right: true, cell: func(r *row) string { return took(r, r.total/time.Duration(max(r.timed, 1))) }},
			{head: "LONGEST", right: true, cell: func(r *row) string { return took(r, r.most) }},
		},
		name:  func(r *row) string { return r.Task },
		empty: "no tasks",
	}
}
