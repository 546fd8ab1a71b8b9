package httpapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"testing"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/sqlite"
	"github.com/stemjobs/stem/httpapi"
)

// benchWorker names, in the environment of this program as a child, the file of
// the store that it is to work for.
const benchWorker = "STEM_HTTPAPI_BENCH_WORKER"

// moment is a task whose result is when its handler ended, in nanoseconds.
var moment = stem.NewTask[stem.None, int64]("bench").With(func(context.Context, stem.None) (int64, error) {
	<-time.After(5 * time.Millisecond) // until the request waits
	return time.Now().UnixNano(), nil
})

// workAsChild is the other process of BenchmarkWaitTwoProcesses: a worker, until
// its standard input ends.
func workAsChild(path string) int {
	db, err := sqlite.Open(context.Background(), sqlite.Config{Path: path})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer db.Close()
	client, err := stem.NewClient(db, stem.ClientOptions{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	w := stem.NewWorker(client, stem.WorkerOptions{Concurrency: 4})
	if err := w.Handle(moment); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	if err := w.Run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// BenchmarkWaitTwoProcesses measures from the end of the handler, which another
// process executes, to the answer of the request that waits for it here. Both
// read one clock: that of the machine.
func BenchmarkWaitTwoProcesses(b *testing.B) {
	path := filepath.Join(b.TempDir(), "stem.db")
	db, err := sqlite.Open(context.Background(), sqlite.Config{Path: path})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = db.Close() })
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), benchWorker+"="+path)
	child.Stderr = os.Stderr
	in, err := child.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := child.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close()
		if err := child.Wait(); err != nil {
			b.Error(err)
		}
	})
	r := newRigOn(b, db, httpapi.Options{})
	w := r.wire(b)
	w.wait("first") // until the worker is there
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		took = append(took, w.wait(fmt.Sprintf("w%d", i)))
	}
	report(b, took)
}

// wait enqueues a task, waits for its end, and says how long after the
// handler's end the answer came.
func (w *wire) wait(id string) time.Duration {
	w.do(request("/v1/tasks", fmt.Sprintf(`{"name":"bench","args":{},"id":%q}`, id)), "201")
	answer := w.do([]byte("GET /v1/tasks/"+id+"/wait HTTP/1.1\r\nHost: localhost\r\n\r\n"), "200")
	now := time.Now()
	var s stem.Status
	var ended int64
	if err := json.Unmarshal(answer, &s); err != nil || json.Unmarshal(s.Result, &ended) != nil {
		w.b.Errorf("answer %.200s: %v", answer, err)
	}
	return now.Sub(time.Unix(0, ended))
}

func report(b *testing.B, took []time.Duration) {
	b.Helper()
	sort.Slice(took, func(i, j int) bool { return took[i] < took[j] })
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
}
