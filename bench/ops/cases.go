//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
)

// start: of a command that needs no store, and of a worker until it is ready.
func (b *bench) start(ctx context.Context, s *stage) ([]result, error) {
	version := result{Case: "start of stem version", Bar: "<= 20 ms", Got: map[string]float64{}}
	err := b.timed(version.Got, func() (time.Duration, error) {
		_, cpu, err := s.call(ctx, "version")
		return cpu, err
	})
	if err != nil {
		return nil, err
	}
	version.Holds = version.Got["ms"] <= 20
	worker := result{Case: "start of worker run until ready", Bar: "<= 300 ms", Got: map[string]float64{}}
	var started []*exec.Cmd
	err = b.timed(worker.Got, func() (time.Duration, error) {
		w, err := s.begin(ctx, "worker", "run", "--http", "127.0.0.1:0")
		if err == nil {
			started = append(started, w)
		}
		return 0, err
	})
	for _, w := range started {
		err = errors.Join(err, end(w))
	}
	delete(worker.Got, "cpu_ms")
	worker.Holds = worker.Got["ms"] <= 300
	return []result{version, worker}, err
}

// ping: of twenty workers, all of which answer.
func (b *bench) ping(ctx context.Context, s *stage) ([]result, error) {
	const workers = 20
	if err := s.fleet(ctx, workers); err != nil {
		return nil, err
	}
	r := result{Case: "worker ping, 20 workers", Bar: "<= 300 ms, all answer", Got: map[string]float64{}}
	least := workers
	err := b.timed(r.Got, func() (time.Duration, error) {
		out, cpu, err := s.call(ctx, "worker", "ping", "--output", "name")
		least = min(least, strings.Count(out, "\n"))
		return cpu, err
	})
	r.Got["answers"] = float64(least)
	r.Holds = r.Got["ms"] <= 300 && least == workers
	return []result{r}, err
}

// heartbeats: of a thousand workers that are busy, in percent of the server's core.
func (b *bench) heartbeats(ctx context.Context, s *stage) ([]result, error) {
	const workers, every, length = 1000, 10 * time.Second, 20 * time.Second
	beats := s.backend.Heartbeats()
	var running []store.RunningJob
	for i := range 8 {
		running = append(running, store.RunningJob{ID: fmt.Sprintf("0190a0f0-0000-7000-8000-%012d", i), Name: "bench.nothing", Since: time.Now()})
	}
	before, err := s.serverCPU()
	if err != nil {
		return nil, err
	}
	began, n := time.Now(), 0
	for tick := time.Now(); tick.Before(began.Add(length)); tick = tick.Add(every / workers) {
		if err := pause(ctx, time.Until(tick)); err != nil {
			return nil, err
		}
		h := store.Heartbeat{
			Worker: fmt.Sprintf("host-%04d", n%workers), Host: "host", PID: 4711, Version: "1.0.0", StartedAt: began, At: time.Now(),
			Interval: every.Milliseconds(), Queues: []string{"critical", "default"}, Isolates: store.Isolates{Active: 8, Total: 8},
			Inflight: 16, Running: running, Succeeded: int64(n), Load: 0.5, RenewedAt: time.Now(),
		}
		if err := beats.Beat(ctx, h, 3*every); err != nil {
			return nil, err
		}
		n++
	}
	elapsed := time.Since(began)
	after, err := s.serverCPU()
	if err != nil {
		return nil, err
	}
	percent := 100 * (after - before).Seconds() / elapsed.Seconds()
	return []result{{
		Case: "heartbeats of 1,000 workers", Bar: "<= 1 % of a Redis core", Holds: percent <= 1,
		Got: map[string]float64{"percent": percent, "us_a_beat": float64((after - before).Microseconds()) / float64(n), "beats_per_s": float64(n) / elapsed.Seconds()},
	}}, nil
}

// serverCPU is what the Redis server has used.
func (s *stage) serverCPU() (time.Duration, error) {
	var sum float64
	for _, field := range []string{"used_cpu_user", "used_cpu_sys"} {
		seconds, err := strconv.ParseFloat(s.server.Info(field), 64)
		if err != nil {
			return 0, fmt.Errorf("INFO %s: %w", field, err)
		}
		sum += seconds
	}
	return time.Duration(sum * float64(time.Second)), nil
}

// dying fails for good.
var dying = stem.NewTask[int, stem.None]("bench.dying")

// replay: of many dead letters, by the command, or on memory by the library.
func (b *bench) replay(ctx context.Context, s *stage) ([]result, error) {
	if err := s.bury(ctx, b.dead); err != nil {
		return nil, err
	}
	r := result{Case: fmt.Sprintf("dlq replay of %d", b.dead), Bar: ">= 20,000 /s", Got: map[string]float64{}}
	began := time.Now()
	if s.url == "memory:" {
		done, err := s.client.ReplayDeadLetters(ctx, broker.DeadFilter{}, broker.ReplayOptions{})
		if err != nil {
			return nil, err
		}
		r.Got["replayed"] = float64(done.Count)
	} else {
		_, cpu, err := s.call(ctx, "dlq", "replay", "--queue", "*", "--yes")
		if err != nil {
			return nil, err
		}
		r.Got["cpu_us_each"] = float64(cpu.Microseconds()) / float64(b.dead)
	}
	took := time.Since(began)
	queues, err := s.client.Queues(ctx)
	if err != nil {
		return nil, err
	}
	for i := range queues {
		r.Got["replayed"] += float64(queues[i].Ready)
	}
	if s.url == "memory:" {
		r.Got["replayed"] /= 2 // what it says, and what there is
	}
	r.Got["per_s"] = float64(b.dead) / took.Seconds()
	r.Holds = r.Got["per_s"] >= 20_000 && int(r.Got["replayed"]) == b.dead
	return []result{r}, nil
}

// bury makes n dead letters: tasks whose handler fails for good.
func (s *stage) bury(ctx context.Context, n int) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var done sync.WaitGroup
	done.Add(n)
	w := stem.NewWorker(s.client, stem.WorkerOptions{Concurrency: 64})
	err := w.Handle(dying.Do(func(_ context.Context, _ int) error {
		done.Done()
		return stem.Permanent(errors.New("the parcel has no address"))
	}))
	if err != nil {
		return err
	}
	if err := s.enqueue(ctx, n, func(i int) stem.Item { return dying.Item(i) }); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	done.Wait()
	w.Shutdown(stem.Warm)
	return <-ended
}

// enqueue stores n tasks, a batch at a time.
func (s *stage) enqueue(ctx context.Context, n int, item func(i int) stem.Item) error {
	const batch = 2000
	for from := 0; from < n; from += batch {
		items := make([]stem.Item, min(batch, n-from))
		for i := range items {
			items[i] = item(from + i)
		}
		receipts, err := s.client.EnqueueMany(ctx, items)
		if err != nil {
			return err
		}
		for _, r := range receipts {
			if r.Err != nil {
				return r.Err
			}
		}
	}
	return nil
}
