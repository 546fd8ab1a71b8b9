package stemcmd

import (
	"context"
	"errors"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

func (s *session) tasksCommand() *cobra.Command {
	c := group("tasks", "Looks at tasks, waits for them, cancels them",
		s.tasksListCommand(), s.tasksShowCommand(), s.tasksWaitCommand(), s.tasksWatchCommand(), s.tasksCancelCommand(),
		s.tasksRetryCommand(), s.tasksNamesCommand())
	c.Aliases = []string{"task"}
	return c
}

// listFlags select statuses and say how many.
type listFlags struct {
	states, name, queue, since string

	limit  whole
	cursor string
}

func (s *session) tasksListCommand() *cobra.Command {
	f := &listFlags{limit: whole{value: 50, most: 1_000_000_000}}
	c := &cobra.Command{
		Use:     "ls [QUERY]",
		Aliases: []string{"list"},
		Short:   "Lists tasks, newest first",
		Long: `Lists tasks, newest first. QUERY has words of the form KEY:VALUE, all of which
must fit:
  state:failed,retried   name:email.*   queue:default   worker:ID   reason:R
  error:"timed out"      args:"42"      since:2h        until:2026-01-02T15:04:05Z
  args.user.id:42        meta.tenant:acme
error: and args: find a part of it, args.PATH: a field. A record keeps the first
KiB of longer arguments, in which no field is found.`,
		Example: `  {{stem}} tasks ls
  {{stem}} tasks ls state:failed 'name:email.*' since:2h
  {{stem}} tasks ls 'error:"timed out"' --limit 500 --output jsonl
  {{stem}} tasks ls state:queued --output name | xargs {{stem}} tasks cancel`,
		Args: cobra.ArbitraryArgs,
	}
	c.RunE = s.short(func(ctx context.Context, args []string) error { return s.tasksList(ctx, f, args) })
	flags := c.Flags()
	flags.StringVar(&f.states, "state", "", "`STATES`, comma-separated, as state:")
	flags.StringVar(&f.name, "name", "", "`NAME` or pattern with *, as name:")
	flags.StringVar(&f.queue, "queue", "", "`QUEUE` or pattern with *, as queue:")
	flags.StringVar(&f.since, "since", "", "enqueued at or after this `MOMENT`, or so long ago, as since:")
	flags.Var(&f.limit, "limit", "at most so many; 0: all")
	flags.StringVar(&f.cursor, "cursor", "", "`CURSOR` that an earlier page ended with")
	s.completeQueueFlag(c)
	if err := c.RegisterFlagCompletionFunc("state", fixed(stateNames()...)); err != nil {
		panic("stemcmd: " + err.Error()) // a mistake in this function
	}
	return c
}

func stateNames() []string {
	names := make([]string, 0, 6)
	for _, st := range task.States() {
		names = append(names, string(st))
	}
	return names
}

// query makes one query of words and flags.
func (f *listFlags) query(args []string, now time.Time) (store.Query, error) {
	words := make([]string, 0, len(args)+4)
	for _, a := range args {
		// The shell took the quotes of error:"timed out" away.
		if key, value, ok := strings.Cut(a, ":"); ok && strings.ContainsAny(value, " ") && !strings.Contains(value, `"`) && !strings.Contains(value, ":") {
			a = key + `:"` + value + `"`
		}
		words = append(words, a)
	}
	for key, value := range map[string]string{"state": f.states, "name": f.name, "queue": f.queue, "since": f.since} {
		if value != "" {
			words = append(words, key+`:"`+value+`"`)
		}
	}
	q, err := store.ParseQuery(strings.Join(words, " "), now)
	if err != nil {
		return q, usage("%w", err)
	}
	q.Cursor = f.cursor
	return q, nil
}

func (s *session) tasksList(ctx context.Context, f *listFlags, args []string) error {
	q, err := f.query(args, time.Now())
	if err != nil {
		return err
	}
	client, err := s.client(ctx)
	if err != nil {
		return err
	}
	var last store.List
	_, err = list(s, statusView(), statusPages(ctx, client, q, f.limit.value, &last))
	if err != nil {
		return err
	}
	if last.Truncated {
		s.note("%d records were looked at and no more: narrow the query with since: or queue:, or go on with --cursor %s", last.Looked, last.Cursor)
		return nil
	}
	s.more(last.Cursor)
	return nil
}

// more says how to go on after a listing that was cut short.
func (s *session) more(cursor string) {
	if cursor != "" && !s.stdout.gone.Load() {
		s.note("there are more: --limit 0 shows all, --cursor %s goes on", cursor)
	}
}

// statusPages asks for pages until limit (0: none) is reached, and keeps the
// last one.
func statusPages(ctx context.Context, c *stem.Client, q store.Query, limit int, last *store.List) iter.Seq2[[]stem.Status, error] {
	return func(yield func([]stem.Status, error) bool) {
		for n := 0; limit == 0 || n < limit; {
			q.Limit = 1000
			if limit > 0 {
				q.Limit = min(limit-n, 1000)
			}
			l, err := c.List(ctx, q)
			if err != nil {
				yield(nil, err)
				return
			}
			for i := range l.Statuses {
				l.Statuses[i] = normalised(l.Statuses[i])
			}
			*last = l
			n += len(l.Statuses)
			if !yield(l.Statuses, nil) || l.Cursor == "" || l.Truncated {
				return
			}
			q.Cursor = l.Cursor
		}
	}
}

// normalised returns a status with its moments in UTC.
func normalised(st stem.Status) stem.Status {
	st.EnqueuedAt, st.NotBefore, st.StartedAt = utcTime(st.EnqueuedAt), utcTime(st.NotBefore), utcTime(st.StartedAt)
	st.FinishedAt, st.ExpiresAt, st.LastReplayAt = utcTime(st.FinishedAt), utcTime(st.ExpiresAt), utcTime(st.LastReplayAt)
	if st.Error != nil {
		e := *st.Error
		e.At = utcTime(e.At)
		st.Error = &e
	}
	st.Errors = utcErrors(st.Errors)
	if st.Progress != nil {
		p := *st.Progress
		p.At = utcTime(p.At)
		st.Progress = &p
	}
	return st
}

func utcErrors(errs []task.Error) []task.Error {
	if errs == nil {
		return nil
	}
	out := make([]task.Error, len(errs))
	for i, e := range errs {
		e.At = utcTime(e.At)
		out[i] = e
	}
	return out
}

func statusView() view[stem.Status] {
	type row = stem.Status
	return view[row]{
		columns: []column[row]{
			{head: "ID", cell: func(st *row) string { return st.ID }},
			{head: "TASK", cell: func(st *row) string { return st.Name }},
			{head: "STATE", cell: func(st *row) string { return string(st.State) }, paint: func(st *row) string { return stateColour(st.State) }},
			{head: "QUEUE", cell: func(st *row) string { return st.Queue }},
			{head: "ATTEMPT", right: true, cell: func(st *row) string { return strconv.Itoa(st.Attempt) }},
			{head: "ENQUEUED", cell: func(st *row) string { return ago(st.EnqueuedAt) }},
			{head: "TOOK", cell: took},
			{head: "NOTE", cell: statusNote},
			{head: "PRIORITY", wide: true, right: true, cell: func(st *row) string { return strconv.Itoa(st.Priority) }},
			{head: "WORKER", wide: true, cell: func(st *row) string { return st.Worker }},
			{head: "ENQUEUED AT", wide: true, cell: func(st *row) string { return moment(st.EnqueuedAt) }},
			{head: "FINISHED AT", wide: true, cell: func(st *row) string { return moment(st.FinishedAt) }},
		},
		name:  func(st *row) string { return st.ID },
		empty: "no tasks",
	}
}

func stateColour(st stem.State) string {
	switch st {
	case stem.Succeeded:
		return green
	case stem.Failed:
		return red
	case stem.Retried:
		return yellow
	case stem.Running:
		return cyan
	case stem.Cancelled:
		return faint
	default:
		return ""
	}
}

// took is how long the last execution took, or takes.
func took(st *stem.Status) string {
	switch {
	case st.StartedAt.IsZero():
		return "-"
	case !st.FinishedAt.IsZero() && !st.FinishedAt.Before(st.StartedAt):
		return span(st.FinishedAt.Sub(st.StartedAt))
	case st.State == stem.Running:
		return span(time.Since(st.StartedAt)) + "…"
	default:
		return "-"
	}
}

// statusNote is the one thing to know of a task beside its state.
func statusNote(st *stem.Status) string {
	switch {
	case st.State == stem.Failed && st.Error != nil:
		return st.Reason + ": " + st.Error.Message
	case st.State == stem.Failed || st.State == stem.Cancelled:
		return st.Reason
	case st.State == stem.Retried && st.Error != nil:
		return "again " + ago(st.NotBefore) + ": " + st.Error.Message
	case st.State == stem.Queued && st.NotBefore.After(time.Now()):
		return "due " + ago(st.NotBefore)
	case st.State == stem.Running && st.Progress != nil:
		return strconv.FormatFloat(st.Progress.Percent, 'f', -1, 64) + " %"
	default:
		return ""
	}
}

func (s *session) tasksWaitCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "wait ID...",
		Short: "Waits until tasks have ended, and prints their results",
		Long: `Waits until tasks have ended, and prints the result of each that succeeded. The
exit code is 0 when all did, and 1 when one failed, was cancelled, or did not end
within --timeout.`,
		Example: `  {{stem}} tasks wait 0198c0de-0000-7000-8000-000000000001
  {{stem}} tasks wait job-42 --timeout 1m --output json`,
		Args: arguments(1, -1, "the ID of a task"),
	}
	c.RunE = s.long(func(ctx context.Context, args []string) error {
		client, err := s.client(ctx)
		if err != nil {
			return err
		}
		var errs []error
		for _, id := range args {
			if err := s.waitFor(ctx, client, id); err != nil {
				errs = append(errs, err)
			}
		}
		return all(len(args), errs)
	})
	return c
}

// all makes one error of those of n items: its code is theirs where they
// agree, and 6 where some items had none.
func all(n int, errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	if n == 1 {
		return errs[0]
	}
	code := exitCode(errs[0])
	for _, e := range errs {
		if exitCode(e) != code {
			code = ExitFailed
		}
	}
	if len(errs) < n && code != ExitFailed {
		code = ExitPartly
	}
	return &exitError{code: code, err: errors.Join(errs...)}
}

func (s *session) tasksCancelCommand() *cobra.Command {
	var o stem.RevokeOptions
	c := &cobra.Command{
		Use:     "cancel ID...",
		Aliases: []string{"revoke"},
		Short:   "Cancels tasks that have not started; with --terminate also running ones",
		Long: `Cancels tasks. Each answer is true: "cancelled" will never start; "asked WORKER" is
held by that worker, which drops it if it has not started, and stops its handler
with --terminate; "too late" has ended; "unknown" is not there. The exit code is 5
when a task had ended, 4 when one is not there, 6 when others were cancelled.`,
		Example: `  {{stem}} tasks cancel job-42
  {{stem}} tasks cancel job-42 --terminate --reason "wrong customer"`,
		Args: arguments(1, -1, "the ID of a task"),
	}
	c.RunE = s.short(func(ctx context.Context, args []string) error { return s.tasksCancel(ctx, o, args) })
	c.Flags().BoolVar(&o.Terminate, "terminate", false, "also stop a handler that runs")
	c.Flags().StringVar(&o.Reason, "reason", "", "`REASON` that is kept with the status")
	return c
}

// cancelled is what tasks cancel says of one task.
type cancelled struct {
	ID     string `json:"id"`
	Answer string `json:"answer"` // cancelled, asked, too late or unknown
	Worker string `json:"worker,omitempty"`
}

func (s *session) tasksCancel(ctx context.Context, o stem.RevokeOptions, ids []string) error {
	for _, id := range ids {
		if err := task.ValidateID(id); err != nil {
			return err
		}
	}
	client, err := s.client(ctx)
	if err != nil {
		return err
	}
	answers, err := client.Revoke(ctx, o, ids...)
	if err != nil {
		return err
	}
	rows := make([]cancelled, len(ids))
	var errs []error
	for i, a := range answers {
		rows[i] = cancelled{ID: ids[i], Worker: a.Worker}
		switch a.State {
		case broker.RevokeCancelled:
			rows[i].Answer = "cancelled"
			s.changes++
		case broker.RevokeAsked:
			rows[i].Answer = "asked"
			s.changes++
		case broker.RevokeTooLate:
			rows[i].Answer = "too late"
			errs = append(errs, fail(ExitRefused, "task %s has ended already", ids[i]))
		default:
			rows[i].Answer = "unknown"
			errs = append(errs, fail(ExitNotFound, "task %s: %w", ids[i], stem.ErrNotFound))
		}
	}
	_, err = list(s, view[cancelled]{
		columns: []column[cancelled]{
			{head: "ID", cell: func(x *cancelled) string { return x.ID }},
			{head: "ANSWER", cell: func(x *cancelled) string { return strings.TrimSpace(x.Answer + " " + x.Worker) }},
		},
		name: func(x *cancelled) string { return x.ID },
	}, one(rows))
	return errors.Join(err, all(len(ids), errs))
}

func (s *session) tasksNamesCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "names",
		Short: "Lists the tasks that this program knows, with their options",
		Example: `  {{stem}} tasks names
  {{stem}} tasks names --tasks tasks.yaml --output json`,
		Args: noArguments,
	}
	addTasksFlag(c.Flags())
	c.RunE = s.short(func(context.Context, []string) error {
		known, err := s.knownTasks()
		if err != nil {
			return err
		}
		rows := make([]knownTask, len(known.tasks))
		for i, r := range known.tasks {
			rows[i] = s.describe(r.Info())
		}
		_, err = list(s, knownView(), one(rows))
		if s.app.Setup != nil {
			s.note("this program makes more tasks when its worker starts")
		}
		return err
	})
	return c
}

// knownTask is one row of tasks names.
type knownTask struct {
	Name        string   `json:"name"`
	Aliases     []string `json:"aliases"`
	Queue       string   `json:"queue"`
	Priority    int      `json:"priority"`
	MaxRetries  int      `json:"maxRetries"`
	SoftTimeout string   `json:"softTimeout,omitempty"`
	HardTimeout string   `json:"hardTimeout,omitempty"`
	Rate        string   `json:"rate,omitempty"`
}

// describe fills in what a declaration leaves to the configuration.
func (s *session) describe(i stem.TaskInfo) knownTask {
	k := knownTask{
		Name: i.Name, Aliases: append([]string{}, i.Aliases...), Queue: i.Queue,
		Priority: task.DefaultPriority, MaxRetries: s.conf.Config.MaxRetries,
	}
	if k.Queue == "" {
		k.Queue = s.conf.Config.DefaultQueue
	}
	if i.Priority != nil {
		k.Priority = *i.Priority
	}
	if i.MaxRetries != nil {
		k.MaxRetries = *i.MaxRetries
	}
	if i.SoftTimeout > 0 {
		k.SoftTimeout = i.SoftTimeout.String()
	}
	if i.HardTimeout > 0 {
		k.HardTimeout = i.HardTimeout.String()
	}
	if i.RateLimit != nil {
		k.Rate = i.RateLimit.String()
	}
	return k
}

func knownView() view[knownTask] {
	orDash := func(text string) string {
		if text == "" {
			return "-"
		}
		return text
	}
	return view[knownTask]{
		columns: []column[knownTask]{
			{head: "TASK", cell: func(k *knownTask) string { return k.Name }},
			{head: "QUEUE", cell: func(k *knownTask) string { return k.Queue }},
			{head: "PRIORITY", right: true, cell: func(k *knownTask) string { return strconv.Itoa(k.Priority) }},
			{head: "RETRIES", right: true, cell: func(k *knownTask) string { return strconv.Itoa(k.MaxRetries) }},
			{head: "SOFT LIMIT", cell: func(k *knownTask) string { return orDash(k.SoftTimeout) }},
			{head: "HARD LIMIT", cell: func(k *knownTask) string { return orDash(k.HardTimeout) }},
			{head: "RATE", wide: true, cell: func(k *knownTask) string { return orDash(k.Rate) }},
			{head: "ALIASES", wide: true, cell: func(k *knownTask) string { return orDash(strings.Join(k.Aliases, ", ")) }},
		},
		name:  func(k *knownTask) string { return k.Name },
		empty: "no tasks: this program has none of its own, and no tasks file is named",
	}
}
