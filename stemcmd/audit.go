package stemcmd

import (
	"context"
	"fmt"
	"iter"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stemjobs/stem/connect"
	"github.com/stemjobs/stem/store"
)

// changing lists the commands that change what is in the stores; each run of one
// leaves a record in the audit. To enqueue is work, and no change of it.
func changing() []string {
	return []string{
		"tasks cancel", "tasks retry", "queue pause", "queue resume", "queue purge",
		"worker revoke", "worker pause", "worker resume", "worker shutdown", "worker scale", "worker log-level", "worker rate-limit",
		"dlq replay", "dlq purge", "dlq import",
		"schedule apply", "schedule delete", "schedule enable", "schedule disable", "schedule pause", "schedule resume",
		"schedule run", "schedule backfill", "doctor",
	}
}

// auditTime bounds the note that follows a change.
const auditTime = 5 * time.Second

// audit notes what the command has changed. What only looked, was refused, or
// failed before it changed anything leaves no record; what failed on the way does.
// The change is done by then, so a note that fails is a warning.
func (s *session) audit(ctx context.Context, args []string, err error) {
	if s.backend == nil || !slices.Contains(changing(), path(s.cmd)) || !s.altered(err) {
		return
	}
	keeper := auditOf(s.backend)
	if keeper == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), auditTime)
	defer cancel()
	on, reason := auditWords(s.cmd, args)
	a, failed := store.NewAction(person(), "cli", path(s.cmd), on)
	if failed == nil {
		failed = keeper.Note(ctx, a.Ended(s.changes, reason, err), store.AuditKeep)
	}
	if failed != nil {
		s.note("%s: warning: this is not in the audit: %v", s.app.Name, failed)
	}
}

// altered reports whether a command that ended so may have changed anything.
func (s *session) altered(err error) bool {
	for _, harmless := range []string{"dry-run", "list"} {
		if f := s.cmd.Flags().Lookup(harmless); f != nil && f.Value.String() == "true" {
			return false
		}
	}
	if s.changes > 0 {
		return true
	}
	code := exitCode(err)
	return s.cmd.Name() != "doctor" && (code == ExitFailed || code == ExitPartly) // perhaps
}

// auditWords are the arguments and flags of a command, but for those that say
// where and how it is shown, and why it was done.
func auditWords(cmd *cobra.Command, args []string) (on, reason string) {
	words := slices.Clone(args)
	cmd.Flags().Visit(func(f *pflag.Flag) {
		switch {
		case cmd.Root().PersistentFlags().Lookup(f.Name) != nil, f.Name == "yes", f.Name == "tasks":
		case f.Name == "note", f.Name == "reason" && cmd.Parent().Name() != "dlq": // there it selects
			reason = f.Value.String()
		default:
			text := f.Value.String()
			if v, ok := f.Value.(*settings); ok {
				text = v.names() // what a task's arguments are is none of the audit's
			}
			words = append(words, "--"+f.Name+"="+text)
		}
	})
	return strings.Join(words, " "), reason
}

// person is who runs this program: a user of a host.
func person() string {
	name := "unknown"
	if u, err := user.Current(); err == nil && u.Username != "" {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}

// auditOf is the audit of the store of envelopes, else of the other one; nil:
// neither keeps one.
func auditOf(b *connect.Backend) store.Audit {
	for _, st := range b.Stores {
		if a, ok := st.Backend.(interface{ Audit() store.Audit }); ok {
			return a.Audit()
		}
	}
	return nil
}

func (s *session) auditCommand() *cobra.Command {
	return group("audit", "Shows who changed what", s.auditListCommand())
}

// auditFlags select records of the audit.
type auditFlags struct {
	q            store.AuditQuery
	since, until string
	limit        whole
}

func (s *session) auditListCommand() *cobra.Command {
	f := &auditFlags{limit: whole{value: 50, most: 1_000_000_000}}
	c := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "Lists who changed what, newest first",
		Long: `Lists who changed what, when, how many and why, newest first: cancellations, pauses,
purges, replays, commands to workers, changes of schedules, repairs; by the command
line and the HTTP API. Records are kept for 90 days. To enqueue is no change.`,
		Example: `  {{stem}} audit ls
  {{stem}} audit ls --what 'dlq *' --since 24h
  {{stem}} audit ls --who 'deploy@*' --output jsonl --limit 0`,
		Args: noArguments,
	}
	flags := c.Flags()
	flags.StringVar(&f.q.Who, "who", "", "`WHO`, or a pattern with *: user@host, or a token's name")
	flags.StringVar(&f.q.What, "what", "", "`WHAT`, or a pattern with *, such as 'dlq *'")
	flags.StringVar(&f.q.Via, "via", "", "`WAY`: cli or api")
	flags.StringVar(&f.q.On, "on", "", "`TEXT` that is in what it was done to")
	flags.StringVar(&f.since, "since", "", "at or after this `MOMENT`, or so long ago")
	flags.StringVar(&f.until, "until", "", "before this `MOMENT`, or so long ago")
	flags.Var(&f.limit, "limit", "at most so many; 0: all")
	flags.StringVar(&f.q.Cursor, "cursor", "", "`CURSOR` that an earlier page ended with")
	if err := c.RegisterFlagCompletionFunc("via", fixed("cli", "api")); err != nil {
		panic("stemcmd: " + err.Error()) // a mistake in this function
	}
	c.RunE = s.short(func(ctx context.Context, _ []string) error { return s.auditList(ctx, f) })
	return c
}

func (s *session) auditList(ctx context.Context, f *auditFlags) error {
	for _, x := range []struct {
		flag, text string
		to         *time.Time
	}{{"since", f.since, &f.q.Since}, {"until", f.until, &f.q.Until}} {
		if x.text == "" {
			continue
		}
		t, err := store.ParseMoment(x.text, time.Now())
		if err != nil {
			return usage("--%s: %w", x.flag, err)
		}
		*x.to = t
	}
	b, err := s.open(ctx, true)
	if err != nil {
		return err
	}
	keeper := auditOf(b)
	if keeper == nil {
		return fail(ExitRefused, "%s keeps no audit", s.where())
	}
	var cursor string
	if _, err := list(s, actionView(), auditPages(ctx, keeper, f.q, f.limit.value, &cursor)); err != nil {
		return err
	}
	s.more(cursor)
	return nil
}

// auditPages asks for pages until limit (0: none) is reached; cursor is then
// where to go on.
func auditPages(ctx context.Context, keeper store.Audit, q store.AuditQuery, limit int, cursor *string) iter.Seq2[[]store.Action, error] {
	return func(yield func([]store.Action, error) bool) {
		for n := 0; limit == 0 || n < limit; {
			q.Limit = 1000
			if limit > 0 {
				q.Limit = min(limit-n, 1000)
			}
			page, next, err := keeper.List(ctx, q)
			if err != nil {
				yield(nil, err)
				return
			}
			n += len(page)
			*cursor, q.Cursor = next, next
			if !yield(page, nil) || next == "" {
				return
			}
		}
	}
}

func actionView() view[store.Action] {
	type row = store.Action
	return view[row]{
		columns: []column[row]{
			{head: "AT", cell: func(a *row) string { return moment(a.At) }},
			{head: "WHO", cell: func(a *row) string { return a.Who }},
			{head: "VIA", cell: func(a *row) string { return a.Via }},
			{head: "WHAT", cell: func(a *row) string { return a.What }},
			{head: "COUNT", right: true, cell: func(a *row) string { return strconv.Itoa(a.Count) }},
			{head: "ON", cell: func(a *row) string { return a.On }},
			{head: "WHY", cell: func(a *row) string { return a.Reason }},
			{head: "ERROR", cell: func(a *row) string { return a.Error }, paint: func(*row) string { return red }},
			{head: "ID", wide: true, cell: func(a *row) string { return a.ID }},
		},
		name:  func(a *row) string { return fmt.Sprintf("%s %s", a.ID, a.What) },
		empty: "nothing was changed",
	}
}
