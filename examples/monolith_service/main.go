// Command monolith_service is the single-node topology: one process with an
// HTTP interface that enqueues, the worker that executes, and a beat that greets
// the world every 30 seconds.
//
//	go run ./examples/monolith_service
//	curl -s localhost:8081/enqueue -d '{"name":"Ada"}'
//	curl -s localhost:8081/status/ID
//
// STEM_BROKER_URL chooses where tasks live (memory: unless it is set) and
// LISTEN_ADDR where it listens. SIGINT and SIGTERM drain: requests end, what
// runs is finished, what waits stays in the store.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/beat"
	"github.com/stemjobs/stem/connect"
	"github.com/stemjobs/stem/schedule"
)

type greeting struct {
	Name string `json:"name"`
}

// greet is the service's one task.
var greet = stem.NewTask[greeting, string]("greeting.send", stem.MaxRetries(3))

func sendGreeting(ctx context.Context, g greeting) (string, error) {
	if g.Name == "" {
		return "", stem.Permanent(errors.New("nobody to greet: name is empty"))
	}
	if err := stem.Current(ctx).Progress(50, nil); err != nil {
		return "", err
	}
	return "Hello, " + g.Name, nil
}

func main() {
	broker, addr := cmp.Or(os.Getenv("STEM_BROKER_URL"), "memory:"), cmp.Or(os.Getenv("LISTEN_ADDR"), "127.0.0.1:8081")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, broker, addr, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "monolith_service:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends, and then drains.
func run(ctx context.Context, brokerURL, addr string, out io.Writer) (err error) {
	logger := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	backend, err := connect.Open(ctx, connect.Options{Broker: brokerURL, Logger: logger})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, backend.Close()) }()
	client, err := stem.NewClient(backend, stem.ClientOptions{Logger: logger})
	if err != nil {
		return err
	}
	worker := stem.NewWorker(client, stem.WorkerOptions{})
	if err := worker.Handle(greet.With(sendGreeting)); err != nil {
		return err
	}
	beats, err := greetAgainAndAgain(ctx, client, backend, logger)
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	server := &http.Server{Handler: routes(client), ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	fmt.Fprintf(out, "listening on http://%s, tasks on %s\n", listener.Addr(), brokerURL)

	beating, rest := context.WithCancel(ctx)
	defer rest()
	beaten := make(chan error, 1)
	go func() { beaten <- beats.Run(beating) }()
	worked := worker.Run(ctx) // until the end of ctx and the drain that follows
	rest()
	worked = errors.Join(worked, <-beaten)
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	err = errors.Join(worked, server.Shutdown(closing))
	if s := <-served; !errors.Is(s, http.ErrServerClosed) {
		err = errors.Join(err, s)
	}
	return err
}

// greetAgainAndAgain makes the beat, and stores what it fires. Several of this
// service may run on one store: one of their beats leads.
func greetAgainAndAgain(ctx context.Context, client *stem.Client, backend *connect.Backend, logger *slog.Logger) (*beat.Beat, error) {
	book, err := beat.NewBook(client, backend.Schedules(), backend.Locks())
	if err != nil {
		return nil, err
	}
	world := beat.Entry{
		ID: "greeting", Task: greet.Name(), Args: json.RawMessage(`{"name":"world"}`),
		Spec: schedule.Definition{Every: 30 * time.Second},
	}
	if _, err := book.Apply(ctx, []beat.Desired{{Entry: world}}, false); err != nil {
		return nil, err
	}
	return beat.New(client, backend.Schedules(), backend.Locks(), beat.Options{Logger: logger})
}

func routes(client *stem.Client) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /enqueue", func(w http.ResponseWriter, r *http.Request) {
		var g greeting
		body := http.MaxBytesReader(w, r.Body, 1<<16)
		if err := json.NewDecoder(body).Decode(&g); err != nil {
			reply(w, http.StatusBadRequest, map[string]string{"error": "want {\"name\": \"…\"}: " + err.Error()})
			return
		}
		h, err := greet.Enqueue(r.Context(), client, g)
		if err != nil {
			reply(w, http.StatusServiceUnavailable, map[string]string{"id": h.ID, "error": err.Error()})
			return
		}
		reply(w, http.StatusAccepted, map[string]string{"id": h.ID})
	})
	mux.HandleFunc("GET /status/{id}", func(w http.ResponseWriter, r *http.Request) {
		s, err := client.Get(r.Context(), r.PathValue("id"))
		switch {
		case errors.Is(err, stem.ErrNotFound):
			reply(w, http.StatusNotFound, map[string]string{"error": "no such task"})
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

func reply(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // a client that has gone needs no answer
}
