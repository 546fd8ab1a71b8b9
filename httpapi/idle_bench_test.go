//go:build unix

package httpapi_test

import (
	"fmt"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// idleFor is how long BenchmarkIdle looks at clients that do nothing.
const idleFor = 10 * time.Second

// BenchmarkIdle measures what 1,000 clients cost that wait for tasks which do
// not move: 500 event streams, 250 waits and 250 leases. One iteration is
// enough: -benchtime 1x.
func BenchmarkIdle(b *testing.B) {
	backends(b, func(b *testing.B, r *rig) {
		before := inUse()
		var held []*wire
		for i := range 1000 {
			w := r.wire(b)
			held = append(held, w)
			switch i % 4 {
			case 0:
				w.send(request("/v1/lease", fmt.Sprintf(`{"queues":["empty-%d"],"wait":"30s"}`, i%10)))
			case 1:
				id := r.enqueue(fmt.Sprintf(`{"name":"never","id":"t%d"}`, i))
				w.send([]byte("GET /v1/tasks/" + id + "/wait?timeout=60s HTTP/1.1\r\nHost: localhost\r\n\r\n"))
			default:
				id := r.enqueue(fmt.Sprintf(`{"name":"never","id":"t%d"}`, i))
				w.send([]byte("GET /v1/tasks/" + id + "/events HTTP/1.1\r\nHost: localhost\r\n\r\n"))
				if line, err := w.r.ReadString('\n'); err != nil || !strings.Contains(line, "200") {
					b.Fatalf("a stream begins with %q, %v", line, err)
				}
			}
		}
		time.Sleep(2 * time.Second)
		b.ResetTimer()
		began, cpu := time.Now(), cpuTime(b)
		time.Sleep(time.Duration(b.N) * idleFor)
		b.ReportMetric(100*(cpuTime(b)-cpu).Seconds()/time.Since(began).Seconds(), "%core")
		b.ReportMetric(float64(inUse()-before)/(1<<20), "MiB")
		runtime.KeepAlive(held)
	})
}

func (w *wire) send(request []byte) {
	if _, err := w.c.Write(request); err != nil {
		w.b.Error(err)
	}
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// inUse is the memory of the program's heap and stacks, clients included.
func inUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}
