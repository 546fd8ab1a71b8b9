package coalesce_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stemjobs/stem/internal/coalesce"
)

// slow doubles each item, a second a batch, and remembers the batches' sizes.
type slow struct {
	mu    sync.Mutex
	sizes []int
	ended []error
}

func (s *slow) flush(ctx context.Context, batch []int) ([]int, error) {
	out := make([]int, len(batch))
	for i, v := range batch {
		if v < 0 {
			return nil, errors.New("negative")
		}
		out[i] = 2 * v
	}
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sizes = append(s.sizes, len(batch))
	s.ended = append(s.ended, ctx.Err())
	return out, ctx.Err()
}

func TestConcurrentCallsShareTheNextBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{}
		g := coalesce.Group[int, int]{Flush: s.flush, MaxCount: 5}
		var wg sync.WaitGroup
		call := func(v int) {
			wg.Go(func() {
				out, sent, err := g.Do(t.Context(), v, 0)
				if out != 2*v || !sent || err != nil {
					t.Errorf("Do(%d) = %d, %t, %v", v, out, sent, err)
				}
			})
		}
		call(1)
		synctest.Wait() // the first is on its way, alone
		for v := range 8 {
			call(v)
		}
		wg.Wait()
		g.Wait()
		if len(s.sizes) != 3 || s.sizes[0] != 1 || s.sizes[1] != 5 || s.sizes[2] != 3 {
			t.Errorf("batches of %v, want [1 5 3]", s.sizes)
		}
	})
}

func TestWeightBoundsABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{}
		g := coalesce.Group[int, int]{Flush: s.flush, MaxWeight: 10}
		var wg sync.WaitGroup
		for _, v := range []int{1, 6, 6, 40} {
			wg.Go(func() {
				if _, _, err := g.Do(t.Context(), v, v); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		wg.Wait()
		if len(s.sizes) != 4 {
			t.Errorf("batches of %v, want four of one each", s.sizes)
		}
	})
}

func TestAnErrorIsEveryCallersAndThereIsALifeAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{}
		g := coalesce.Group[int, int]{Flush: s.flush}
		if _, sent, err := g.Do(t.Context(), -1, 0); err == nil || !sent {
			t.Errorf("a failed flush: sent %t, %v", sent, err)
		}
		if out, _, err := g.Do(t.Context(), 4, 0); out != 8 || err != nil {
			t.Errorf("after it: %d, %v", out, err)
		}
	})
}

func TestACallerThatLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{}
		g := coalesce.Group[int, int]{Flush: s.flush}
		short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() { // its batch's only caller: the batch is cancelled with it
			if _, sent, err := g.Do(short, 1, 0); !sent || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the flying call: sent %t, %v", sent, err)
			}
		})
		synctest.Wait()
		shorter, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		wg.Go(func() { // it had not left yet
			if _, sent, err := g.Do(shorter, 2, 0); sent || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the waiting call: sent %t, %v", sent, err)
			}
		})
		wg.Wait()
		g.Wait()
		if len(s.ended) != 1 || s.ended[0] == nil {
			t.Errorf("flushes ended with %v, want one, cancelled", s.ended)
		}
		if _, sent, err := g.Do(short, 3, 0); sent || err == nil {
			t.Errorf("an ended context: sent %t, %v", sent, err)
		}
	})
}
