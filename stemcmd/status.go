package stemcmd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
)

// workerRow is one worker as JSON: its heartbeat, and what this program makes
// of it.
type workerRow struct {
	stem.Heartbeat
	State         string  `json:"state"` // active, idle, draining, late, gone or stopped
	SilentSeconds float64 `json:"silentSeconds"`

	silent time.Duration
}

// What is made of a worker.
const (
	stateActive   = "active"
	stateIdle     = "idle"
	stateDraining = "draining"
	stateLate     = "late" // its heartbeat is overdue
	stateGone     = "gone" // for so long that it is taken for dead
	stateStopped  = "stopped"
)

// A heartbeat is late after one and a half intervals, and its worker gone after
// three, when the store forgets it.
func lateAfter(h *stem.Heartbeat) time.Duration { return interval(h) * 3 / 2 }
func goneAfter(h *stem.Heartbeat) time.Duration { return interval(h) * 3 }

// interval is how often a worker says that it lives; those of an older version
// do not tell.
func interval(h *stem.Heartbeat) time.Duration {
	if h.Interval > 0 {
		return time.Duration(h.Interval) * time.Millisecond
	}
	return 10 * time.Second
}

// workerRowOf judges a worker that was silent for so long.
func workerRowOf(h stem.Heartbeat, silent time.Duration) workerRow {
	r := workerRow{Heartbeat: h, silent: max(silent, 0), SilentSeconds: max(silent, 0).Round(100 * time.Millisecond).Seconds()}
	r.StartedAt, r.At, r.RenewedAt = utcTime(h.StartedAt), utcTime(h.At), utcTime(h.RenewedAt)
	if r.Queues == nil {
		r.Queues = []string{}
	}
	if r.Running == nil {
		r.Running = []store.RunningJob{}
	}
	switch {
	case h.Stopped:
		r.State = stateStopped
	case silent > goneAfter(&h):
		r.State = stateGone
	case silent > lateAfter(&h):
		r.State = stateLate
	case h.Draining:
		r.State = stateDraining
	case h.Isolates.Active > 0:
		r.State = stateActive
	default:
		r.State = stateIdle
	}
	return r
}

func workerView() view[workerRow] {
	type row = workerRow
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	return view[row]{
		columns: []column[row]{
			{head: "WORKER", cell: func(w *row) string { return w.Worker }},
			{head: "STATE", cell: func(w *row) string { return w.State }, paint: func(w *row) string { return workerColour(w.State) }},
			{head: "SEEN", cell: func(w *row) string {
				if w.silent < time.Second {
					return "now"
				}
				return span(w.silent.Round(time.Second)) + " ago"
			}},
			{head: "ISOLATES", right: true, cell: func(w *row) string { return fmt.Sprintf("%d/%d", w.Isolates.Active, w.Isolates.Total) }},
			{head: "HELD", right: true, cell: func(w *row) string { return strconv.Itoa(w.Inflight) }},
			{head: "SUCCEEDED", right: true, cell: func(w *row) string { return number(w.Succeeded) }},
			{head: "FAILED", right: true, cell: func(w *row) string { return number(w.Failed) }},
			{head: "RETRIED", right: true, cell: func(w *row) string { return number(w.Retried) }},
			{head: "UP", cell: func(w *row) string { return span(time.Since(w.StartedAt)) }},
			{head: "QUEUES", cell: func(w *row) string { return strings.Join(w.Queues, ",") }},
			{head: "VERSION", wide: true, cell: func(w *row) string { return w.Version }},
			{head: "HOST", wide: true, cell: func(w *row) string { return w.Host }},
			{head: "PID", wide: true, right: true, cell: func(w *row) string { return strconv.Itoa(w.PID) }},
			{head: "LOAD", wide: true, right: true, cell: func(w *row) string { return strconv.FormatFloat(w.Load, 'f', 2, 64) }},
			{head: "RENEWED", wide: true, cell: func(w *row) string { return ago(w.RenewedAt) }},
			{head: "RUNS", wide: true, cell: func(w *row) string {
				var names []string
				for _, j := range w.Running {
					names = append(names, j.Name)
				}
				return strings.Join(names, ", ")
			}},
		},
		name:  func(w *row) string { return w.Worker },
		empty: "no worker is alive",
	}
}

func workerColour(state string) string {
	switch state {
	case stateLate:
		return yellow
	case stateGone:
		return red
	case stateActive:
		return green
	case stateDraining, stateStopped:
		return faint
	default:
		return ""
	}
}

func (s *session) workerStatusCommand() *cobra.Command {
	f := &askFlags{}
	var once, follow bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Shows the heartbeats of workers, once or as they come",
		Long: `Shows what workers last said of themselves. Nothing is asked of them.
With --follow it shows heartbeats as they come: a table in place on a terminal, and
in a pipe a line of JSON for each event:
  beat      a heartbeat
  late      one is missed: nothing for one and a half intervals
  gone      nothing for three: the worker is taken for dead
  stopped   its last word: it ended in good order
It goes on while the store is away, until it is interrupted, or for --timeout.
A worker that is late makes the exit code of --once 6; that none is alive, 4.`,
		Example: `  {{stem}} worker status
  {{stem}} worker status --follow
  {{stem}} worker status --follow --timeout 1m | jq -r 'select(.event != "beat") | .worker'`,
		Args: noArguments,
	}
	f.add(s, c, "`GLOB` of the ids of workers to show; default: all")
	c.Flags().BoolVar(&once, "once", false, "show what is there and end; the default")
	c.Flags().BoolVar(&follow, "follow", false, "show heartbeats as they come")
	notTogether(c, "once", "follow")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if follow {
			return s.long(func(ctx context.Context, _ []string) error { return s.workerFollow(ctx, f) })(cmd, args)
		}
		return s.short(func(ctx context.Context, _ []string) error { return s.workerStatus(ctx, f) })(cmd, args)
	}
	return c
}

func (s *session) workerStatus(ctx context.Context, f *askFlags) error {
	client, err := s.client(ctx)
	if err != nil {
		return err
	}
	rows, err := workerRows(ctx, client, f)
	if err != nil {
		return err
	}
	v := workerView()
	v.empty = "" // the error says it
	if _, err := list(s, v, one(rows)); err != nil {
		return err
	}
	if len(rows) == 0 {
		return noWorker(f.worker)
	}
	var late []string
	for i := range rows {
		if rows[i].State == stateLate || rows[i].State == stateGone {
			late = append(late, rows[i].Worker)
		}
	}
	if len(late) > 0 {
		return fail(ExitPartly, "the heartbeat is late of %s", strings.Join(late, ", "))
	}
	return nil
}

// workerRows lists workers by their heartbeats.
func workerRows(ctx context.Context, client *stem.Client, f *askFlags) ([]workerRow, error) {
	beats, err := live(ctx, client, f)
	if err != nil {
		return nil, err
	}
	rows := make([]workerRow, len(beats))
	for i := range beats {
		rows[i] = workerRowOf(beats[i], time.Since(beats[i].At))
	}
	return rows, nil
}

// beatEvent is one line of worker status --follow.
type beatEvent struct {
	Event string    `json:"event"` // beat, late, gone or stopped
	At    time.Time `json:"eventAt"`
	workerRow
}

// followed is the state of worker status --follow.
type followed struct {
	s       *session
	client  *stem.Client
	flags   *askFlags
	screen  bool // in place on a terminal
	workers map[string]*seen
	away    bool // the store cannot be reached, and that was told
}

// seen is a worker with the moment at which it was last heard, by the clock
// here: what is late is judged by one clock.
type seen struct {
	beat stem.Heartbeat
	at   time.Time
	told string // the last event: a miss is told once
}

// followTick is how often misses are looked for.
const followTick = 250 * time.Millisecond

func (s *session) workerFollow(ctx context.Context, f *askFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	client, err := s.client(ctx)
	if err != nil {
		return err
	}
	x := &followed{s: s, client: client, flags: f, screen: isTerminal(s.p.Stdout), workers: map[string]*seen{}}
	for ctx.Err() == nil && !s.stdout.gone.Load() {
		err := x.stream(ctx)
		if ctx.Err() != nil || s.stdout.gone.Load() {
			break
		}
		if errors.Is(err, broker.ErrUnsupported) || errors.Is(err, broker.ErrClosed) {
			return err
		}
		if !x.away {
			s.note("the store cannot be reached, and is tried again: %v", err)
			x.away = true
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, errInterrupted) && !errors.Is(cause, errTimeout) {
		return cause
	}
	return nil
}

// stream follows until the store cannot be reached.
func (x *followed) stream(ctx context.Context) error {
	beats, err := x.client.FollowWorkers(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	heard, failed := make(chan stem.Heartbeat), make(chan error, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			h, err := beats.Next(ctx)
			if err != nil {
				failed <- err
				return
			}
			select {
			case heard <- h:
			case <-ctx.Done():
				return
			}
		}
	}()
	defer func() {
		cancel()
		_ = beats.Close() // it ends the waiting
		<-ended
	}()
	if err := x.begin(ctx); err != nil {
		return err
	}
	tick := time.NewTicker(followTick)
	defer tick.Stop()
	for {
		select {
		case h := <-heard:
			err = x.beat(h)
		case <-tick.C:
			err = x.look()
		case err = <-failed:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err != nil || x.s.stdout.gone.Load() {
			return err
		}
	}
}

// begin reads who lives. After a time without the store everybody counts as
// heard now: nobody could be.
func (x *followed) begin(ctx context.Context) error {
	list, err := live(ctx, x.client, x.flags)
	if err != nil {
		return err
	}
	if x.away {
		x.s.note("the store is back")
	}
	now := time.Now()
	for _, w := range x.workers {
		w.at = now
	}
	for i := range list {
		h := list[i]
		at := now
		if silent := now.Sub(h.At); !x.away && silent > 0 && silent < goneAfter(&h) {
			at = h.At
		}
		if x.workers[h.Worker] == nil {
			x.workers[h.Worker] = &seen{beat: h, at: at}
			if err := x.tell("beat", x.workers[h.Worker]); err != nil {
				return err
			}
		}
	}
	x.away = false
	return x.draw()
}

func (x *followed) beat(h stem.Heartbeat) error {
	if !broker.Match(x.flags.worker, h.Worker) {
		return nil
	}
	w := &seen{beat: h, at: time.Now()}
	x.workers[h.Worker] = w
	event := "beat"
	if h.Stopped {
		event = stateStopped
	}
	if err := x.tell(event, w); err != nil {
		return err
	}
	return x.draw()
}

// look marks who is late or gone. Who has been gone, or stopped, for a while
// leaves the table.
func (x *followed) look() error {
	changed := false
	for id, w := range x.workers {
		silent := time.Since(w.at)
		row := workerRowOf(w.beat, silent)
		if (row.State == stateLate || row.State == stateGone) && w.told != row.State {
			changed = true
			if err := x.tell(row.State, w); err != nil {
				return err
			}
		}
		if row.State == stateStopped && silent > interval(&w.beat) || silent > 2*goneAfter(&w.beat) {
			changed = true
			delete(x.workers, id)
		}
	}
	if changed || x.screen {
		return x.draw()
	}
	return nil
}

// tell writes a line for an event, but on a terminal.
func (x *followed) tell(event string, w *seen) error {
	w.told = event
	if x.screen {
		return nil
	}
	now := time.Now()
	e := beatEvent{Event: event, At: now.UTC().Round(0), workerRow: workerRowOf(w.beat, now.Sub(w.at))}
	return encodeJSON(x.s.stdout, e, "", "")
}

// draw shows the followed workers in place.
func (x *followed) draw() error {
	if !x.screen {
		return nil
	}
	rows := make([]workerRow, 0, len(x.workers))
	for _, w := range x.workers {
		rows = append(rows, workerRowOf(w.beat, time.Since(w.at)))
	}
	slices.SortFunc(rows, func(a, b workerRow) int { return strings.Compare(a.Worker, b.Worker) })
	fmt.Fprint(x.s.stdout, clearScreen)
	fmt.Fprintf(x.s.stdout, "%s  %s\n", time.Now().UTC().Format(time.RFC3339), several(len(rows), "worker"))
	_, err := list(x.s, workerView(), one(rows))
	return err
}
