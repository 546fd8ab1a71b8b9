package prom_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/measure"
	"github.com/stemjobs/stem/observe"
	"github.com/stemjobs/stem/observe/prom"
	"github.com/stemjobs/stem/store"
)

func scrape(t *testing.T, e *prom.Exporter) string {
	t.Helper()
	w := httptest.NewRecorder()
	e.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("scrape: status %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func wantLine(t *testing.T, page, line string) {
	t.Helper()
	if !strings.Contains("\n"+page, "\n"+line+"\n") {
		name, _, _ := strings.Cut(line, "{")
		var near []string
		for l := range strings.Lines(page) {
			if strings.HasPrefix(l, name) {
				near = append(near, l)
			}
		}
		t.Errorf("no line\n\t%s\nnear it:\n%s", line, strings.Join(near, ""))
	}
}

// use touches every metric once, as a worker and a store would.
func use(t *testing.T, e *prom.Exporter) {
	t.Helper()
	err := e.Watch(observe.NewStore(func(context.Context) ([]broker.QueueInfo, error) {
		return []broker.QueueInfo{{Name: "default", Ready: 7, Delayed: 2, Leased: 1, Dead: 3, Oldest: 1500 * time.Millisecond}}, nil
	}, func(context.Context) ([]store.Heartbeat, error) {
		return []store.Heartbeat{{Worker: "w1", At: time.Now().Add(time.Hour)}, {Worker: "gone", Stopped: true}}, nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range measure.All() {
		values := make([]string, len(m.Labels))
		for i, l := range m.Labels {
			values[i] = "some-" + l
		}
		switch m.Kind {
		case measure.KindCounter:
			e.Counter(m, values...).Add(1)
		case measure.KindGauge:
			e.Gauge(m, values...).Set(1)
		case measure.KindHistogram:
			e.Histogram(m, values...).Observe(0.003)
		}
	}
}

func TestEveryMetricIsServedUnderALegalName(t *testing.T) {
	e := prom.New(prom.Options{Version: "1.2.3"})
	use(t, e)
	page := scrape(t, e)

	legal := regexp.MustCompile(`^stem(_[a-z][a-z0-9]*)+$`)
	seen := make(map[string]bool)
	for _, m := range measure.All() {
		name := prom.Name(m)
		if !legal.MatchString(name) {
			t.Errorf("%s becomes %q", m.Name, name)
		}
		if seen[name] {
			t.Errorf("%q is the name of two metrics", name)
		}
		seen[name] = true
		if !strings.Contains(page, "\n# TYPE "+name+" "+string(m.Kind)+"\n") {
			t.Errorf("%s is not served as the %s %s", m.Name, m.Kind, name)
		}
		if !strings.Contains(page, "\n# HELP "+name+" "+m.Help+"\n") {
			t.Errorf("%s is served without its help", name)
		}
	}

	problems, err := promlint.New(strings.NewReader(page)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		// The isolates that a worker has in all keep their name, though it ends as
		// a counter's would.
		if strings.HasPrefix(p.Metric, "stem_") && p.Metric != "stem_worker_isolates_total" {
			t.Errorf("Prometheus dislikes %s: %s", p.Metric, p.Text)
		}
	}
}

func TestWhatIsServed(t *testing.T) {
	e := prom.New(prom.Options{Version: "1.2.3"})
	use(t, e)
	e.Counter(measure.TasksStarted, "email.send", "critical").Add(2)
	e.Counter(measure.TasksStarted, "email.send", "critical").Add(3)
	e.Gauge(measure.WorkerInflight, "w1").Set(4)
	e.Histogram(measure.TaskDuration, "email.send", "critical", "succeeded").Observe(0.0004)
	e.Histogram(measure.TaskDuration, "email.send", "critical", "succeeded").Observe(599)
	page := scrape(t, e)

	for _, line := range []string{
		`stem_tasks_started_total{queue="critical",task="email.send"} 5`,
		`stem_worker_inflight{worker="w1"} 4`,
		`stem_task_duration_seconds_bucket{outcome="succeeded",queue="critical",task="email.send",le="0.0005"} 1`,
		`stem_task_duration_seconds_bucket{outcome="succeeded",queue="critical",task="email.send",le="600"} 2`,
		`stem_task_duration_seconds_count{outcome="succeeded",queue="critical",task="email.send"} 2`,
		`stem_queue_depth{queue="default"} 7`,
		`stem_queue_delayed{queue="default"} 2`,
		`stem_queue_oldest_age_seconds{queue="default"} 1.5`,
		`stem_dlq_depth{queue="default"} 3`,
		`stem_worker_heartbeat_age_seconds{worker="w1"} 0`,
	} {
		wantLine(t, page, line)
	}
	for _, name := range []string{`stem_build_info{`, "go_goroutines ", `version="1.2.3"`} {
		if !strings.Contains(page, name) {
			t.Errorf("%s is not served", name)
		}
	}
	if strings.Contains(page, `stem_queue_depth{queue="some-queue"}`) {
		t.Error("a gauge of the whole store was taken from a worker")
	}
}

func TestLabelsAreBounded(t *testing.T) {
	e := prom.New(prom.Options{})
	for i := range 1500 {
		e.Counter(measure.TasksUnknown, fmt.Sprintf("task-%d", i), "default").Add(1)
	}
	e.Counter(measure.TasksUnknown, "task-0", "default").Add(1)
	page := scrape(t, e)
	wantLine(t, page, `stem_tasks_unknown_total{queue="default",task="task-0"} 2`)
	wantLine(t, page, `stem_tasks_unknown_total{queue="default",task="task-999"} 1`)
	wantLine(t, page, `stem_tasks_unknown_total{queue="default",task="other"} 500`)
	if strings.Contains(page, `task="task-1000"`) {
		t.Error("the 1,001st name has a series of its own")
	}
}

func TestSeriesAreBounded(t *testing.T) {
	e := prom.New(prom.Options{MaxSeries: 10})
	for i := range 10 {
		for j := range 10 {
			e.Counter(measure.TasksStarted, fmt.Sprint("t", i), fmt.Sprint("q", j)).Add(1)
		}
	}
	page := scrape(t, e)
	if n := strings.Count(page, "\nstem_tasks_started_total{"); n != 11 {
		t.Errorf("%d series, want the 10 that are allowed and the one of all others", n)
	}
	wantLine(t, page, `stem_tasks_started_total{queue="other",task="other"} 90`)
}

func TestALabelThatIsNoTextDoesNotSpoilTheScrape(t *testing.T) {
	e := prom.New(prom.Options{})
	e.Counter(measure.TasksUnknown, "bad\xff\"name\n", "default").Add(1)
	wantLine(t, scrape(t, e), `stem_tasks_unknown_total{queue="default",task="bad�\"name\n"} 1`)
}

func TestManyCallersShareHandles(t *testing.T) {
	e := prom.New(prom.Options{})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 100 {
				e.Counter(measure.TasksEnqueued, fmt.Sprint("t", i%2), "default").Add(1)
				e.Histogram(measure.BrokerRoundtrip, "memory", "exchange").Observe(0.001)
			}
		})
	}
	wg.Wait()
	page := scrape(t, e)
	wantLine(t, page, `stem_tasks_enqueued_total{queue="default",task="t1"} 400`)
	wantLine(t, page, `stem_broker_roundtrip_seconds_count{backend="memory",operation="exchange"} 800`)
}

func TestTheStoreIsAskedOnceInFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := prom.New(prom.Options{})
		asked := 0
		err := e.WatchQueues(func(ctx context.Context) ([]broker.QueueInfo, error) {
			if _, ok := ctx.Deadline(); !ok {
				t.Error("asked without a deadline")
			}
			asked++
			return []broker.QueueInfo{{Name: "default", Ready: asked}}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		scrape(t, e)
		time.Sleep(4900 * time.Millisecond)
		wantLine(t, scrape(t, e), `stem_queue_depth{queue="default"} 1`)
		time.Sleep(200 * time.Millisecond)
		wantLine(t, scrape(t, e), `stem_queue_depth{queue="default"} 2`)
		if asked != 2 {
			t.Errorf("asked %d times, want 2", asked)
		}
	})
}

func TestAStoreThatIsAwayLeavesTheRest(t *testing.T) {
	e := prom.New(prom.Options{})
	if err := e.WatchQueues(func(context.Context) ([]broker.QueueInfo, error) { return nil, errors.New("away") }); err != nil {
		t.Fatal(err)
	}
	e.Gauge(measure.IsolatesTotal, "w1").Set(8)
	page := scrape(t, e)
	wantLine(t, page, `stem_worker_isolates_total{worker="w1"} 8`)
	if strings.Contains(page, "stem_queue_depth") {
		t.Error("a depth is served that nobody knows")
	}
}

func TestManyQueuesAreAddedUp(t *testing.T) {
	e := prom.New(prom.Options{MaxValues: 2})
	err := e.WatchQueues(func(context.Context) ([]broker.QueueInfo, error) {
		return []broker.QueueInfo{
			{Name: "a", Ready: 1}, {Name: "b", Ready: 2}, {Name: "c", Ready: 3, Oldest: time.Second},
			{Name: "other", Ready: 4, Oldest: time.Minute},
		}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	page := scrape(t, e)
	wantLine(t, page, `stem_queue_depth{queue="b"} 2`)
	wantLine(t, page, `stem_queue_depth{queue="other"} 7`)
	wantLine(t, page, `stem_queue_oldest_age_seconds{queue="other"} 60`)
}

func TestWatchingTwiceIsAnError(t *testing.T) {
	e := prom.New(prom.Options{})
	ask := func(context.Context) ([]broker.QueueInfo, error) { return nil, nil }
	if err := e.WatchQueues(ask); err != nil {
		t.Fatal(err)
	}
	if err := e.WatchQueues(ask); err == nil {
		t.Error("a second watch was accepted")
	}
}

func TestWrongUseIsToldAtOnce(t *testing.T) {
	e := prom.New(prom.Options{})
	for name, f := range map[string]func(){
		"kind":   func() { e.Gauge(measure.TasksStarted, "a", "b") },
		"values": func() { e.Counter(measure.TasksStarted, "a") },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			f()
		})
	}
}

func BenchmarkHandle(b *testing.B) {
	e := prom.New(prom.Options{})
	c := e.Counter(measure.TasksStarted, "email.send", "default")
	for b.Loop() {
		c.Add(1)
	}
}

func BenchmarkAskForHandle(b *testing.B) {
	e := prom.New(prom.Options{})
	for b.Loop() {
		e.Counter(measure.TasksStarted, "email.send", "default")
	}
}

func TestTracesAreExamples(t *testing.T) {
	e := prom.New(prom.Options{})
	h := e.Histogram(measure.TaskDuration, "email.send", "default", "succeeded")
	measure.ObserveIn(h, measure.TraceContext{Parent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}, 0.3)
	q := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	q.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	w := httptest.NewRecorder()
	e.Handler().ServeHTTP(w, q)
	if !strings.Contains(w.Body.String(), `# {trace_id="4bf92f3577b34da6a3ce929d0e0e4736"} 0.3`) {
		t.Errorf("no exemplar:\n%s", w.Body)
	}
}

// TestPromtool has Prometheus's own tool read what is served.
func TestPromtool(t *testing.T) {
	e := prom.New(prom.Options{})
	use(t, e)
	page := scrape(t, e)
	cmd := exec.CommandContext(t.Context(), "promtool", "check", "metrics")
	cmd.Stdin = strings.NewReader(page)
	out, err := cmd.CombinedOutput()
	var left []string
	for l := range strings.Lines(string(out)) {
		// See TestEveryMetricIsServedUnderALegalName; Go's own are not ours.
		if strings.HasPrefix(l, "stem_") && !strings.HasPrefix(l, "stem_worker_isolates_total ") {
			left = append(left, l)
		}
	}
	const disliked = 3 // the exit code of a page that it can read
	if x, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || x.ExitCode() != disliked) {
		t.Fatalf("promtool: %v (make needs installs it)\n%s", err, out)
	}
	if len(left) > 0 {
		t.Errorf("promtool dislikes:\n%s", strings.Join(left, ""))
	}
}
