package stem_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
)

// counted is a backend that counts the reads of statuses, and hides, if it is
// mute, that its store can push.
type counted struct {
	stem.Backend
	mute  bool
	calls atomic.Int64
}

func (c *counted) Broker() broker.Broker { return sameStore{c.Backend.Broker()} }

func (c *counted) Results() store.Results {
	if c.mute {
		return &mute{c.Backend.Results(), &c.calls}
	}
	return &pushing{mute{c.Backend.Results(), &c.calls}}
}

type sameStore struct{ broker.Broker }

func (s sameStore) Unwrap() broker.Broker { return s.Broker }
func (sameStore) AtomicWith(any) bool     { return true }

type mute struct {
	store.Results
	calls *atomic.Int64
}

func (m *mute) Get(ctx context.Context, ids ...string) ([]store.Found, error) {
	m.calls.Add(1)
	return m.Results.Get(ctx, ids...)
}

type pushing struct{ mute }

func (p *pushing) Subscribe(id string) (<-chan struct{}, func()) {
	return p.Results.(store.Watcher).Subscribe(id)
}

// TestWatchersShareTheirLooks: however many watch, the store is read once a
// second for all of them; and each sees its task's end, whether or not the
// store pushes.
func TestWatchersShareTheirLooks(t *testing.T) {
	for _, silent := range []bool{true, false} {
		t.Run(fmt.Sprintf("mute=%t", silent), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testLooks(t, silent) })
		})
	}
}

func testLooks(t *testing.T, silent bool) {
	db := &counted{Backend: memory.New(), mute: silent}
	defer db.Close()
	client, err := stem.NewClient(db, stem.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	const tasks, each = 50, 4
	var wg sync.WaitGroup
	var ids []string
	for i := range tasks {
		id := fmt.Sprintf("t%d", i)
		ids = append(ids, id)
		if _, err := double.Enqueue(t.Context(), client, 1, stem.ID(id)); err != nil {
			t.Fatal(err)
		}
		for range each {
			wg.Go(func() {
				if s, err := client.Wait(t.Context(), id); err != nil || s.State != stem.Cancelled {
					t.Errorf("%s: %s, %v", id, s.State, err)
				}
			})
		}
	}
	// One that gives up takes nothing from the others.
	ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
	defer cancel()
	if _, err := client.Wait(ctx, "t0"); err == nil {
		t.Error("who gave up got an answer")
	}
	synctest.Wait()
	began := db.calls.Load()
	time.Sleep(10 * time.Second)
	if n := db.calls.Load() - began; n > 11 {
		t.Errorf("%d watchers read %d times in 10 s, want once a second", tasks*each, n)
	}
	ended := time.Now()
	if _, err := client.Revoke(t.Context(), stem.RevokeOptions{}, ids...); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if took := time.Since(ended); took > time.Second || !silent && took > 0 {
		t.Errorf("the last saw its end after %s", took)
	}
	time.Sleep(5 * time.Second) // nobody watches: nobody looks
	after := db.calls.Load()
	time.Sleep(5 * time.Second)
	if n := db.calls.Load() - after; n != 0 {
		t.Errorf("%d reads for nobody", n)
	}
}
