package httpapi_test

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/sqlite"
	"github.com/stemjobs/stem/httpapi"
)

// backends runs a benchmark on a store in memory and on SQLite as it is by
// default, which survives a power cut.
func backends(b *testing.B, run func(b *testing.B, r *rig)) {
	b.Run("memory", func(b *testing.B) { run(b, newRig(b, httpapi.Options{})) })
	b.Run("sqlite", func(b *testing.B) {
		db, err := sqlite.Open(context.Background(), sqlite.Config{Path: filepath.Join(b.TempDir(), "stem.db")})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = db.Close() })
		run(b, newRigOn(b, db, httpapi.Options{}))
	})
}

// post sends one request as cheaply as net/http can.
func (r *rig) post(b *testing.B, path, body string, want int) {
	resp, err := r.http.Post(r.url+path, "application/json", strings.NewReader(body))
	if err != nil {
		b.Error(err)
		return
	}
	_, _ = io.Copy(io.Discard, resp.Body) // the next request wants the connection
	resp.Body.Close()
	if resp.StatusCode != want {
		b.Errorf("status %d", resp.StatusCode)
	}
}

func perSecond(b *testing.B, n int) {
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "tasks/s")
}

const benchTask = `{"name":"bench","args":{"to":"someone@example.com","n":12345}}`

func BenchmarkPostBatch(b *testing.B) {
	backends(b, func(b *testing.B, r *rig) {
		body := `{"tasks":[` + strings.Repeat(benchTask+",", 999) + benchTask + `]}`
		b.ResetTimer()
		var wg sync.WaitGroup
		var left atomic.Int64
		left.Store(int64(b.N))
		for range 4 {
			wg.Go(func() {
				for left.Add(-1) >= 0 {
					r.post(b, "/v1/tasks/batch", body, 200)
				}
			})
		}
		wg.Wait()
		perSecond(b, b.N*1000)
	})
}

func BenchmarkPostTask(b *testing.B) {
	backends(b, func(b *testing.B, r *rig) {
		b.ResetTimer()
		var wg sync.WaitGroup
		var left atomic.Int64
		left.Store(int64(b.N))
		for range 64 {
			wg.Go(func() {
				for left.Add(-1) >= 0 {
					r.post(b, "/v1/tasks", benchTask, 201)
				}
			})
		}
		wg.Wait()
		perSecond(b, b.N)
	})
}

// BenchmarkWait measures from the end of the handler to the answer of the
// request that waits for it.
func BenchmarkWait(b *testing.B) {
	backends(b, func(b *testing.B, r *rig) {
		var mu sync.Mutex
		ended := map[string]time.Time{}
		r.work(stem.NewTask[stem.None, stem.None]("bench").Do(func(ctx context.Context, _ stem.None) error {
			mu.Lock()
			defer mu.Unlock()
			ended[stem.Current(ctx).ID()] = time.Now()
			return nil
		}))
		var took []time.Duration
		for i := range b.N {
			id := fmt.Sprintf("w%d", i)
			r.post(b, "/v1/tasks", fmt.Sprintf(`{"name":"bench","args":{},"in":"10ms","id":%q}`, id), 201)
			resp, err := r.http.Get(r.url + "/v1/tasks/" + id + "/wait")
			if err != nil {
				b.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			now := time.Now()
			mu.Lock()
			took = append(took, now.Sub(ended[id]))
			mu.Unlock()
		}
		sort.Slice(took, func(i, j int) bool { return took[i] < took[j] })
		b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	})
}

// BenchmarkPull leases and settles in batches of 100.
func BenchmarkPull(b *testing.B) {
	backends(b, func(b *testing.B, r *rig) {
		items := make([]stem.Item, 1000)
		for i := range items {
			items[i] = stem.NewItem("bench", []byte(`{"to":"someone@example.com","n":12345}`))
		}
		for n := 0; n < b.N*100; n += len(items) {
			if _, err := r.client.EnqueueMany(context.Background(), items); err != nil {
				b.Fatal(err)
			}
		}
		b.ResetTimer()
		var wg sync.WaitGroup
		var left atomic.Int64
		left.Store(int64(b.N))
		for range 4 {
			wg.Go(func() {
				for left.Add(-1) >= 0 {
					r.pullOnce(b)
				}
			})
		}
		wg.Wait()
		perSecond(b, b.N*100)
	})
}

func (r *rig) pullOnce(b *testing.B) {
	var a httpapi.LeaseAnswer
	resp, err := r.http.Post(r.url+"/v1/lease", "application/json", strings.NewReader(`{"queues":["default"],"count":100,"wait":"5s"}`))
	if err != nil {
		b.Error(err)
		return
	}
	raw, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		b.Error(err)
		return
	}
	reply{body: raw}.into(b, &a)
	var s strings.Builder
	s.WriteString(`{"tasks":[`)
	for i, t := range a.Tasks {
		if i > 0 {
			s.WriteByte(',')
		}
		fmt.Fprintf(&s, `{"receipt":%q,"outcome":"succeeded","result":1}`, t.Receipt)
	}
	s.WriteString(`]}`)
	if len(a.Tasks) > 0 {
		r.post(b, "/v1/settle", s.String(), 200)
	}
}
