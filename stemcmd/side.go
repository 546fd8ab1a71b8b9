package stemcmd

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/spf13/pflag"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/observe"
	"github.com/stemjobs/stem/observe/admin"
	"github.com/stemjobs/stem/observe/systemd"
)

// sideFlags are the flags of the listener for operators' machinery.
type sideFlags struct {
	http  string
	pprof bool
}

func (f *sideFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.http, "http", "", "`ADDR`, such as 127.0.0.1:9090, for /metrics, /healthz and /readyz")
	flags.BoolVar(&f.pprof, "pprof", false, "also serve /debug/pprof/ there")
}

// side is what runs beside a service for those who look after it: the listener
// of --http, where measurements and traces go, and the supervisor's socket.
// What there is not of it, its methods leave out.
type side struct {
	*telemetry
	server   *admin.Server // nil: none
	addr     net.Addr      // of server
	notifier *systemd.Notifier
}

// openSide listens, so that an address that is taken is an error before any
// store is opened, and makes the exporters. Nothing is served before beside.
func (s *session) openSide(ctx context.Context, f *sideFlags) (*side, error) {
	x := &side{notifier: systemd.New(func(k string) string { return s.env[k] }, os.Getpid(), s.log)}
	if f.pprof && f.http == "" {
		return nil, usage("--pprof needs --http, where profiles are served")
	}
	if f.http != "" {
		if _, _, err := net.SplitHostPort(f.http); err != nil {
			return nil, usage("--http %q: want HOST:PORT, such as 127.0.0.1:9090", f.http)
		}
	}
	var err error
	if x.telemetry, err = s.openTelemetry(ctx, f.http != ""); err != nil || f.http == "" {
		return x, err
	}
	x.server = &admin.Server{Addr: f.http, Pprof: f.pprof, Logger: s.log}
	if x.prom != nil {
		x.server.Metrics = x.prom.Handler()
	}
	x.addr, err = x.server.Listen(ctx)
	return x, err
}

// measure gives the exporters to a client's options, unless the program has its
// own.
func (x *side) measure(o *stem.ClientOptions) {
	if o.Meter == nil {
		o.Meter = x.meter
	}
	if o.Tracer == nil {
		o.Tracer = x.tracer
	}
}

// watchStore adds the gauges of the whole store. Workers do not serve them,
// or they would be added up once a worker.
func (x *side) watchStore(client *stem.Client) error {
	queues := func(ctx context.Context) ([]broker.QueueInfo, error) { return client.Queues(ctx) }
	return x.watch(observe.NewStore(queues, client.Workers))
}

// liveWithin is how long a loop may take to go round. One that is slower hangs:
// a call to a store takes ten seconds at most.
const liveWithin = time.Minute

// health is how a service says that it does its work, and that it lives.
type health struct{ ready, live func() error }

// allLive lives while all of them do. A server alone lives while it answers.
func allLive(of ...interface{ Live(time.Duration) error }) func() error {
	return func() error {
		var errs []error
		for _, x := range of {
			errs = append(errs, x.Live(liveWithin))
		}
		return errors.Join(errs...)
	}
}

// beside serves, and tells the supervisor, for as long as run runs.
func (x *side) beside(ctx context.Context, h health, run func() error) error {
	serving, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	var loops sync.WaitGroup
	var failed error
	if x.server != nil {
		x.server.Ready, x.server.Live = h.ready, h.live
		x.server.Logger.Info("serving /metrics, /healthz and /readyz", "addr", x.addr.String())
		loops.Go(func() { failed = x.server.Run(serving) })
	}
	if x.notifier != nil {
		loops.Go(func() { x.notifier.Run(serving, ctx.Done(), h.ready, h.live) })
	}
	err := run()
	x.flush() // while the store can still be asked
	end()
	loops.Wait()
	return errors.Join(err, failed)
}
