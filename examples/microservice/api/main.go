// Command api takes orders over HTTP and enqueues them.
//
//	curl -s localhost:8082/orders -d '{"item":"tea","count":12}'
//	curl -s localhost:8082/orders/ID
//
// LISTEN_ADDR is where it listens.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/examples/microservice/orders"
	"github.com/stemjobs/stem/examples/microservice/process"
)

func main() { os.Exit(process.Main("orders-api", run)) }

func run(ctx context.Context, p *process.Process) error {
	addr := cmp.Or(os.Getenv("LISTEN_ADDR"), "127.0.0.1:8082")
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	server := &http.Server{Handler: routes(p), ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	fmt.Printf("listening on http://%s\n", listener.Addr())
	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	err = server.Shutdown(closing)
	if s := <-served; !errors.Is(s, http.ErrServerClosed) {
		err = errors.Join(err, s)
	}
	return err
}

func routes(p *process.Process) http.Handler {
	mux := http.NewServeMux()
	handle := func(route string, h http.HandlerFunc) { mux.Handle(route, traced(p.Spans, route, h)) }
	handle("POST /orders", func(w http.ResponseWriter, r *http.Request) {
		var o orders.Order
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&o); err != nil {
			reply(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
			return
		}
		// Confirm is enqueued with the parcel, in the step that stores Pack's success.
		h, err := orders.Pack.Enqueue(r.Context(), p.Client, o, stem.Link(orders.Confirm.Linked()))
		if err != nil {
			reply(w, http.StatusServiceUnavailable, map[string]string{"id": h.ID, "error": err.Error()})
			return
		}
		reply(w, http.StatusAccepted, map[string]string{"id": h.ID})
	})
	handle("GET /orders/{id}", func(w http.ResponseWriter, r *http.Request) {
		s, err := p.Client.Get(r.Context(), r.PathValue("id"))
		switch {
		case errors.Is(err, stem.ErrNotFound):
			reply(w, http.StatusNotFound, map[string]string{"error": "no such order"})
		case errors.Is(err, stem.ErrInvalid):
			reply(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
		case err != nil:
			reply(w, http.StatusServiceUnavailable, map[string]string{"error": err.Error()})
		default:
			reply(w, http.StatusOK, s)
		}
	})
	return mux
}

// traced has a span around each request, which goes on in the caller's trace. The
// request's context carries it, and an enqueue takes it from there.
func traced(spans trace.TracerProvider, route string, h http.Handler) http.Handler {
	tracer := spans.Tracer("github.com/stemjobs/stem/examples/microservice/api")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		ctx, span := tracer.Start(ctx, route, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(attribute.String("http.request.method", r.Method)))
		defer span.End()
		h.ServeHTTP(w, r.WithContext(ctx))
	})
}

func reply(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // a client that has gone needs no answer
}
