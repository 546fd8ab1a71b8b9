package redis

import (
	"context"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// Create implements store.Results.
func (s *results) Create(ctx context.Context, _ []task.Status) ([]error, error) {
	return nil, unbuilt(ctx)
}

// Update implements store.Results.
func (s *results) Update(ctx context.Context, _ []store.Update) ([]store.Answer, error) {
	return nil, unbuilt(ctx)
}

// Record implements store.Results.
func (s *results) Record(ctx context.Context, _ []store.Record) ([]error, error) {
	return nil, unbuilt(ctx)
}

// Clear implements store.Results.
func (s *results) Clear(ctx context.Context, _ []store.Key) error { return unbuilt(ctx) }

// Requeue implements store.Results.
func (s *results) Requeue(ctx context.Context, _ []broker.ReplayedTask) ([]error, error) {
	return nil, unbuilt(ctx)
}

// List implements store.Results.
func (s *results) List(ctx context.Context, _ store.Query) (store.List, error) {
	return store.List{}, unbuilt(ctx)
}

// Delete implements store.Results.
func (s *results) Delete(ctx context.Context, _ ...string) ([]error, error) {
	return nil, unbuilt(ctx)
}
