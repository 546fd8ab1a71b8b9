package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"time"
)

// Server is one listener. Set its fields before Listen or Run, and copy it not
// afterwards.
type Server struct {
	Addr string // host:port; an empty host listens on every address, port 0 takes a free one

	// Ready says why the process cannot do its work just now, or nil. It may
	// be called by several requests at once. Nil: always ready.
	Ready func() error
	// Live says why the process is beyond help, or nil. It must answer at once
	// and ask nothing outside the process. Nil: always alive.
	Live func() error

	Metrics http.Handler // of /metrics; nil: not found
	Pprof   bool         // serve /debug/pprof/
	Logger  *slog.Logger // of what clients do wrong; nil: none

	listener net.Listener
}

// Time limits of the server. A profile of the usual 30 s fits in the longer
// of the two for writing.
const (
	headerTimeout = 5 * time.Second
	readTimeout   = 10 * time.Second
	writeTimeout  = 30 * time.Second
	pprofTimeout  = 2 * time.Minute
	idleTimeout   = time.Minute
	drainTimeout  = 3 * time.Second

	maxHeader = 16 << 10
)

// Listen opens the address, so that one which is taken is an error at start,
// and returns the address that it got. Run does it where it was not done.
func (s *Server) Listen(ctx context.Context) (net.Addr, error) {
	if s.listener != nil {
		return s.listener.Addr(), nil
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", s.Addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("listen on %s: another program listens there already, choose another address: %w", s.Addr, err)
	case errors.As(err, new(syscall.Errno)): // a port below 1024, an address of another machine
		return nil, fmt.Errorf("listen on %s: %w", s.Addr, err)
	case err != nil:
		return nil, fmt.Errorf("listen on %q: want HOST:PORT, as in 127.0.0.1:9090: %w", s.Addr, err)
	}
	s.listener = l
	return l.Addr(), nil
}

// Run serves until ctx ends, gives open requests three seconds, and returns
// nil. It returns an error when it cannot listen or serve.
func (s *Server) Run(ctx context.Context) error {
	addr, err := s.Listen(ctx)
	if err != nil {
		return err
	}
	logger := s.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	srv := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	if s.Pprof {
		srv.WriteTimeout = pprofTimeout
	}

	served := make(chan error, 1)
	go func() { served <- srv.Serve(s.listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve on %s: %w", addr, err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if err := srv.Shutdown(drain); err != nil {
		err = errors.Join(err, srv.Close())
		logger.Warn("requests to the admin server were cut off", "addr", addr.String(), "error", err)
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve on %s: %w", addr, err)
	}
	return nil
}

// Handler is what the server serves, for a program that has a listener
// already.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", check("alive", s.Live))
	mux.HandleFunc("GET /readyz", check("ready", s.Ready))
	if s.Metrics != nil {
		mux.Handle("GET /metrics", s.Metrics)
	}
	if s.Pprof {
		addPprof(mux)
	}
	return mux
}

// check answers 200 and what it is, or 503 and why it is not.
func check(what string, ask func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		var err error
		if ask != nil {
			err = ask()
		}
		h := w.Header()
		h.Set("Content-Type", "text/plain; charset=utf-8")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		if err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintf(w, "not %s: %v\n", what, err)
			return
		}
		fmt.Fprintln(w, what)
	}
}
