package stem_test

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/broker"
)

// busy is a store into which somebody enqueues whenever a page is purged.
type busy struct {
	*memory.DB
	enqueue func(ctx context.Context)
}

func (b *busy) Broker() broker.Broker { return &busyBroker{b.DB.Broker(), b} }

type busyBroker struct {
	broker.Broker
	b *busy
}

func (b *busyBroker) Unwrap() broker.Broker { return b.Broker }

func (b *busyBroker) Purge(ctx context.Context, p broker.Purge) ([]string, error) {
	ids, err := b.Broker.Purge(ctx, p)
	b.b.enqueue(ctx)
	return ids, err
}

// TestPurgeEndsWhileOthersEnqueue purges a queue that never becomes empty.
func TestPurgeEndsWhileOthersEnqueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &busy{DB: memory.New()}
		defer b.Close()
		c, err := stem.NewClient(b, stem.ClientOptions{})
		if err != nil {
			t.Fatal(err)
		}
		b.enqueue = func(ctx context.Context) {
			if _, err := double.Enqueue(ctx, c, 1); err != nil {
				t.Error(err)
			}
		}
		const waiting = 2500 // three pages
		for range waiting {
			b.enqueue(t.Context())
		}
		if n, err := c.PurgeQueue(t.Context(), "default"); n != waiting || err != nil {
			t.Errorf("purged %d, %v; want the %d that waited", n, err, waiting)
		}
		if q, err := c.Queues(t.Context(), "default"); err != nil || q[0].Ready != 3 {
			t.Errorf("left: %+v, %v; want the 3 that came in between", q, err)
		}
	})
}
