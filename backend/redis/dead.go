package redis

import (
	"context"

	"github.com/stemjobs/stem/broker"
)

// DeadLetters implements broker.Broker.
func (b *redisBroker) DeadLetters() broker.DeadLetters { return b }

// ListDeadLetters implements broker.DeadLetters.
func (b *redisBroker) ListDeadLetters(ctx context.Context, _ broker.DeadFilter, _ broker.Page) ([]broker.DeadLetter, string, error) {
	return nil, "", unbuilt(ctx)
}

// ReplayDeadLetters implements broker.DeadLetters.
func (b *redisBroker) ReplayDeadLetters(ctx context.Context, _ broker.DeadFilter, _ broker.ReplayOptions) (broker.Replayed, error) {
	return broker.Replayed{}, unbuilt(ctx)
}

// PurgeDeadLetters implements broker.DeadLetters.
func (b *redisBroker) PurgeDeadLetters(ctx context.Context, _ broker.DeadFilter, _ broker.PurgeOptions) (broker.Purged, error) {
	return broker.Purged{}, unbuilt(ctx)
}

func unbuilt(context.Context) error { return broker.ErrUnsupported }
