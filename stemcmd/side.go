package stemcmd

import (
	"context"
	"errors"
	"net"

	"github.com/spf13/pflag"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/observe"
	"github.com/stemjobs/stem/observe/admin"
	"github.com/stemjobs/stem/observe/prom"
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

// side is the listener of --http beside a service. Without one, its methods do
// what is left to do.
type side struct {
	server   *admin.Server  // nil: none
	addr     net.Addr       // of server
	exporter *prom.Exporter // nil: nothing is measured
}

// openSide listens, so that an address that is taken is an error before any
// store is opened, and makes the exporter. Nothing is served before beside.
func (s *session) openSide(ctx context.Context, f *sideFlags) (*side, error) {
	x := &side{}
	if f.http == "" {
		return x, nil
	}
	if _, _, err := net.SplitHostPort(f.http); err != nil {
		return nil, usage("--http %q: want HOST:PORT, such as 127.0.0.1:9090", f.http)
	}
	x.server = &admin.Server{Addr: f.http, Pprof: f.pprof, Logger: s.log}
	if !s.conf.Config.NoMetrics {
		x.exporter = prom.New(prom.Options{Version: s.describeBuild().Version, Logger: s.log})
		x.server.Metrics = x.exporter.Handler()
	}
	var err error
	if x.addr, err = x.server.Listen(ctx); err != nil {
		return nil, err
	}
	return x, nil
}

// measure makes the exporter a client's meter, unless the program has one.
func (x *side) measure(o *stem.ClientOptions) {
	if o.Meter == nil && x.exporter != nil {
		o.Meter = x.exporter
	}
}

// watch adds the gauges of the whole store. Workers do not serve them,
// or they would be added up once a worker.
func (x *side) watch(client *stem.Client) error {
	if x.exporter == nil {
		return nil
	}
	queues := func(ctx context.Context) ([]broker.QueueInfo, error) { return client.Queues(ctx) }
	return x.exporter.Watch(observe.NewStore(queues, client.Workers))
}

// beside serves for as long as run runs.
func (x *side) beside(ctx context.Context, ready, run func() error) error {
	if x.server == nil {
		return run()
	}
	x.server.Ready = ready
	x.server.Logger.Info("serving /metrics, /healthz and /readyz", "addr", x.addr.String())
	serving, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	served := make(chan error, 1)
	go func() { served <- x.server.Run(serving) }()
	err := run()
	end()
	return errors.Join(err, <-served)
}
