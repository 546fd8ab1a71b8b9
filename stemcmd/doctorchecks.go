package stemcmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/sqlite"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/connect"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// lockPatience is how long the doctor waits for a lock that somebody holds,
// before it says who: others get it in turn, within milliseconds.
const lockPatience = 3 * time.Second

// heldLocks finds SQLite files whose lock somebody holds and does not let go.
func (s *session) heldLocks(ctx context.Context) ([]finding, error) {
	var found []finding
	for _, r := range s.stores() {
		path, ok := connect.SQLitePath(r.options.Broker)
		if !ok {
			continue
		}
		holders, err := sqlite.LockHolders(path)
		if err != nil || len(holders) == 0 {
			continue // there is no file, or no system that tells; opening it says more
		}
		f, err := tryOpen(ctx, r.options, path)
		if err != nil {
			return nil, err
		}
		found = append(found, f...)
	}
	return found, nil
}

// tryOpen opens the store and closes it again, or says who keeps it locked.
func tryOpen(ctx context.Context, o connect.Options, path string) ([]finding, error) {
	short, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	b, err := connect.Open(short, o)
	if err == nil {
		return nil, b.Close()
	}
	if ctx.Err() != nil || short.Err() == nil {
		return nil, err
	}
	holders, _ := sqlite.LockHolders(path) // who has gone meanwhile holds nothing
	if len(holders) == 0 {
		return nil, err
	}
	var names []string
	for _, pid := range holders {
		names = append(names, describeProcess(pid))
	}
	pid := strconv.Itoa(holders[0])
	return []finding{{
		Check: "lock", Subject: connect.Mask(o.Broker),
		Detail: fmt.Sprintf("%s holds the lock of the file for more than %s: everybody who writes waits for it", strings.Join(names, ", "), lockPatience),
		Advice: "if it is stopped, let it go on with kill -CONT " + pid + "; else end it with kill " + pid + ": its transaction is undone, and leases bring its tasks back",
	}}, nil
}

// describeProcess names a process, as far as the system tells.
func describeProcess(pid int) string {
	text := fmt.Sprintf("process %d", pid)
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return text
	}
	// 708 (stem) T 1 …
	name, rest, ok := strings.Cut(string(data), ") ")
	if _, name, _ = strings.Cut(name, "("); ok && name != "" {
		text += " (" + name
		if strings.HasPrefix(rest, "T") || strings.HasPrefix(rest, "t") {
			text += ", stopped"
		}
		text += ")"
	}
	return text
}

// schemaOf tells a store's schema; a wrong one would not have opened.
func schemaOf(ctx context.Context, st connect.Store) ([]finding, error) {
	t, ok := st.Backend.(schemaTeller)
	if !ok {
		return nil, nil
	}
	schema, err := t.Schema(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the schema of %s: %w", st.URL, err)
	}
	return []finding{{Check: "schema", Subject: st.URL, OK: true, Detail: schema}}, nil
}

// warned is what the store itself warns of.
func warned(ctx context.Context, st connect.Store) ([]finding, error) {
	w, ok := st.Backend.(warner)
	if !ok {
		return nil, nil
	}
	said, err := w.Warnings(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask %s how it is: %w", st.URL, err)
	}
	if len(said) == 0 {
		return []finding{{Check: "server", Subject: st.URL, OK: true, Detail: "nothing that it would warn of"}}, nil
	}
	var out []finding
	for _, text := range said {
		detail, advice, _ := strings.Cut(text, "; ")
		out = append(out, finding{Check: "server", Subject: st.URL, Detail: detail, Advice: advice})
	}
	return out, nil
}

// clocker is implemented by backends on a server with a clock of its own.
type clocker interface {
	Clock(ctx context.Context) (time.Time, error)
}

// maxSkew is how far clocks may differ.
const maxSkew = time.Second

// clockOf compares the store's clock with this host's.
func clockOf(ctx context.Context, st connect.Store) ([]finding, error) {
	c, ok := st.Backend.(clocker)
	if !ok {
		return nil, nil
	}
	asked := time.Now()
	theirs, err := c.Clock(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask %s for the time: %w", st.URL, err)
	}
	ours := asked.Add(time.Since(asked) / 2)
	return []finding{skew(st.URL, theirs.Sub(ours))}, nil
}

// skew judges how far a clock is ahead of this host's.
func skew(subject string, ahead time.Duration) finding {
	f := finding{Check: "clock", Subject: subject, OK: ahead.Abs() <= maxSkew}
	word := "ahead of"
	if ahead < 0 {
		word = "behind"
	}
	f.Detail = fmt.Sprintf("its clock is %s %s this host's", span(ahead.Abs()), word)
	if !f.OK {
		f.Advice = "let NTP set the clocks of both hosts: leases and schedules follow the store's clock, times in statuses and heartbeats those of their hosts"
	}
	return f
}

// clocks finds workers whose heartbeats are from the future. That one is behind
// cannot be told from its being late.
func clocks(ctx context.Context, client *stem.Client) ([]finding, error) {
	workers, err := anyWorkers(ctx, client)
	if err != nil {
		return nil, err
	}
	var out []finding
	for i := range workers {
		if ahead := time.Until(workers[i].At); ahead > maxSkew {
			out = append(out, skew("worker "+workers[i].Worker+" on "+workers[i].Host, ahead))
		}
	}
	return out, nil
}

// orphans finds what a crash between two stores left, or ends it. On one store
// the invariants have it: each step there is whole.
func (s *session) orphans(ctx context.Context, client *stem.Client, fix bool) ([]finding, error) {
	if len(s.backend.Stores) < 2 {
		return nil, nil
	}
	look, lease := client.Orphans, s.conf.Config.Lease
	if fix {
		look = client.Reconcile
	}
	r, err := look(ctx, lease)
	if errors.Is(err, broker.ErrUnsupported) {
		return []finding{{Check: "orphans", Subject: s.where(), OK: true, Detail: "this broker cannot tell which tasks it owns"}}, nil
	}
	if err != nil {
		return nil, err
	}
	n := r.Outboxes + r.Orphans
	f := finding{
		Check: "orphans", Subject: s.where(), OK: n == 0 || fix,
		Detail: fmt.Sprintf("%s and %s without an owner, of %d looked at", several(r.Outboxes, "follow-up"), several(r.Orphans, "unfinished task"), r.Looked),
	}
	switch {
	case n > 0 && fix:
		s.changes += n
		f.Detail += ": brought to their end"
	case n > 0:
		f.Advice = "doctor --fix brings them to their end; a worker that runs does so each minute"
	}
	return []finding{f}, nil
}

// staleLeases finds tasks that run on a worker which is not there any more,
// although their lease must have ended long ago.
func (s *session) staleLeases(ctx context.Context, client *stem.Client) ([]finding, error) {
	workers, err := anyWorkers(ctx, client)
	if err != nil {
		return nil, err
	}
	l, err := client.List(ctx, store.Query{States: []task.State{task.Running}, Limit: 1000, Until: time.Now().Add(-3 * s.conf.Config.Lease)})
	if errors.Is(err, broker.ErrUnsupported) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	lost := map[string][]string{} // ids by worker and queue
	for i := range l.Statuses {
		st := &l.Statuses[i]
		alive := slices.ContainsFunc(workers, func(h stem.Heartbeat) bool { return h.Worker == st.Worker })
		quiet := time.Since(st.StartedAt) > 3*s.conf.Config.Lease && (st.Progress == nil || time.Since(st.Progress.At) > 3*s.conf.Config.Lease)
		if !alive && quiet {
			key := st.Worker + " of queue " + st.Queue
			lost[key] = append(lost[key], st.ID)
		}
	}
	var out []finding
	for key, ids := range lost {
		out = append(out, finding{
			Check: "leases", Subject: "worker " + key,
			Detail: fmt.Sprintf("%s running there, such as %s, and the worker has no heartbeat", several(len(ids), "task"), ids[0]),
			Advice: "whoever receives from the queue takes them back: start a worker for it; one that pulls over HTTP has no heartbeat and may be at work",
		})
	}
	slices.SortFunc(out, func(a, b finding) int { return strings.Compare(a.Subject, b.Subject) })
	return out, nil
}

// unheard finds queues whose tasks wait and that no worker receives from.
func unheard(ctx context.Context, client *stem.Client) ([]finding, error) {
	workers, err := client.Workers(ctx)
	if errors.Is(err, broker.ErrUnsupported) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	queues, err := client.Queues(ctx)
	if err != nil {
		return nil, err
	}
	pauses, err := client.PausedQueues(ctx)
	if err != nil && !errors.Is(err, broker.ErrUnsupported) {
		return nil, err
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
		paused := slices.IndexFunc(pauses, func(p broker.Pause) bool { return p.Queue == q.Name })
		switch f.Detail = fmt.Sprintf("%d ready, %s", q.Ready, several(n, "worker")); {
		case paused >= 0:
			f.OK = false
			f.Detail = strings.TrimSpace(fmt.Sprintf("%d ready, and the queue is paused since %s %s", q.Ready, moment(pauses[paused].Since), pauses[paused].Note))
			f.Advice = "let it go on with queue resume " + q.Name
		case n == 0:
			f.OK = false
			f.Detail = fmt.Sprintf("%d ready, the oldest for %s, and no live worker hears this queue", q.Ready, span(q.Oldest))
			f.Advice = "start one with worker run --queues " + q.Name
		}
		out = append(out, f)
	}
	return out, nil
}
