package stemcmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

func (s *session) dlqCommand() *cobra.Command {
	return group("dlq", "Looks at dead letters, replays them, removes them",
		s.dlqListCommand(), s.dlqShowCommand(), s.dlqReplayCommand(), s.dlqPurgeCommand(),
		s.dlqExportCommand(), s.dlqImportCommand())
}

// deadFlags select dead letters.
type deadFlags struct {
	queue, task, reason string
	ids                 []string
	olderThan           duration
	limit               whole
	group               string // a fingerprint
}

func (f *deadFlags) add(s *session, c *cobra.Command, limit int, limitHelp string) {
	f.limit = whole{value: limit, most: 1_000_000_000}
	flags := c.Flags()
	flags.StringVar(&f.queue, "queue", "", "`QUEUE` or pattern with *; '*' is all")
	flags.StringSliceVar(&f.ids, "id", nil, "`ID` of a task; may be given again")
	flags.StringVar(&f.task, "task", "", "`TASK` name or pattern with *")
	flags.StringVar(&f.reason, "reason", "", "`REASON`, such as retries-exhausted or crash-loop")
	flags.Var(&f.olderThan, "older-than", "dead for longer than this")
	flags.Var(&f.limit, "limit", limitHelp)
	s.completeQueueFlag(c)
}

// addGroup adds the flag that selects by fingerprint.
func (f *deadFlags) addGroup(c *cobra.Command) {
	c.Flags().StringVar(&f.group, "group", "", "`FINGERPRINT` of their errors, as dlq list --group tells")
}

// filter makes the broker's filter.
func (f *deadFlags) filter(now time.Time) (broker.DeadFilter, error) {
	for _, id := range f.ids {
		if err := task.ValidateID(id); err != nil {
			return broker.DeadFilter{}, err
		}
	}
	if q := strings.ReplaceAll(f.queue, "*", ""); q != "" {
		if err := task.ValidateQueue(q); err != nil {
			return broker.DeadFilter{}, err
		}
	}
	d := broker.DeadFilter{IDs: f.ids, Task: f.task, Reason: f.reason}
	if f.queue != "*" {
		d.Queue = f.queue
	}
	if f.olderThan > 0 {
		d.Before = now.Add(-time.Duration(f.olderThan))
	}
	return d, nil
}

// bounded refuses a filter that selects everything without saying so.
func (f *deadFlags) bounded(cmd string) error {
	if f.queue == "" && len(f.ids) == 0 && f.task == "" && f.reason == "" && f.olderThan == 0 && f.group == "" {
		return usage("say which dead letters: --queue, --id, --task, --reason, --older-than or --group").
			hinted("%s --queue '*' takes all", cmd)
	}
	return nil
}

// words tells the filter to people.
func (f *deadFlags) words() string {
	var parts []string
	add := func(name, value string) {
		if value != "" {
			parts = append(parts, name+" "+value)
		}
	}
	add("queue", f.queue)
	add("task", f.task)
	add("reason", f.reason)
	add("id", strings.Join(f.ids, ", "))
	add("group", f.group)
	if f.olderThan > 0 {
		add("older than", f.olderThan.String())
	}
	return strings.Join(parts, ", ")
}

func (s *session) dlqListCommand() *cobra.Command {
	f := &deadFlags{}
	var cursor string
	var groups bool
	c := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "Lists dead letters, newest first",
		Long: `Lists dead letters, newest first. With --group it lists the kinds of failure among the
newest 100,000 instead: those whose errors have the same type, and the same message
but for numbers, ids, paths and quoted texts. --limit then bounds the kinds shown.`,
		Example: `  {{stem}} dlq list --queue default --limit 20
  {{stem}} dlq list --queue default --group
  {{stem}} dlq list --reason crash-loop --older-than 1h --output json`,
		Args: noArguments,
	}
	f.add(s, c, 50, "at most so many; 0: all")
	c.Flags().StringVar(&cursor, "cursor", "", "`CURSOR` that an earlier page ended with")
	c.Flags().BoolVar(&groups, "group", false, "the kinds of failure, with how many there are of each")
	notTogether(c, "group", "cursor")
	c.RunE = s.short(func(ctx context.Context, _ []string) error {
		filter, err := f.filter(time.Now())
		if err != nil {
			return err
		}
		client, err := s.client(ctx)
		if err != nil {
			return err
		}
		if groups {
			return s.listGroups(ctx, client, filter, f.limit.value)
		}
		var next string
		if _, err := list(s, deadView(), deadPages(ctx, client, filter, f.limit.value, cursor, &next)); err != nil {
			return err
		}
		s.more(next)
		return nil
	})
	return c
}

// deadPages asks for pages until limit (0: none) is reached, and keeps the
// cursor of what was not shown.
func deadPages(ctx context.Context, c *stem.Client, f broker.DeadFilter, limit int, cursor string, next *string) iter.Seq2[[]broker.DeadLetter, error] {
	return func(yield func([]broker.DeadLetter, error) bool) {
		for n := 0; limit == 0 || n < limit; {
			p := broker.Page{Limit: 1000, Cursor: cursor}
			if limit > 0 {
				p.Limit = min(limit-n, 1000)
			}
			page, after, err := c.DeadLetters(ctx, f, p)
			if err != nil {
				yield(nil, err)
				return
			}
			n += len(page)
			cursor, *next = after, after
			if !yield(page, nil) || after == "" {
				return
			}
		}
	}
}

// listGroups shows the kinds of failure, and how far the scan went.
func (s *session) listGroups(ctx context.Context, client *stem.Client, f broker.DeadFilter, limit int) error {
	found, err := client.GroupDeadLetters(ctx, f, 0)
	if err != nil {
		return err
	}
	shown := found.Groups
	if limit > 0 && len(shown) > limit {
		shown = shown[:limit]
	}
	for i := range shown {
		shown[i].FirstSeen, shown[i].LastSeen = utcTime(shown[i].FirstSeen), utcTime(shown[i].LastSeen)
	}
	if _, err := list(s, groupView(), one(shown)); err != nil {
		return err
	}
	if found.Truncated {
		s.note("%d dead letters were looked at, and there are older ones: narrow the filter", found.Looked)
	}
	if rest := len(found.Groups) - len(shown); rest > 0 {
		s.note("there are %d more groups: --limit 0 shows all", rest)
	}
	return nil
}

func groupView() view[stem.DeadGroup] {
	type row = stem.DeadGroup
	return view[row]{
		columns: []column[row]{
			{head: "GROUP", cell: func(g *row) string { return g.Fingerprint }},
			{head: "COUNT", right: true, cell: func(g *row) string { return strconv.Itoa(g.Count) }},
			{head: "FIRST", cell: func(g *row) string { return ago(g.FirstSeen) }},
			{head: "LAST", cell: func(g *row) string { return ago(g.LastSeen) }},
			{head: "EXAMPLE", cell: func(g *row) string { return g.Example }},
			{head: "TASKS", cell: func(g *row) string { return strings.Join(slices.Sorted(maps.Keys(g.Tasks)), ", ") }},
			{head: "ERROR", cell: func(g *row) string { return strings.TrimSuffix(g.Type+": "+g.Message, ": ") }, paint: func(*row) string { return red }},
		},
		name:  func(g *row) string { return g.Fingerprint },
		empty: "no dead letters",
	}
}

// deadLetter is a dead letter as JSON. Envelope and Raw are shown by dlq show
// and dlq export alone.
type deadLetter struct {
	ID           string          `json:"id"`
	Name         string          `json:"name"`
	Queue        string          `json:"queue"`
	Reason       string          `json:"reason"`
	Error        *task.Error     `json:"error,omitempty"`
	Errors       []task.Error    `json:"errors"`
	Attempt      int             `json:"attempt"`
	MaxRetries   int             `json:"maxRetries"`
	Epoch        int64           `json:"epoch"`
	EnqueuedAt   time.Time       `json:"enqueuedAt,omitzero"`
	DeadAt       time.Time       `json:"deadAt"`
	ReplayCount  int             `json:"replayCount"`
	LastReplayAt time.Time       `json:"lastReplayAt,omitzero"`
	Envelope     json.RawMessage `json:"envelope,omitempty"`
	Raw          []byte          `json:"raw,omitempty"`  // base64: the entry, when it is no envelope
	Wire         []byte          `json:"wire,omitempty"` // base64: the envelope, when JSON's rules for blanks would change it
}

func deadJSON(d *broker.DeadLetter) deadLetter {
	out := deadLetter{
		ID: d.Envelope.ID, Name: d.Envelope.Name, Queue: d.Queue, Reason: d.Reason, Error: d.Error,
		Errors: append([]task.Error{}, utcErrors(d.Errors)...), Attempt: d.Attempt, MaxRetries: d.Envelope.MaxRetries, Epoch: d.Epoch,
		EnqueuedAt: utcTime(d.Envelope.EnqueuedAt), DeadAt: utcTime(d.DeadAt),
		ReplayCount: d.ReplayCount, LastReplayAt: utcTime(d.LastReplayAt),
	}
	if d.Error != nil {
		e := *d.Error
		e.At = utcTime(e.At)
		out.Error = &e
	}
	return out
}

func deadView() view[broker.DeadLetter] {
	type row = broker.DeadLetter
	return view[row]{
		columns: []column[row]{
			{head: "ID", cell: func(d *row) string { return d.Envelope.ID }},
			{head: "TASK", cell: func(d *row) string { return d.Envelope.Name }},
			{head: "QUEUE", cell: func(d *row) string { return d.Queue }},
			{head: "REASON", cell: func(d *row) string { return d.Reason }, paint: func(*row) string { return red }},
			{head: "ATTEMPT", right: true, cell: func(d *row) string { return strconv.Itoa(d.Attempt) }},
			{head: "REPLAYS", right: true, cell: func(d *row) string { return strconv.Itoa(d.ReplayCount) }},
			{head: "DEAD", cell: func(d *row) string { return ago(d.DeadAt) }},
			{head: "ERROR", cell: func(d *row) string {
				if d.Error == nil {
					return ""
				}
				return d.Error.Message
			}},
			{head: "DEAD AT", wide: true, cell: func(d *row) string { return moment(d.DeadAt) }},
			{head: "ENQUEUED AT", wide: true, cell: func(d *row) string { return moment(d.Envelope.EnqueuedAt) }},
		},
		name:  func(d *row) string { return d.Envelope.ID },
		json:  func(d *row) any { return deadJSON(d) },
		empty: "no dead letters",
	}
}

func (s *session) dlqShowCommand() *cobra.Command {
	f := &deadFlags{}
	c := &cobra.Command{
		Use:     "show [ID...]",
		Aliases: []string{"get"},
		Short:   "Shows dead letters with their envelopes",
		Example: `  {{stem}} dlq show --queue default --id 0198c0de-0000-7000-8000-000000000001
  {{stem}} dlq show job-42 --output json`,
	}
	c.Flags().StringVar(&f.queue, "queue", "", "`QUEUE` that it died in")
	c.Flags().StringSliceVar(&f.ids, "id", nil, "`ID` of a task; may be given again")
	s.completeQueueFlag(c)
	c.RunE = s.short(func(ctx context.Context, args []string) error {
		f.ids = append(f.ids, args...)
		if len(f.ids) == 0 {
			return usage("dlq show needs the ID of a task").hinted("%s dlq list lists them", s.app.Name)
		}
		filter, err := f.filter(time.Now())
		if err != nil {
			return err
		}
		client, err := s.client(ctx)
		if err != nil {
			return err
		}
		var next string
		var found []broker.DeadLetter
		for page, err := range deadPages(ctx, client, filter, len(f.ids), "", &next) {
			if err != nil {
				return err
			}
			found = append(found, page...)
		}
		return errors.Join(s.showDead(found, len(f.ids)), missing(f.ids, found))
	})
	return c
}

// missing is an error for the ids that are not among what was found.
func missing(ids []string, found []broker.DeadLetter) error {
	there := map[string]bool{}
	for i := range found {
		there[found[i].Envelope.ID] = true
	}
	var errs []error
	for _, id := range ids {
		if !there[id] {
			errs = append(errs, fail(ExitNotFound, "no dead letter %s", id))
		}
	}
	return all(len(ids), errs)
}

func (s *session) showDead(found []broker.DeadLetter, asked int) error {
	full := make([]deadLetter, len(found))
	for i := range found {
		full[i] = deadJSON(&found[i])
		full[i].Raw = found[i].Raw
		if found[i].Raw == nil {
			raw, err := task.Encode(found[i].Envelope)
			if err != nil {
				return fmt.Errorf("encode dead letter %s: %w", full[i].ID, err)
			}
			full[i].Envelope = raw
		}
	}
	switch f := s.flags.output; {
	case f == asJSON && asked == 1 && len(full) == 1:
		_, err := s.object(full[0])
		return err
	case f != asTable && f != asWide:
		_, err := list(s, view[deadLetter]{name: func(d *deadLetter) string { return d.ID }}, one(full))
		return err
	}
	for i := range full {
		if i > 0 {
			fmt.Fprintln(s.stdout)
		}
		s.sheet().dead(&full[i], found[i].Envelope)
	}
	return nil
}

func (sh *sheet) dead(d *deadLetter, e *task.Envelope) {
	fmt.Fprintln(sh.out, d.ID+"  dead: "+d.Reason)
	sh.line("task", d.Name)
	sh.line("queue", fmt.Sprintf("%s, priority %d", d.Queue, e.Priority))
	sh.line("attempt", fmt.Sprintf("%d of %d", d.Attempt, d.MaxRetries+1))
	sh.time("enqueued", d.EnqueuedAt)
	sh.time("dead since", d.DeadAt)
	if d.ReplayCount > 0 {
		sh.line("replayed", several(d.ReplayCount, "time")+", last at "+moment(d.LastReplayAt))
	}
	for _, k := range sortedKeys(e.Headers) {
		sh.line("header."+k, e.Headers[k])
	}
	sh.json("args", e.Args)
	sh.meta(e.Meta)
	sh.errors(d.Error, d.Errors)
	if d.Raw != nil {
		sh.line("entry", strconv.Quote(string(d.Raw[:min(len(d.Raw), 1024)])))
	}
}
