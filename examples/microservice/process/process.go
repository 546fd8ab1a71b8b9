// Package process opens what each of the three programs needs: the store, a
// client of it, and where traces go.
package process

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/connect"
	"github.com/stemjobs/stem/observe/otel"
)

// Process is what a program works with.
type Process struct {
	Backend *connect.Backend
	Client  *stem.Client
	Logger  *slog.Logger
	Spans   trace.TracerProvider // for spans of the program's own; never nil
}

// flushTime is how long the last spans may take to be sent.
const flushTime = 5 * time.Second

// Main opens a Process and calls run with it, in a context that SIGINT and SIGTERM
// end; it returns what the program exits with. STEM_BROKER_URL says where tasks
// live (a Redis on this machine, unless it is set), STEM_OTLP_ENDPOINT where
// traces go (nowhere, unless it is set).
func Main(service string, run func(ctx context.Context, p *Process) error) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	logger := slog.New(slog.NewJSONHandler(os.Stderr, nil)).With("service", service)
	if err := open(ctx, service, logger, run); err != nil {
		logger.Error("it ends", "error", err)
		return 1
	}
	return 0
}

func open(ctx context.Context, service string, logger *slog.Logger, run func(context.Context, *Process) error) (err error) {
	broker := cmp.Or(os.Getenv("STEM_BROKER_URL"), "redis://127.0.0.1:6379")
	exporter, err := otel.Open(ctx, otel.Options{Service: service, TracesURL: os.Getenv("STEM_OTLP_ENDPOINT"), Logger: logger})
	if err != nil {
		return fmt.Errorf("open telemetry: %w", err)
	}
	defer func() { // after the store: what it still had to do is traced, too
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTime)
		defer cancel()
		err = errors.Join(err, exporter.Close(ctx))
	}()
	backend, err := connect.Open(ctx, connect.Options{Broker: broker, Logger: logger})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, backend.Close()) }()
	p := &Process{Backend: backend, Logger: logger, Spans: noop.NewTracerProvider()}
	o := stem.ClientOptions{Logger: logger}
	if exporter.Tracer() != nil {
		o.Tracer, p.Spans = exporter.Tracer(), exporter.TracerProvider()
	}
	if p.Client, err = stem.NewClient(backend, o); err != nil {
		return err
	}
	return run(ctx, p)
}
