package demo

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/connect"
)

// Worker is what a worker process of the demo runs, until ctx ends.
func Worker(ctx context.Context, brokerURL, queue string, logger *slog.Logger) (err error) {
	backend, err := connect.Open(ctx, connect.Options{Broker: brokerURL, Logger: logger})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, backend.Close()) }()
	client, err := stem.NewClient(backend, stem.ClientOptions{Logger: logger})
	if err != nil {
		return err
	}
	w := stem.NewWorker(client, stem.WorkerOptions{Queues: stem.Strict(queue), Lease: lease, HeartbeatInterval: time.Second})
	if err := w.Handle(Digest.With(digest)); err != nil {
		return err
	}
	return w.Run(ctx)
}
