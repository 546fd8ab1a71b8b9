package stemcmd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/beat"
	"github.com/stemjobs/stem/httpapi"
	"github.com/stemjobs/stem/measure"
)

// apiFlags are the flags of a command that serves the HTTP API.
type apiFlags struct {
	addr  string
	hosts []string
	delay duration
	grace duration
	side  sideFlags
}

func (f *apiFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.addr, "addr", "127.0.0.1:8080", "`HOST:PORT` of the API; an address that is not loopback needs STEM_API_TOKENS")
	flags.String("tls-cert", "", "`FILE` of the API's certificate in PEM, for HTTPS (STEM_API_TLS_CERT)")
	flags.String("tls-key", "", "`FILE` of its key (STEM_API_TLS_KEY)")
	flags.StringSliceVar(&f.hosts, "allow-host", nil, "`NAME` that callers may know this server by, beside localhost and IP addresses; * for any; may be given again")
}

func (s *session) serveCommand() *cobra.Command {
	f := &apiFlags{}
	c := &cobra.Command{
		Use:   "serve",
		Short: "Serves the HTTP API: to enqueue, look, operate, and work in any language",
		Long: `Serves the HTTP API on a store that workers share. Without STEM_API_TOKENS it
listens on loopback only, and whoever can connect may do everything.

Its tasks, and those of a tasks file, are enqueued as their declarations say;
others are taken too. It executes nothing: see worker run, or dev for both in one.

SIGTERM and Ctrl-C stop it: /readyz says no, after --drain-delay it takes no more,
requests that wait end, and the others are answered, for as long as --grace. A
second Ctrl-C, or SIGQUIT, breaks them off. The exit code is 0 after a clean stop,
6 when a request was broken off.

The log, with a line for each request, goes to standard error.`,
		Example: `  {{stem}} serve
  {{stem}} serve --addr 0.0.0.0:8080 --allow-host stem.example.com --http 127.0.0.1:9090
  STEM_API_TOKENS=@/run/secrets/api-tokens {{stem}} serve --addr 0.0.0.0:8080 --tls-cert api.crt --tls-key api.key`,
		Args:        noArguments,
		Annotations: map[string]string{annotationService: "yes"},
	}
	flags := c.Flags()
	f.add(flags)
	f.side.add(flags)
	addTasksFlag(flags)
	flags.Var(&f.delay, "drain-delay", "how long a stopping server goes on while /readyz says no, for load balancers; default: not at all")
	flags.Var(&f.grace, "grace", "how long requests have to end after that; default: 10s")
	c.RunE = s.service(func(ctx context.Context, stop *stopper) error { return s.serveRun(ctx, stop, f) })
	return c
}

func (s *session) serveRun(ctx context.Context, stop *stopper, f *apiFlags) error {
	known, err := s.knownTasks()
	if err != nil {
		return err
	}
	a, err := s.openAPI(ctx, f)
	if err != nil {
		return because(ctx, err)
	}
	if err := a.declare(known); err != nil {
		return err
	}
	if s.inProcess() {
		s.log.Warn("this store lives in this process, and ends with it: only what leases over the API executes its tasks")
	}
	return a.side.beside(ctx, health{a.ready, allLive()}, func() error { return a.serve(ctx, stop) })
}

// inProcess reports whether no other process can see the tasks.
func (s *session) inProcess() bool { return strings.HasPrefix(s.conf.Config.Broker, "memory:") }

// api is the HTTP API of a command, from its listener to its store.
type api struct {
	s        *session
	f        *apiFlags
	tokens   []httpapi.Token
	tls      *tls.Config // nil: plain HTTP
	listener *breakable
	side     *side
	client   *stem.Client
	meter    measure.Meter   // nil: measures nothing
	server   *httpapi.Server // of declare
}

// openAPI checks what was asked for, listens, and opens the store, in this
// order: a mistake leaves nothing behind.
func (s *session) openAPI(ctx context.Context, f *apiFlags) (*api, error) {
	a := &api{s: s, f: f}
	var err error
	if a.tokens, err = s.apiTokens(); err != nil {
		return nil, err
	}
	if a.tls, err = s.apiTLS(); err != nil {
		return nil, err
	}
	if err := a.check(); err != nil {
		return nil, err
	}
	if err := a.listen(ctx); err != nil {
		return nil, err
	}
	if a.side, err = s.openSide(ctx, &f.side); err != nil {
		return nil, err
	}
	measured := func(o *stem.ClientOptions) {
		a.side.measure(o)
		a.meter = o.Meter
	}
	if a.client, err = s.clientOn(ctx, false, measured); err != nil {
		return nil, err
	}
	return a, a.side.watchStore(a.client)
}

// apiTokens reads STEM_API_TOKENS.
func (s *session) apiTokens() ([]httpapi.Token, error) {
	text := s.conf.Config.APITokens
	tokens, err := httpapi.ParseTokens(text)
	switch {
	case err != nil:
		return nil, usage("STEM_API_TOKENS: %w", err)
	case text != "" && len(tokens) == 0:
		return nil, usage("STEM_API_TOKENS is set, and has no token")
	}
	return tokens, nil
}

// check refuses what the library would refuse too, but only when the store is
// open already.
func (a *api) check() error {
	host, _, err := net.SplitHostPort(a.f.addr)
	if err != nil {
		return usage("--addr %q: want HOST:PORT, such as 127.0.0.1:8080", a.f.addr)
	}
	ip := net.ParseIP(host)
	if len(a.tokens) == 0 && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return usage("--addr %s: without tokens the API listens on loopback only, and this address can be reached from elsewhere", a.f.addr).
			hinted("Set STEM_API_TOKENS, or listen on 127.0.0.1")
	}
	for _, h := range a.f.hosts {
		if h == "" || strings.ContainsAny(h, ":/ ") {
			return usage("--allow-host %q: want a name without a port, such as stem.example.com", h)
		}
		if h == "*" && len(a.tokens) == 0 {
			return usage("--allow-host *: without tokens, pages of other sites could use the API").
				hinted("Set STEM_API_TOKENS, or name the hosts")
		}
	}
	return nil
}

// listen opens the address; the session closes what is not served.
func (a *api) listen(ctx context.Context) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", a.f.addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fail(ExitFailed, "--addr %s: another program listens there already: %w", a.f.addr, err).
			hinted("Choose another address with --addr, or a free port with 127.0.0.1:0")
	case err != nil:
		return fail(ExitFailed, "--addr %s: cannot listen there: %w", a.f.addr, err)
	}
	a.listener = &breakable{Listener: l}
	a.s.closers = append(a.s.closers, func() error {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("close the API's listener: %w", err)
		}
		return nil
	})
	return nil
}

// declare makes the server, which enqueues these tasks as they are declared.
func (a *api) declare(known *knownTasks) error {
	o := httpapi.Options{
		Addr: a.f.addr, Tokens: a.tokens, AllowedHosts: a.f.hosts, TLS: a.tls,
		Delay: time.Duration(a.f.delay), Grace: time.Duration(a.f.grace), Tasks: known.tasks,
		Retention: a.s.app.Worker.Retention, MaxDeliveries: a.s.app.Worker.MaxDeliveries, Logger: a.s.log, Meter: a.meter,
	}
	choose(&o.Retention, a.s.conf.Config.Retention, a.s.set("STEM_RESULT_TTL"))
	if keeper := a.s.backend.Schedules(); keeper != nil {
		book, err := beat.NewBook(a.client, keeper, a.s.backend.Locks(), known.tasks...)
		if err != nil {
			return err
		}
		o.Schedules = book
	}
	server, err := httpapi.NewServer(a.client, o)
	if err != nil {
		return usage("%w", err)
	}
	a.server = server
	return nil
}

// storeTime is how long the store has to answer a probe of readiness.
const storeTime = 2 * time.Second

// ready says why the API cannot serve just now.
func (a *api) ready() error {
	if !a.server.Ready() {
		return errors.New("the API is stopping")
	}
	ctx, cancel := context.WithTimeout(context.Background(), storeTime)
	defer cancel()
	_, err := a.client.Queues(ctx, a.s.conf.Config.DefaultQueue)
	return err
}

// serve serves until ctx ends, and then until requests under way are answered;
// a hard stop breaks them off.
func (a *api) serve(ctx context.Context, stop *stopper) error {
	broken := make(chan struct{})
	undo := context.AfterFunc(stop.hard, func() {
		defer close(broken)
		a.listener.breakOff()
	})
	err := a.server.Serve(ctx, a.listener)
	if undo() {
		if errors.Is(err, httpapi.ErrAbandoned) {
			return &exitError{code: ExitPartly, err: err}
		}
		return err
	}
	<-broken
	if n := a.listener.broken; n > 0 {
		return fail(ExitPartly, "broke off %s to the API", several(n, "connection"))
	}
	return nil
}
