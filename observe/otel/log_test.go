package otel_test

import (
	"bytes"
	"log/slog"
	"sync"
)

// newLog is a logger, and what was logged so far.
func newLog() (log *slog.Logger, text func() string) {
	b := &buffer{}
	return slog.New(slog.NewJSONHandler(b, nil)), b.String
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
