package stemcmd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/beat"
	"github.com/stemjobs/stem/task"
)

// devStore is where dev keeps its tasks unless told otherwise.
const devStore = "sqlite:stem.db"

func (s *session) devCommand() *cobra.Command {
	api, f := &apiFlags{}, &workerFlags{}
	var schedules string
	c := &cobra.Command{
		Use:   "dev",
		Short: "Serves the HTTP API, runs a worker and fires schedules, in one process",
		Long: `Serves the HTTP API, runs a worker and fires schedules, in one process: all that a
single node needs. Tasks live in stem.db in this directory, unless --broker, a variable or the
env file names another store.

It executes the program's own tasks and those of the tasks file; where there are
none, three for a demonstration. What it serves, with a curl line to try, goes to
standard output (as JSON with --output json), the log to standard error.

SIGTERM stops it warm, Ctrl-C soft, and a second Ctrl-C or SIGQUIT hard: the API
first, for a fifth of --grace at most, then the worker; see worker run. The exit
code is 0 after a clean stop, 6 when something had to be abandoned.`,
		Example: `  {{stem}} dev
  {{stem}} dev --tasks tasks.yaml --http 127.0.0.1:9090
  {{stem}} dev --schedule-file schedules.yaml
  {{stem}} dev --addr 127.0.0.1:0 --output json --broker memory:`,
		Args:        noArguments,
		Annotations: map[string]string{annotationService: "yes"},
	}
	api.add(c.Flags())
	f.add(c.Flags())
	c.Flags().StringVar(&schedules, "schedule-file", "", "`FILE` of schedules to apply at the start; others stay")
	c.RunE = s.service(func(ctx context.Context, stop *stopper) error {
		api.side = f.side
		return s.devRun(ctx, stop, api, f, schedules)
	})
	return c
}

func (s *session) devRun(ctx context.Context, stop *stopper, f *apiFlags, wf *workerFlags, schedules string) error {
	if !s.set("STEM_BROKER_URL") {
		s.conf.Config.Broker = devStore
	}
	known, err := s.knownTasks()
	if err != nil {
		return err
	}
	demo := len(known.tasks) == 0 && s.app.Setup == nil
	if demo {
		for _, t := range demoTasks() {
			known.tasks = append(known.tasks, t.Registration)
		}
	}
	var desired []beat.Desired
	if schedules != "" {
		if desired, err = s.desired(&applyFlags{anyTask: !known.complete}, []string{schedules}); err != nil {
			return err
		}
	}
	closeTasks, err := known.open()
	if err != nil {
		return err
	}
	defer closeTasks()
	o, err := s.workerOptions(wf, known)
	if err != nil {
		return err
	}
	f.grace = duration(shareGrace(&o))
	a, err := s.openAPI(ctx, f)
	if err != nil {
		return because(ctx, err)
	}
	w := stem.NewWorker(a.client, o)
	if err := s.register(ctx, w, a.client, known); err != nil {
		return because(ctx, err)
	}
	if err := a.declare(known); err != nil {
		return err
	}
	b, err := s.devBeat(ctx, a, known, desired)
	if err != nil {
		return because(ctx, err)
	}
	stop.worker.Store(w)
	ready := func() error { return errors.Join(a.ready(), w.Ready(readyWithin)) }
	return a.side.beside(ctx, health{bothReady(b, ready), bothLive(w, b)}, func() error {
		if err := s.introduce(a, known, demo); err != nil {
			return err
		}
		return beating(ctx, b, func(ctx context.Context) error { return a.work(ctx, stop, w) })
	})
}

// devBeat makes dev's beat, and applies a file of schedules; nil where the store
// keeps none.
func (s *session) devBeat(ctx context.Context, a *api, known *knownTasks, desired []beat.Desired) (*beat.Beat, error) {
	if s.backend.Schedules() == nil && desired == nil {
		s.log.Info("this store keeps no schedules: none fire")
		return nil, nil
	}
	b, err := s.newBeat(a.client, a.side, "", known)
	if err != nil || desired == nil {
		return b, err
	}
	book, err := beat.NewBook(a.client, s.backend.Schedules(), s.backend.Locks(), known.tasks...)
	if err != nil {
		return nil, err
	}
	p, err := book.Apply(ctx, desired, false)
	if err != nil {
		return nil, err
	}
	s.log.Info("schedules applied", "created", p.Count(beat.ActionCreate), "changed", p.Count(beat.ActionChange), "kept", p.Count(beat.ActionKeep))
	return b, nil
}

// warmGrace is how long a warm stop may take in all, as the library has it.
const warmGrace = 25 * time.Second

// shareGrace takes a fifth of the worker's grace for the API, which stops
// first.
func shareGrace(o *stem.WorkerOptions) time.Duration {
	total := o.Grace
	if total == 0 {
		total = warmGrace
	}
	o.Grace = total - total/5
	return total / 5
}

// work runs API and worker until ctx ends or one of them does. The worker
// takes tasks until the API has answered its last request.
func (a *api) work(ctx context.Context, stop *stopper, w *stem.Worker) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	working, rest := context.WithCancel(context.WithoutCancel(ctx))
	defer rest()
	worked := make(chan error, 1)
	go func() {
		worked <- w.Run(working)
		cancel()
	}()
	err := a.serve(ctx, stop)
	rest()
	return errors.Join(err, <-worked, abandoned(w))
}

// introduction is what dev says of itself, as JSON.
type introduction struct {
	API     string   `json:"api"`
	OpenAPI string   `json:"openapi"`
	Admin   string   `json:"admin,omitempty"`
	Store   string   `json:"store"`
	Tokens  int      `json:"tokens"`
	Tasks   []string `json:"tasks"`
	Try     []string `json:"try"`
}

// introduce prints what is served, and lines to try it with.
func (s *session) introduce(a *api, known *knownTasks, demo bool) error {
	url := "http://" + reachable(a.listener.Addr())
	if a.tls != nil {
		url = "https://" + reachable(a.listener.Addr())
	}
	x := introduction{API: url, OpenAPI: url + "/openapi.json", Store: s.where(), Tokens: len(a.tokens), Tasks: known.names()}
	if a.side.addr != nil {
		x.Admin = "http://" + reachable(a.side.addr)
	}
	x.Try = s.tries(a, url, known, demo)
	if done, err := s.object(x); done || s.flags.output == asName {
		if !done {
			_, err = fmt.Fprintln(s.stdout, url)
		}
		return err
	}
	var b strings.Builder
	line := func(head, text string) { fmt.Fprintf(&b, "  %-8s %s\n", head, clean(text)) }
	fmt.Fprintf(&b, "%s dev: the HTTP API, a worker, and schedules. Ctrl-C stops all.\n\n", s.app.Name)
	open := ", open to this machine"
	if x.Tokens > 0 {
		open = ", for " + several(x.Tokens, "token")
	}
	line("API", url+open+"; its routes: "+x.OpenAPI)
	if x.Admin != "" {
		line("admin", x.Admin+"/metrics, /healthz, /readyz")
	}
	line("store", x.Store)
	if demo {
		for i, t := range demoTasks() {
			line([]string{"tasks", "", ""}[i], fmt.Sprintf("%-12s%s", t.Name(), t.says))
		}
	} else {
		line("tasks", strings.Join(x.Tasks, ", "))
	}
	b.WriteString("\nTry, in another terminal:\n")
	for _, t := range x.Try {
		b.WriteString("  " + clean(t) + "\n")
	}
	b.WriteByte('\n')
	_, err := s.stdout.Write([]byte(b.String()))
	return err
}

// tries are command lines that enqueue a task, wait for it, and list tasks.
// They work as they are; the id is a new one at each start.
func (s *session) tries(a *api, url string, known *knownTasks, demo bool) []string {
	curl := "curl -s "
	if cert := s.conf.Config.APICert; a.tls != nil && !strings.HasPrefix(cert, pemHead) {
		curl += "--cacert '" + cert + "' "
	}
	if len(a.tokens) > 0 {
		curl += `-H "Authorization: Bearer $TOKEN" `
	}
	whole := task.NewID()
	id := "try-" + whole[len(whole)-6:]
	enqueue := func(name, args string) string {
		return fmt.Sprintf(`%s%s/v1/tasks -H 'Content-Type: application/json' -d '{"id":"%s","name":"%s","args":%s}'`, curl, url, id, name, args)
	}
	var lines []string
	switch {
	case demo:
		t := demoTasks()[1]
		lines = append(lines, enqueue(t.Name(), t.args))
	case len(known.tasks) > 0:
		lines = append(lines, enqueue(known.tasks[0].Name(), "null"))
	}
	if len(lines) > 0 {
		lines = append(lines, curl+url+"/v1/tasks/"+id+"/wait")
	}
	switch {
	case !s.set("STEM_BROKER_URL"):
		lines = append(lines, s.app.Name+" tasks ls --broker "+devStore)
	case !s.inProcess():
		lines = append(lines, s.app.Name+" tasks ls")
	}
	return lines
}

// reachable is an address that a client on this machine can use.
func reachable(a net.Addr) string {
	if t, ok := a.(*net.TCPAddr); ok && t.IP.IsUnspecified() {
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(t.Port))
	}
	return a.String()
}
