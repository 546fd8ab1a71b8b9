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
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Looks for what is wrong with the stores and explains it",
		Long: `Looks for what is wrong and explains it; changes nothing. First each store verifies
its own invariants, which reads all of it; then come queues whose tasks wait and
that no worker hears. The exit code is 1 when something was found.`,
		Example: `  {{stem}} doctor
  {{stem}} doctor --output json`,
		Args: noArguments,
	}
	c.RunE = s.long(s.doctor)
	return c
}

// finding is what one check of the doctor came to, as JSON.
type finding struct {
	Check   string `json:"check"`
	Subject string `json:"subject"` // a store or a queue
	OK      bool   `json:"ok"`
	Detail  string `json:"detail,omitempty"`
	Advice  string `json:"advice,omitempty"`
}

// checker is implemented by backends that can verify their own invariants.
type checker interface {
	Check(ctx context.Context) error
}

func (s *session) doctor(ctx context.Context, _ []string) error {
	b, err := s.open(ctx, true)
	if err != nil {
		return err
	}
	var found []finding
	for _, st := range b.Stores {
		f, err := invariants(ctx, st)
		if err != nil {
			return err
		}
		found = append(found, f...)
	}
	deaf, err := unheard(ctx, b)
	if err != nil {
		return err
	}
	return s.tellFindings(append(found, deaf...))
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

// unheard finds queues whose tasks wait and that no worker receives from.
func unheard(ctx context.Context, b *connect.Backend) ([]finding, error) {
	beats := b.Heartbeats()
	if beats == nil {
		return nil, nil
	}
	workers, err := beats.Workers(ctx)
	if err != nil {
		return nil, fmt.Errorf("list workers: %w", err)
	}
	queues, err := b.Broker().Queues(ctx)
	if err != nil {
		return nil, fmt.Errorf("list queues: %w", err)
	}
	var out []finding
	for _, q := range queues {
		if q.Ready == 0 {
			continue
		}
		f := finding{Check: "heard", Subject: "queue " + q.Name, OK: true}
		n := 0
		for i := range workers {
			if hears(&workers[i], q.Name) {
				n++
			}
		}
		if f.Detail = fmt.Sprintf("%d ready, %s", q.Ready, several(n, "worker")); n == 0 {
			f.OK = false
			f.Detail = fmt.Sprintf("%d ready, the oldest for %s, and no live worker hears this queue", q.Ready, span(q.Oldest))
			f.Advice = "start one with worker run --queues " + q.Name
		}
		out = append(out, f)
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
