package stempeer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/observe/otel"
	"github.com/stemjobs/stem/observe/prom"
)

// observed adds what a measurement of telemetry's cost has: metrics for
// Prometheus, and with "traces" also a tenth of all traces, sent to a receiver
// in this process that drops them. The function that it returns ends all that.
func observed(ctx context.Context, what string, o *stem.ClientOptions) (end func() error, err error) {
	switch what {
	case "":
		return func() error { return nil }, nil
	case "metrics", "traces":
		o.Meter = prom.New(prom.Options{})
	default:
		return nil, fmt.Errorf("observed %q: want metrics or traces", what)
	}
	if what == "metrics" {
		return func() error { return nil }, nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	sink := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // a sender that went away is nothing to it
	})}
	go sink.Serve(l)
	x, err := otel.Open(ctx, otel.Options{
		TracesURL: "http://" + l.Addr().String(), Sampler: "parentbased_traceidratio", SamplerArg: "0.1",
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)), // a measurement that drops spans is to say so
	})
	if err != nil {
		return nil, errors.Join(err, sink.Close())
	}
	o.Tracer = x.Tracer()
	return func() error { return errors.Join(x.Close(context.WithoutCancel(ctx)), sink.Close()) }, nil
}
