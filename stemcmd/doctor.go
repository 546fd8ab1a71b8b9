package stemcmd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/connect"
)

func (s *session) doctorCommand() *cobra.Command {
	var fix bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Looks for what is wrong with the stores, explains it, and repairs it with --fix",
		Long: `Looks for what is wrong and explains it:
  lock        a process that holds an SQLite file's lock and does not let go
  schema      what each store has
  server      what the store itself warns of, such as an eviction policy
  invariants  each store verifies itself, which reads all of it
  orphans     on two stores: follow-ups and statuses that a crash left behind
  leases      tasks that run on a worker which is not there any more
  clock       workers and stores whose clocks differ from this host's
  heard       queues whose tasks wait and that no worker hears
It changes nothing without --fix, which brings orphans to their end, as an elected
worker does each minute. The exit code is 1 when something was found and is still so.`,
		Example: `  {{stem}} doctor
  {{stem}} doctor --fix
  {{stem}} doctor --output json`,
		Args: noArguments,
	}
	c.Flags().BoolVar(&fix, "fix", false, "repair what can be repaired")
	c.RunE = s.long(func(ctx context.Context, _ []string) error { return s.doctor(ctx, fix) })
	return c
}

// finding is what one check of the doctor came to, as JSON.
type finding struct {
	Check   string `json:"check"`
	Subject string `json:"subject"` // a store, a queue or a worker
	OK      bool   `json:"ok"`
	Detail  string `json:"detail,omitempty"`
	Advice  string `json:"advice,omitempty"`
}

// checker is implemented by backends that can verify their own invariants.
type checker interface {
	Check(ctx context.Context) error
}

func (s *session) doctor(ctx context.Context, fix bool) error {
	held, err := s.heldLocks(ctx)
	if err != nil {
		return err
	}
	if len(held) > 0 {
		return s.tellFindings(held) // nothing else can be looked at
	}
	client, err := s.client(ctx)
	if err != nil {
		return err
	}
	var found []finding
	for _, st := range s.backend.Stores {
		for _, check := range []func(context.Context, connect.Store) ([]finding, error){schemaOf, warned, clockOf, invariants} {
			f, err := check(ctx, st)
			if err != nil {
				return err
			}
			found = append(found, f...)
		}
	}
	for _, check := range []func(context.Context, *stem.Client) ([]finding, error){
		func(ctx context.Context, c *stem.Client) ([]finding, error) { return s.orphans(ctx, c, fix) },
		s.staleLeases, clocks, unheard,
	} {
		f, err := check(ctx, client)
		if err != nil {
			return err
		}
		found = append(found, f...)
	}
	return s.tellFindings(found)
}

// tellFindings lists findings, and what to do about the bad ones.
func (s *session) tellFindings(found []finding) error {
	if _, err := list(s, findingView(), one(found)); err != nil {
		return err
	}
	bad := 0
	for _, f := range found {
		if !f.OK {
			bad++
			if f.Advice != "" && !strings.HasPrefix(s.flags.output, asJSON) {
				s.note("%s: %s", f.Subject, f.Advice)
			}
		}
	}
	if bad > 0 {
		return fail(ExitFailed, "%d of %d checks found something", bad, len(found))
	}
	return nil
}

// invariants lets a store verify itself.
func invariants(ctx context.Context, st connect.Store) ([]finding, error) {
	f := finding{Check: "invariants", Subject: st.URL, OK: true}
	c, ok := st.Backend.(checker)
	if !ok {
		f.Detail = "this kind of store has no check of its own"
		return []finding{f}, nil
	}
	err := c.Check(ctx)
	switch {
	case err == nil:
		f.Detail = "no task in two states, every task has an owner, counters agree"
		return []finding{f}, nil
	case ctx.Err() != nil, errors.Is(err, broker.ErrUnavailable), errors.Is(err, broker.ErrClosed):
		return nil, fmt.Errorf("check %s: %w", st.URL, err) // it was not checked
	}
	var out []finding
	for _, line := range strings.Split(err.Error(), "\n") {
		out = append(out, finding{
			Check: "invariants", Subject: st.URL, Detail: line,
			Advice: "copy the store aside before anything else, and report this as a bug with the lines above",
		})
	}
	return out, nil
}

func hears(w *stem.Heartbeat, queue string) bool {
	return slices.ContainsFunc(w.Queues, func(pattern string) bool { return broker.Match(pattern, queue) })
}

func findingView() view[finding] {
	return view[finding]{
		columns: []column[finding]{
			{head: "CHECK", cell: func(f *finding) string { return f.Check }},
			{head: "SUBJECT", cell: func(f *finding) string { return f.Subject }},
			{head: "STATE", cell: func(f *finding) string {
				if f.OK {
					return "ok"
				}
				return "wrong"
			}, paint: func(f *finding) string {
				if f.OK {
					return green
				}
				return red
			}},
			{head: "DETAIL", cell: func(f *finding) string { return f.Detail }},
		},
		name: func(f *finding) string { return f.Check + " " + f.Subject },
	}
}
