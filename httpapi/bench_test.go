package httpapi_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"
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

// wire is one keep-alive connection, as cheap as a client can be: what is
// measured is the server.
type wire struct {
	b *testing.B
	c net.Conn
	r *bufio.Reader
}

func (r *rig) wire(b *testing.B) *wire {
	c, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	return &wire{b, c, bufio.NewReader(c)}
}

func request(path, body string) []byte {
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		path, len(body), body)
}

// do sends a request and returns the body of its answer, which must have that
// status.
func (w *wire) do(request []byte, want string) []byte {
	if _, err := w.c.Write(request); err != nil {
		w.b.Error(err)
		return nil
	}
	length := 0
	for first := true; ; first = false {
		line, err := w.r.ReadSlice('\n')
		if err != nil {
			w.b.Error(err)
			return nil
		}
		if first && string(line[9:12]) != want {
			w.b.Errorf("answer %q", line)
		}
		if len(line) == 2 {
			break
		}
		if value, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			length, _ = strconv.Atoi(string(bytes.TrimSpace(value)))
		}
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(w.r, body); err != nil {
		w.b.Error(err)
	}
	return body
}

// clients runs n connections until they have done b.N calls together.
func (r *rig) clients(b *testing.B, n int, call func(w *wire)) {
	wires := make([]*wire, n)
	for i := range wires {
		wires[i] = r.wire(b)
	}
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	b.ResetTimer()
	for _, w := range wires {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				call(w)
			}
		})
	}
	wg.Wait()
	b.StopTimer()
}

func perSecond(b *testing.B, n int) {
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "tasks/s")
}

// stored makes sure that what was counted is there: a batch answers 200 also
// when its tasks were refused.
func (r *rig) stored(b *testing.B, want int) {
	q, err := r.client.Queues(context.Background(), "default")
	if err != nil || q[0].Ready != want {
		b.Errorf("%+v, %v: want %d ready", q, err, want)
	}
}

const benchTask = `{"name":"bench","args":{"to":"someone@example.com","n":12345}}`

func BenchmarkPostBatch(b *testing.B) {
	backends(b, func(b *testing.B, r *rig) {
		batch := request("/v1/tasks/batch", `{"tasks":[`+strings.Repeat(benchTask+",", 999)+benchTask+`]}`)
		r.clients(b, 4, func(w *wire) { w.do(batch, "200") })
		perSecond(b, b.N*1000)
		r.stored(b, b.N*1000)
	})
}

func BenchmarkPostTask(b *testing.B) {
	backends(b, func(b *testing.B, r *rig) {
		one := request("/v1/tasks", benchTask)
		r.clients(b, 64, func(w *wire) { w.do(one, "201") })
		perSecond(b, b.N)
		r.stored(b, b.N)
	})
}

// BenchmarkWait measures from the end of the handler to the answer of the
// request that waits for it, all in this process.
func BenchmarkWait(b *testing.B) {
	backends(b, func(b *testing.B, r *rig) {
		r.work(moment)
		w := r.wire(b)
		var took []time.Duration
		for i := 0; b.Loop(); i++ {
			took = append(took, w.wait(fmt.Sprintf("w%d", i)))
		}
		report(b, took)
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
		lease := request("/v1/lease", `{"queues":["default"],"count":100,"wait":"5s"}`)
		r.clients(b, 4, func(w *wire) { w.pull(lease) })
		perSecond(b, b.N*100)
		q, err := r.client.Queues(context.Background(), "default")
		if err != nil || q[0].Leased != 0 {
			b.Errorf("%+v, %v: not every lease was settled", q, err)
		}
	})
}

func (w *wire) pull(lease []byte) {
	var s strings.Builder
	s.WriteString(`{"tasks":[`)
	rest, receipt := w.do(lease, "200"), []byte(nil)
	for n := 0; ; n++ {
		var found bool
		if _, rest, found = bytes.Cut(rest, []byte(`"receipt":"`)); !found {
			break
		}
		receipt, rest, _ = bytes.Cut(rest, []byte(`"`))
		if n > 0 {
			s.WriteByte(',')
		}
		fmt.Fprintf(&s, `{"receipt":"%s","outcome":"succeeded","result":1}`, receipt)
	}
	if receipt != nil {
		w.do(request("/v1/settle", s.String()+"]}"), "200")
	}
}
