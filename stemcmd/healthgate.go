package stemcmd

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// Exit codes of health check, which are those that monitoring plug-ins have.
const (
	gateOK       = 0
	gateWarning  = 1
	gateCritical = 2
	gateUnknown  = 3
)

// gateStates names them.
func gateStates() []string { return []string{"ok", "warning", "critical", "unknown"} }

// gateFlags are the limits of health check.
type gateFlags struct {
	queues     []string
	maxAge     duration
	maxDepth   whole
	minWorkers whole
	format     string
}

func gateFormats() []string { return []string{"text", "json", "nagios", "prometheus"} }

func (s *session) healthCheckCommand() *cobra.Command {
	f := &gateFlags{maxDepth: whole{most: 1_000_000_000}, minWorkers: whole{most: 1_000_000}}
	c := &cobra.Command{
		Use:   "check",
		Short: "Holds queues to limits, for monitoring: age, depth, workers",
		Long: `Holds queues to limits, for monitoring. The exit code is that of monitoring plug-ins:
  0  every queue is within its limits
  1  warning: a queue is paused, or the store warns of what will go wrong
  2  critical: a limit is passed (also wrong usage)
  3  unknown: the store cannot be asked
Without --queue every queue that holds anything is looked at.`,
		Example: `  {{stem}} health check --queue default --max-age 60s --max-depth 1000 --min-workers 1
  {{stem}} health check --queue 'tenant-*' --max-age 5m --format nagios
  {{stem}} health check --format prometheus > /var/lib/node_exporter/stem.prom`,
		Args: noArguments,
	}
	flags := c.Flags()
	flags.StringArrayVar(&f.queues, "queue", nil, "`QUEUE`, or a pattern; may be given again")
	flags.Var(&f.maxAge, "max-age", "the oldest task that is ready may wait so long")
	flags.Var(&f.maxDepth, "max-depth", "so many tasks may be ready")
	flags.Var(&f.minWorkers, "min-workers", "so many live workers must hear the queue")
	flags.StringVar(&f.format, "format", "text", "`FORMAT`: text, json, nagios or prometheus")
	s.completeQueueFlag(c)
	if err := c.RegisterFlagCompletionFunc("format", fixed(gateFormats()...)); err != nil {
		panic("stemcmd: " + err.Error()) // a mistake in this function
	}
	c.RunE = s.short(func(ctx context.Context, _ []string) error { return s.healthCheck(ctx, f) })
	return c
}

// gate is what health check says, as JSON.
type gate struct {
	Status   string      `json:"status"` // ok, warning, critical or unknown
	Queues   []gateQueue `json:"queues"`
	Problems []string    `json:"problems"`

	code int
}

// gateQueue is one queue of it.
type gateQueue struct {
	Queue            string  `json:"queue"`
	Status           string  `json:"status"`
	Ready            int     `json:"ready"`
	OldestAgeSeconds float64 `json:"oldestAgeSeconds"`
	Workers          int     `json:"workers"`
	Paused           bool    `json:"paused"`

	code int
}

func (s *session) healthCheck(ctx context.Context, f *gateFlags) error {
	if !slices.Contains(gateFormats(), f.format) {
		return usage("--format %q: want one of %s", f.format, strings.Join(gateFormats(), ", "))
	}
	for _, q := range f.queues {
		if err := task.ValidateQueue(strings.ReplaceAll(q, "*", "x")); err != nil {
			return usage("--queue %q: %w", q, err)
		}
	}
	g, err := s.gate(ctx, f)
	if err != nil && exitCode(err) == ExitUsage {
		return err
	}
	if err != nil {
		g = gate{code: gateUnknown, Queues: []gateQueue{}, Problems: []string{because(ctx, err).Error()}}
	}
	g.Status = gateStates()[g.code]
	if err := g.write(s, f.format); err != nil {
		return err
	}
	if g.code != gateOK {
		return &exitError{code: g.code, err: errQuiet}
	}
	return nil
}

// gate looks at the store.
func (s *session) gate(ctx context.Context, f *gateFlags) (gate, error) {
	g := gate{Queues: []gateQueue{}, Problems: []string{}}
	client, err := s.client(ctx)
	if err != nil {
		return g, err
	}
	infos, err := gateInfos(ctx, client, f.queues)
	if err != nil {
		return g, err
	}
	workers, err := anyWorkers(ctx, client)
	if err != nil {
		return g, err
	}
	pauses, err := client.PausedQueues(ctx)
	if err != nil && exitCode(err) != ExitRefused { // a store without pauses has none
		return g, err
	}
	for i := range infos {
		g.look(f, &infos[i], workers, pauses)
	}
	for _, st := range s.backend.Stores {
		w, ok := st.Backend.(warner)
		if !ok {
			continue
		}
		said, err := w.Warnings(ctx)
		if err != nil {
			return g, err
		}
		for _, text := range said {
			g.problem(gateWarning, nil, "%s: %s", st.URL, text)
		}
	}
	return g, nil
}

// gateInfos describes the named queues, those that fit the patterns, or all.
func gateInfos(ctx context.Context, client *stem.Client, want []string) ([]broker.QueueInfo, error) {
	if len(want) == 0 {
		return client.Queues(ctx)
	}
	if !slices.ContainsFunc(want, broker.IsPattern) {
		return client.Queues(ctx, want...)
	}
	names, err := expand(ctx, client, want)
	if exitCode(err) == ExitNotFound {
		return nil, nil // a pattern that nothing fits has nothing to complain of
	}
	if err != nil {
		return nil, err
	}
	return client.Queues(ctx, names...)
}

// look holds one queue to the limits.
func (g *gate) look(f *gateFlags, q *broker.QueueInfo, workers []stem.Heartbeat, pauses []broker.Pause) {
	row := gateQueue{Queue: q.Name, Ready: q.Ready, OldestAgeSeconds: q.Oldest.Seconds()}
	for i := range workers {
		if hears(&workers[i], q.Name) {
			row.Workers++
		}
	}
	if i := slices.IndexFunc(pauses, func(p broker.Pause) bool { return p.Queue == q.Name }); i >= 0 {
		row.Paused = true
		g.problem(gateWarning, &row, "queue %s is paused since %s (%s)", q.Name, moment(pauses[i].Since), cmp.Or(pauses[i].Note, "without a note"))
	}
	if limit := time.Duration(f.maxAge); limit > 0 && q.Oldest > limit {
		g.problem(gateCritical, &row, "queue %s: the oldest task waits for %s, more than %s", q.Name, span(q.Oldest), span(limit))
	}
	if f.maxDepth.set && q.Ready > f.maxDepth.value {
		g.problem(gateCritical, &row, "queue %s: %d tasks are ready, more than %d", q.Name, q.Ready, f.maxDepth.value)
	}
	if f.minWorkers.set && row.Workers < f.minWorkers.value {
		g.problem(gateCritical, &row, "queue %s: %s hear it, fewer than %d", q.Name, several(row.Workers, "live worker"), f.minWorkers.value)
	}
	row.Status = gateStates()[row.code]
	g.Queues = append(g.Queues, row)
}

// problem notes what is wrong with a queue (nil: with the whole).
func (g *gate) problem(code int, row *gateQueue, format string, args ...any) {
	g.code = max(g.code, code)
	if row != nil {
		row.code = max(row.code, code)
	}
	g.Problems = append(g.Problems, fmt.Sprintf(format, args...))
}

func (g *gate) write(s *session, format string) error {
	if format == "text" {
		if done, err := s.object(g); done { // --output json
			return err
		}
	}
	switch format {
	case "json":
		return encodeJSON(s.stdout, g, "", "  ")
	case "prometheus":
		return g.prometheus(s.stdout)
	case "nagios":
		_, err := fmt.Fprintln(s.stdout, clean(g.nagios()))
		return err
	}
	if len(g.Problems) == 0 {
		_, err := fmt.Fprintf(s.stdout, "ok: %s within limits\n", several(len(g.Queues), "queue"))
		return err
	}
	for _, p := range g.Problems {
		fmt.Fprintln(s.stdout, clean(g.Status+": "+p))
	}
	return nil
}

// nagios is one line: the state, what is wrong, and the numbers after a bar.
func (g *gate) nagios() string {
	text := "STEM " + strings.ToUpper(g.Status) + " - "
	if len(g.Problems) == 0 {
		text += several(len(g.Queues), "queue") + " within limits"
	}
	text += strings.ReplaceAll(strings.Join(g.Problems, "; "), "|", "/") + " |"
	for _, q := range g.Queues {
		text += fmt.Sprintf(" '%s_ready'=%d '%s_age'=%.3fs '%s_workers'=%d", q.Queue, q.Ready, q.Queue, q.OldestAgeSeconds, q.Queue, q.Workers)
	}
	return strings.TrimSuffix(text, " |")
}

// prometheus is the text format of exporters.
func (g *gate) prometheus(w io.Writer) error {
	var b strings.Builder
	gauge := func(name, help string, value func(*gateQueue) string) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s gauge\n", name, help, name)
		for i := range g.Queues {
			fmt.Fprintf(&b, "%s{queue=%q} %s\n", name, g.Queues[i].Queue, value(&g.Queues[i]))
		}
	}
	fmt.Fprintf(&b, "# HELP stem_check_status 0 ok, 1 warning, 2 critical, 3 unknown.\n# TYPE stem_check_status gauge\nstem_check_status %d\n", g.code)
	gauge("stem_check_queue_status", "0 ok, 1 warning, 2 critical.", func(q *gateQueue) string { return strconv.Itoa(q.code) })
	gauge("stem_check_queue_ready", "Tasks that are ready.", func(q *gateQueue) string { return strconv.Itoa(q.Ready) })
	gauge("stem_check_queue_oldest_age_seconds", "How long the oldest of them waits.",
		func(q *gateQueue) string { return strconv.FormatFloat(q.OldestAgeSeconds, 'f', -1, 64) })
	gauge("stem_check_queue_workers", "Live workers that hear it.", func(q *gateQueue) string { return strconv.Itoa(q.Workers) })
	_, err := io.WriteString(w, b.String())
	return err
}
