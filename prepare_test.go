package stem_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/memory"
)

func TestPrepareStoresNothing(t *testing.T) {
	seen := 0
	mark := func(next stem.EnqueueFunc) stem.EnqueueFunc {
		return func(ctx context.Context, items []stem.Item) ([]stem.Receipt, error) {
			seen += len(items)
			return next(ctx, items)
		}
	}
	b := memory.New()
	defer b.Close()
	c, err := stem.NewClient(b, stem.ClientOptions{Middleware: []func(stem.EnqueueFunc) stem.EnqueueFunc{mark}})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	made, err := c.Prepare(t.Context(), now,
		stem.NewItem("a", nil, stem.ID("one"), stem.ExpiresIn(time.Minute)), stem.NewItem("b", nil, stem.Priority(11)))
	if err != nil {
		t.Fatal(err)
	}
	if e := made[0].Publication.Envelope; made[0].Err != nil || e.ID != "one" || !e.EnqueuedAt.Equal(now) || !e.ExpiresAt.Equal(now.Add(time.Minute)) {
		t.Errorf("prepared %+v, %v", e, made[0].Err)
	}
	if !errors.Is(made[1].Err, stem.ErrInvalid) {
		t.Errorf("priority 11: %v", made[1].Err)
	}
	if seen != 2 {
		t.Errorf("the middleware saw %d items, want 2", seen)
	}
	found, err := c.Lookup(t.Context(), "one")
	if err != nil || !errors.Is(found[0].Err, stem.ErrNotFound) {
		t.Errorf("lookup: %v, %v; want that it is not found", found, err)
	}
}
