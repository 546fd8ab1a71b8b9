//go:build unix

package chaos

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/beat"
	"github.com/stemjobs/stem/internal/faultproxy"
	"github.com/stemjobs/stem/store"
)

// beatMain is a beat process, which logs its firings into a file. SIGTERM stops it.
func beatMain() error {
	var args workerArgs
	if err := json.Unmarshal([]byte(os.Getenv(argsEnv)), &args); err != nil {
		return err
	}
	dir := os.Getenv(dirEnv)
	file := storesFile
	if strings.HasPrefix(args.Name, "cut") {
		file = cutFile
	}
	urls, err := readStores(dir, file)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(dir, args.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	b, client, err := urls.open(ctx)
	for err != nil && ctx.Err() == nil { // cut off already
		time.Sleep(100 * time.Millisecond)
		b, client, err = urls.open(ctx)
	}
	if err != nil {
		return nil //nolint:nilerr // it was told to stop before it began
	}
	runs, err := beat.New(client, b.Schedules(), b.Locks(), beat.Options{ID: args.Name, Logger: slog.New(slog.NewJSONHandler(log, nil))})
	if err != nil {
		return err
	}
	return errors.Join(runs.Run(ctx), b.Close(), log.Close())
}

// TestBeatsDieAndStop: three beats with 200 entries every second are killed, stopped
// and continued at random; one is cut from the store, and the store is restarted,
// where there is a network. Each due moment is enqueued once; under policy all none is
// missing, under latest and skip each that is missing is counted as passed over.
func TestBeatsDieAndStop(t *testing.T) {
	for name, find := range places() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			beatsDieAndStop(t, dir, find(t, dir))
		})
	}
}

func beatsDieAndStop(t *testing.T, dir string, where place) {
	where.write(t, dir)
	urls := where.urls
	b, client, err := urls.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	book, err := beat.NewBook(client, b.Schedules(), b.Locks())
	if err != nil {
		t.Fatal(err)
	}
	plan, err := book.Apply(t.Context(), everySecond(200), false)
	if err != nil {
		t.Fatal(err)
	}
	entry, err := book.Get(t.Context(), plan.Changes[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	first := entry.Record.NextDue // of all of them
	tormentBeats(t, dir, where, time.Duration(scale(7, 120))*time.Second)

	// A last beat catches up, and the entries are stopped.
	p := startRole(t, "beat", dir, workerArgs{Name: "last"}, nil)
	const patience = 5 * time.Minute // on a machine that has much else to do
	for until := time.Now(); !caughtUp(t, book, until); time.Sleep(50 * time.Millisecond) {
		if time.Since(until) > patience {
			log, _ := os.ReadFile(filepath.Join(dir, "last.log"))
			t.Fatalf("after %s the last beat has not caught up; the end of its log:\n%s", patience, log[max(0, len(log)-2000):])
		}
	}
	p.stop(t, syscall.SIGTERM)
	judgeBeats(t, dir, book, client, first)
}

// everySecond are n entries that are due every second, of all policies.
func everySecond(n int) []beat.Desired {
	out := make([]beat.Desired, n)
	for i := range out {
		e := beat.Entry{ID: fmt.Sprintf("e%03d", i), Task: "tick", Misfire: beat.Misfire{Policy: beat.PolicyAll, Max: 10_000}}
		e.Spec.Every = time.Second
		if i%10 == 0 {
			e.Jitter = 400 * time.Millisecond
		}
		switch i % 4 {
		case 1:
			e.Misfire = beat.Misfire{}
		case 3:
			e.Misfire = beat.Misfire{Policy: beat.PolicySkip, Grace: 3 * time.Second}
		}
		out[i] = beat.Desired{Entry: e}
	}
	return out
}

// tormentBeats keeps three beats running, and kills, stops, continues and replaces
// them at random; it cuts the first one off, and restarts the store, where it can.
func tormentBeats(t *testing.T, dir string, where place, length time.Duration) {
	t.Helper()
	beats := make([]*process, 3)
	start := func(i int) {
		name := "beat"
		if i == 0 && where.proxy != nil {
			name = "cut"
		}
		beats[i] = startRole(t, "beat", dir, workerArgs{Name: name}, nil)
	}
	for i := range beats {
		start(i)
	}
	resume := map[int]time.Time{} // of stopped beats
	restart := time.Now().Add(length / 2)
	for end := time.Now().Add(length); time.Now().Before(end); {
		time.Sleep(time.Duration(100+rand.IntN(700)) * time.Millisecond)
		for i, at := range resume {
			if time.Now().After(at) {
				beats[i].signal(t, syscall.SIGCONT)
				delete(resume, i)
			}
		}
		if where.proxy != nil {
			where.proxy.Set(faultproxy.Faults{Cut: rand.IntN(3) == 0})
		}
		if where.server != nil && time.Now().After(restart) {
			where.server.Kill()
			where.server.Restart()
			restart = end.Add(time.Hour)
		}
		i := rand.IntN(len(beats))
		if _, stopped := resume[i]; stopped {
			continue
		}
		switch rand.IntN(4) {
		case 0, 1:
			beats[i].signal(t, syscall.SIGKILL)
			<-beats[i].done
			start(i)
		case 2:
			beats[i].signal(t, syscall.SIGSTOP)
			resume[i] = time.Now().Add(time.Duration(500+rand.IntN(5500)) * time.Millisecond)
		case 3:
			for k := range resume { // it may hold the lock of a file, which who stops waits for
				beats[k].signal(t, syscall.SIGCONT)
				delete(resume, k)
			}
			beats[i].stop(t, syscall.SIGTERM)
			start(i)
		}
	}
	for i := range resume {
		beats[i].signal(t, syscall.SIGCONT)
	}
	for _, p := range beats {
		p.signal(t, syscall.SIGKILL)
		<-p.done
	}
}

// caughtUp reports whether every entry's newest moment is later than that.
func caughtUp(t *testing.T, book *beat.Book, until time.Time) bool {
	t.Helper()
	for page, err := range book.All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		for i := range page {
			if page[i].Record.LastDue.Before(until) {
				return false
			}
		}
	}
	return true
}

// judgeBeats compares what was enqueued with what was due.
func judgeBeats(t *testing.T, dir string, book *beat.Book, client *stem.Client, first time.Time) {
	t.Helper()
	dues := enqueuedDues(t, client)
	total, passed := 0, int64(0)
	for page, err := range book.All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		for i := range page {
			r := &page[i].Record
			got := dues[r.ID]
			total += len(got)
			passed += r.Misfired
			// What is before the next moment is decided. LastDue may be the first of a
			// row that was passed over, when the beat was told to stop after that claim.
			span := int64(r.NextDue.Sub(first) / time.Second)
			if r.Fired != int64(len(got)) || r.Fired+r.Misfired != span {
				t.Errorf("%s: %d tasks, %d fired, %d passed over, of %d moments", r.ID, len(got), r.Fired, r.Misfired, span)
			}
			if page[i].Entry.Misfire.Policy == beat.PolicyAll && r.Misfired > 0 {
				t.Errorf("%s: policy all, and %d passed over", r.ID, r.Misfired)
			}
			if r.LastError != "" {
				t.Errorf("%s: %s", r.ID, r.LastError)
			}
		}
	}
	fired, leads := readFirings(t, dir)
	for moment, n := range fired {
		if n > 1 {
			t.Errorf("%s: fired %d times", moment, n)
		}
	}
	t.Logf("%d moments enqueued, %d passed over; %d firings logged; the lead was taken %d times", total, passed, len(fired), leads)
	if leads < 2 {
		t.Error("the lead never changed: nothing was tested")
	}
}

// enqueuedDues are the due moments of the stored tasks, by entry.
func enqueuedDues(t *testing.T, client *stem.Client) map[string]map[string]bool {
	t.Helper()
	dues := map[string]map[string]bool{}
	q := store.Query{Name: "tick", Limit: 1000}
	for {
		l, err := client.List(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for i := range l.Statuses {
			entry, due, ok := strings.Cut(strings.TrimPrefix(l.Statuses[i].ID, "sch:"), ":")
			if !ok {
				t.Fatalf("task %s", l.Statuses[i].ID)
			}
			if dues[entry] == nil {
				dues[entry] = map[string]bool{}
			}
			dues[entry][due] = true
		}
		if q.Cursor = l.Cursor; q.Cursor == "" {
			return dues
		}
	}
}

// readFirings counts what the beats' logs say of each moment, and how often one
// took the lead. A beat that was killed may have said less than it did.
func readFirings(t *testing.T, dir string) (fired map[string]int, leads int) {
	t.Helper()
	fired = map[string]int{}
	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range logs {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
			var l struct {
				Msg, Schedule, Outcome, Error string
				Due                           time.Time
			}
			if json.Unmarshal(lines.Bytes(), &l) != nil {
				continue // cut off by a kill
			}
			switch {
			case l.Outcome == string(store.OutcomeFired):
				fired[l.Schedule+" "+l.Due.Format(time.RFC3339Nano)]++
			case l.Outcome == string(store.OutcomeDuplicate), l.Outcome == string(store.OutcomeFailed), l.Outcome == string(store.OutcomeUnknown):
				t.Errorf("%s: %s at %v: %s %s", filepath.Base(path), l.Schedule, l.Due, l.Outcome, l.Error)
			case l.Msg == "beat leads":
				leads++
			}
		}
	}
	return fired, leads
}
