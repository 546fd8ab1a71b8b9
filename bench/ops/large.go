//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/observe/prom"
)

// waiting is never executed here.
var waiting = stem.NewTask[order, stem.None]("bench.waiting")

type order struct {
	Customer string `json:"customer"`
	Number   int    `json:"number"`
}

// large: a million tasks in a thousand queues: the report, the scrape, the searches.
func (b *bench) large(ctx context.Context, s *stage) ([]result, error) {
	err := s.enqueue(ctx, b.tasks, func(i int) stem.Item {
		return waiting.Item(order{fmt.Sprintf("customer-%04d", i%5000), i}, stem.Queue(fmt.Sprintf("queue-%04d", i%b.queues)))
	})
	if err != nil {
		return nil, err
	}
	if s.url == "memory:" {
		r, err := b.scrapeOwn(ctx, s)
		return []result{r}, err
	}
	var out []result
	for _, c := range []struct {
		name, bar string
		most      float64
		args      []string
	}{
		{"observe queues", "<= 200 ms", 200, []string{"observe", "queues"}},
		{"tasks ls", "<= 300 ms", 300, []string{"tasks", "ls"}},
		{"tasks ls of a queue", "<= 300 ms", 300, []string{"tasks", "ls", "queue:queue-0500"}},
		{"tasks ls of a name and state", "<= 300 ms", 300, []string{"tasks", "ls", "state:queued", "name:bench.*"}},
		{"tasks ls of a state that none has", "<= 300 ms", 300, []string{"tasks", "ls", "state:failed"}},
		{"tasks ls of arguments", "<= 300 ms", 300, []string{"tasks", "ls", "args:customer-4321"}},
		{"tasks ls of an error that none has", "<= 300 ms", 300, []string{"tasks", "ls", `error:"timed out"`}},
	} {
		r := result{Case: c.name, Bar: c.bar, Got: map[string]float64{}}
		err := b.timed(r.Got, func() (time.Duration, error) {
			text, cpu, err := s.call(ctx, c.args...)
			r.Got["lines"] = float64(strings.Count(text, "\n"))
			return cpu, err
		})
		if err != nil {
			return nil, err
		}
		r.Holds = r.Got["ms"] <= c.most
		out = append(out, r)
	}
	r, err := b.scrapeServer(ctx, s)
	return append(out, r), err
}

func scraped() result {
	return result{Case: "/metrics, store-wide gauges included", Bar: "<= 50 ms", Got: map[string]float64{}}
}

// storeAge is longer than what is known of a store is served before it is asked again.
const storeAge = 5500 * time.Millisecond

// scrapeServer scrapes a server of the API.
func (b *bench) scrapeServer(ctx context.Context, s *stage) (r result, err error) {
	r = scraped()
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return r, err
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		return r, err
	}
	server, err := s.begin(ctx, "serve", "--addr", "127.0.0.1:0", "--http", addr)
	if err != nil {
		return r, err
	}
	s.workers = append(s.workers, server)
	return r, b.scrapes(ctx, &r, "http://"+addr+"/metrics")
}

// scrapeOwn scrapes a server in this process, since memory is not shared.
func (b *bench) scrapeOwn(ctx context.Context, s *stage) (r result, err error) {
	r = scraped()
	x := prom.New(prom.Options{})
	if err := x.WatchQueues(func(ctx context.Context) ([]broker.QueueInfo, error) { return s.client.Queues(ctx) }); err != nil {
		return r, err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return r, err
	}
	h := &http.Server{Handler: x.Handler(), ReadHeaderTimeout: time.Minute}
	go h.Serve(l) // until Close
	defer func() { err = errors.Join(err, h.Close()) }()
	return r, b.scrapes(ctx, &r, "http://"+l.Addr().String()+"/metrics")
}

// scrapes scrapes whenever what the server knows of the store is too old, so that each
// of them asks the store.
func (b *bench) scrapes(ctx context.Context, r *result, url string) error {
	var took []float64
	for range b.reps {
		if err := pause(ctx, storeAge); err != nil {
			return err
		}
		began := time.Now()
		page, err := get(ctx, url)
		if err != nil {
			return err
		}
		took = append(took, ms(time.Since(began)))
		if n := strings.Count(page, "\nstem_queue_"); n < 2*b.queues {
			return fmt.Errorf("%s has %d series of queues: not all of them", url, n)
		}
		r.Got["kib"] = float64(len(page)) / 1024
	}
	r.Got["ms"], r.Got["max_ms"] = middle(took), slices.Max(took)
	r.Holds = r.Got["ms"] <= 50
	return nil
}

func get(ctx context.Context, url string) (string, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	a, err := http.DefaultClient.Do(q)
	if err != nil {
		return "", err
	}
	defer a.Body.Close()
	page, err := io.ReadAll(a.Body)
	if err == nil && a.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, a.Status)
	}
	return string(page), err
}
