package httpapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/beat"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/measure"
	"github.com/stemjobs/stem/task"
)

// Options shape a server. The zero value serves loopback without tokens.
type Options struct {
	// Addr is where Run listens; "": 127.0.0.1:8080. Without Tokens it must be
	// a loopback address.
	Addr string
	// Tokens are the bearer tokens that are accepted; none: everybody who can
	// connect from this machine may do everything.
	Tokens []Token
	// AllowedHosts are the names, without ports, that the Host header may have
	// beside localhost, IP addresses and the host of Addr; "*", which needs
	// Tokens: any. A page that points its own name at this server cannot use it.
	AllowedHosts []string
	TLS          *tls.Config // nil: plain HTTP

	MaxBody     int           // bytes of a batch's body; 0: 4 MiB. Of one task: 1.25 MiB at most
	MaxConns    int           // connections at once; more are closed; 0: 16384
	MaxWaiting  int           // requests at once that wait or stream; 0: 8192
	ReadTimeout time.Duration // for headers, and for a body; 0: 30 s
	// WriteTimeout is for one answer, or one event of a stream; 0: 30 s.
	WriteTimeout time.Duration
	// Heartbeat is the time between the comments of an idle stream; 0: 15 s.
	Heartbeat time.Duration

	// Delay is how long a stopping server goes on as before while Ready says
	// no, so that load balancers turn away; 0: not at all.
	Delay time.Duration
	// Grace bounds what follows: requests under way are finished; 0: 10 s.
	Grace time.Duration

	// Tasks are declared tasks: what a request leaves open, such as the queue or
	// the retries, is for them as declared. Tasks of other names are taken too.
	Tasks []stem.Registration

	// Retention is how long the statuses of tasks that pullers end are kept
	// when the task says nothing; 0: 24 h, stem.Forever.
	Retention time.Duration
	// MaxDeliveries is how often a task is given to pullers, started, without
	// coming to an end; then it is a dead letter; 0: 10.
	MaxDeliveries int

	// Schedules are those that the API shows and changes; nil: none, and their
	// routes answer that they are not supported.
	Schedules *beat.Book

	Logger *slog.Logger  // one line for each request at info; nil: discards
	Meter  measure.Meter // counts what pullers execute, as a worker counts; nil: measures nothing
}

// defaultAddr is where the API listens unless told otherwise.
const defaultAddr = "127.0.0.1:8080"

// maxBody is how large the bodies of batches may be unless told otherwise.
const maxBody = 4 << 20

// Server serves the API. Its methods are safe for concurrent use.
type Server struct {
	client *stem.Client
	opts   Options
	tasks  declared
	host   string // of Addr
	mux    *http.ServeMux
	origin *http.CrossOriginProtection
	spec   []byte // the OpenAPI document
	prefix string // of request ids
	count  atomic.Uint64

	waiting  atomic.Int64
	draining atomic.Bool
	stop     context.Context // ends what waits and streams
	halt     context.CancelFunc

	pullers pullers
	limits  rateLimits // of what pullers take
	tally   *runner.Tally
	answers memo
	ran     atomic.Bool
	closing sync.Once
}

// NewServer makes a server for a client, which stays the caller's. The error
// says which option is wrong.
func NewServer(client *stem.Client, o Options) (*Server, error) {
	if client == nil {
		return nil, errors.New("httpapi: no client")
	}
	for _, d := range []struct {
		value *time.Duration
		other time.Duration
	}{
		{&o.ReadTimeout, 30 * time.Second}, {&o.WriteTimeout, 30 * time.Second},
		{&o.Heartbeat, 15 * time.Second}, {&o.Grace, 10 * time.Second}, {&o.Delay, 0},
	} {
		if *d.value < 0 {
			return nil, fmt.Errorf("httpapi: duration %s: want more than zero", *d.value)
		}
		if *d.value == 0 {
			*d.value = d.other
		}
	}
	for _, n := range []struct {
		value *int
		other int
	}{
		{&o.MaxBody, maxBody}, {&o.MaxConns, 16384}, {&o.MaxWaiting, 8192},
	} {
		if *n.value < 0 {
			return nil, fmt.Errorf("httpapi: limit %d: want more than zero", *n.value)
		}
		if *n.value == 0 {
			*n.value = n.other
		}
	}
	if o.Addr == "" {
		o.Addr = defaultAddr
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Meter == nil {
		o.Meter = measure.None
	}
	host, err := checkAddr(o)
	if err != nil {
		return nil, err
	}
	s := &Server{
		client: client, opts: o, tasks: declare(o.Tasks), host: host,
		origin: http.NewCrossOriginProtection(), prefix: task.NewID(),
	}
	s.stop, s.halt = context.WithCancel(context.Background())
	s.pullers.init(s)
	s.limits.init(s)
	s.tally = runner.NewTally(o.Meter, s.pullers.worker)
	if err := s.buildRoutes(); err != nil {
		s.halt()
		return nil, err
	}
	return s, nil
}

// Ready says whether the server takes requests: for a readiness probe.
func (s *Server) Ready() bool { return !s.draining.Load() }

// Handler is the API as a handler, to be mounted at the root of a server of
// the caller's. Call Close when that server stops, before its Shutdown.
// Without Tokens it answers only over loopback connections and Unix sockets.
func (s *Server) Handler() http.Handler { return s }

// Close ends what waits and streams, gives back what nobody leased, and makes
// Ready false. Requests under way are not waited for.
func (s *Server) Close() {
	s.closing.Do(func() {
		s.draining.Store(true)
		s.halt()
		s.pullers.close()
	})
}

// Run listens and serves until ctx ends, and then stops in two steps: Ready
// says no and, after Delay, waiting requests and streams end cleanly while the
// others are finished, for as long as Grace. It returns nil after a clean stop.
// A server runs once.
func (s *Server) Run(ctx context.Context) error {
	l, err := net.Listen("tcp", s.opts.Addr)
	if err != nil {
		return fmt.Errorf("listen for the API: %w", err)
	}
	return s.Serve(ctx, l)
}

// ErrAbandoned is what Run returns when the grace ended before the last
// request did.
var ErrAbandoned = errors.New("requests were broken off at the end of the grace")

// Serve is Run on a listener that is there already. It closes the listener.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if s.ran.Swap(true) {
		return errors.Join(errors.New("httpapi: this server ran already"), l.Close())
	}
	defer s.Close()
	if err := checkListener(l, s.opts.Tokens); err != nil {
		return errors.Join(err, l.Close())
	}
	l = &limitListener{Listener: l, max: int64(s.opts.MaxConns)}
	if s.opts.TLS != nil {
		c := s.opts.TLS.Clone()
		c.NextProtos = []string{"h2", "http/1.1"}
		l = tls.NewListener(l, c)
	}
	hs := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: s.opts.ReadTimeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(s.opts.Logger.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- hs.Serve(l) }()
	s.opts.Logger.Info("serving the API", "addr", l.Addr().String(), "tls", s.opts.TLS != nil, "tokens", len(s.opts.Tokens))
	select {
	case err := <-served:
		return fmt.Errorf("serve the API: %w", err)
	case <-ctx.Done():
	}
	return s.shutdown(hs, served)
}

func (s *Server) shutdown(hs *http.Server, served <-chan error) error {
	s.draining.Store(true)
	if s.opts.Delay > 0 {
		t := time.NewTimer(s.opts.Delay)
		select {
		case <-t.C:
		case err := <-served:
			t.Stop()
			return fmt.Errorf("serve the API: %w", err)
		}
	}
	s.halt()
	ctx, cancel := context.WithTimeout(context.Background(), s.opts.Grace)
	defer cancel()
	err := hs.Shutdown(ctx)
	if err != nil {
		err = errors.Join(fmt.Errorf("stop the API: %w", ErrAbandoned), hs.Close())
	}
	if serr := <-served; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, fmt.Errorf("serve the API: %w", serr))
	}
	return err
}

// workerName is what leases are held under in the store until a puller starts
// them: the API's own name.
func workerName() string {
	host, err := os.Hostname()
	if err != nil || task.ValidateID(host) != nil {
		host = "host"
	}
	id := task.NewID()
	return fmt.Sprintf("api-%.80s-%d-%s", host, os.Getpid(), id[len(id)-4:])
}
