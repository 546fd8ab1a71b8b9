package stemcmd

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/connect"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares with a file of testdata/golden.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s: JSON is stable, and other programs read it (-want +got):\n%s", name, diff)
	}
}

// show runs one listing in a format, and returns what it wrote.
func show(t *testing.T, output string, list func(*session) error) string {
	t.Helper()
	var out, errs bytes.Buffer
	s := newSession(App{Name: "stem"}, Process{Stdout: &out, Stderr: &errs})
	s.flags.output = output
	if err := list(s); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func sampleStatuses() []stem.Status {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.FixedZone("CET", 3600))
	return []stem.Status{{
		ID: "a1", Name: "email.send", State: stem.Failed, Queue: "mail", Priority: 5, Attempt: 2, MaxRetries: 1, Epoch: 2,
		Worker: "w1", EnqueuedAt: at, StartedAt: at.Add(time.Second), FinishedAt: at.Add(1500 * time.Millisecond),
		Args: json.RawMessage(`{"to":"<a@example.com>","n":12345678901234567890}`), Reason: "retries-exhausted",
		Error:  &task.Error{Type: "*net.OpError", Message: "no\x1b[31m route\nto host", Attempt: 1, At: at, Retryable: true},
		Errors: []task.Error{{Type: "error", Message: "busy", At: at}, {Type: "*net.OpError", Message: "no route", Attempt: 1, At: at}},
		Meta:   map[string]json.RawMessage{"user": json.RawMessage(`{"order":42}`)}, ReplayCount: 1, LastReplayAt: at,
	}, {
		ID: "a2", Name: "report", State: stem.Running, Queue: "default", Priority: 9, EnqueuedAt: at, NotBefore: at, StartedAt: at,
		ExpiresAt: at, Progress: &task.Progress{Percent: 12.5, Data: json.RawMessage(`{"row":3}`), At: at},
	}}
}

func sampleDead() []broker.DeadLetter {
	st := sampleStatuses()[0]
	return []broker.DeadLetter{{
		Envelope: &task.Envelope{
			ID: "a1", Name: "email.send", Args: st.Args, Headers: map[string]string{"tenant": "acme"}, EnqueuedAt: st.EnqueuedAt,
			Priority: 5, MaxRetries: 1, Queue: "mail", Meta: st.Meta,
		},
		Queue: "mail", Reason: "retries-exhausted", Error: st.Error, Errors: st.Errors, Attempt: 2, Epoch: 3,
		DeadAt: st.FinishedAt, ReplayCount: 1, LastReplayAt: st.LastReplayAt,
	}, {
		Envelope: &task.Envelope{ID: "a3"}, Raw: []byte("no envelope"), Queue: "mail", Reason: "malformed", DeadAt: st.FinishedAt,
	}}
}

func TestJSONIsStable(t *testing.T) {
	statuses := sampleStatuses()
	for i := range statuses {
		statuses[i] = normalised(statuses[i])
	}
	health := []backendHealth{
		{URL: "sqlite:stem.db", Roles: []string{"broker", "results"}, Reachable: true, Backend: "sqlite", Schema: "3", Powers: []string{"durable"}, RoundTripMS: 0.25, Queues: 2, Workers: 1},
		{URL: "sqlite:no.db", Roles: []string{"results"}, Error: "no such file", Powers: []string{}},
	}
	for name, list := range map[string]func(*session) error{
		"statuses":  func(s *session) error { _, err := list(s, statusView(), one(statuses)); return err },
		"dead":      func(s *session) error { _, err := list(s, deadView(), one(sampleDead())); return err },
		"dead-full": func(s *session) error { return s.showDead(sampleDead(), 2) },
		"queues": func(s *session) error {
			_, err := list(s, queueView(), one([]broker.QueueInfo{{Name: "default", Ready: 1, Delayed: 2, Due: 1, Leased: 3, Dead: 4, Oldest: 63250 * time.Millisecond}}))
			return err
		},
		"health": func(s *session) error { _, err := list(s, healthView(), one(health)); return err },
		"findings": func(s *session) error {
			_, err := list(s, findingView(), one([]finding{{Check: "invariants", Subject: "sqlite:stem.db", OK: true, Detail: "fine"}}))
			return err
		},
		"settings": func(s *session) error {
			_, err := list(s, settingView(), one([]connect.Setting{{Name: "STEM_NAMESPACE", Value: "stem", Source: "default"}}))
			return err
		},
		"names": func(s *session) error {
			_, err := list(s, knownView(), one([]knownTask{{Name: "a", Aliases: []string{}, Queue: "default", Priority: 5, MaxRetries: 3, HardTimeout: "1m0s"}}))
			return err
		},
		"change": func(s *session) error {
			return s.tell(change{Action: "purge", Count: 1, DryRun: true, IDs: []string{"a1"}}, plan{thing: "dead letter"})
		},
	} {
		golden(t, name+".json", show(t, asJSON, list))
		golden(t, name+".jsonl", show(t, asJSONL, list))
	}
}

func TestEmptyListsAreArrays(t *testing.T) {
	for output, want := range map[string]string{asJSON: "[]\n", asJSONL: "", asName: "", asTable: "", asWide: ""} {
		got := show(t, output, func(s *session) error { _, err := list(s, statusView(), one[stem.Status](nil)); return err })
		if got != want {
			t.Errorf("%s: %q, want %q", output, got, want)
		}
	}
}

func TestTables(t *testing.T) {
	rows := []queueInfo{{Name: "größe", Ready: 5}, {Name: "日本", Ready: 12345}, {Name: "a\x1b[31m\nb", Ready: 1}}
	v := view[queueInfo]{columns: []column[queueInfo]{
		{head: "NAME", cell: func(q *queueInfo) string { return q.Name }},
		{head: "READY", right: true, cell: func(q *queueInfo) string { return fmt.Sprint(q.Ready) }},
		{head: "MORE", wide: true, cell: func(*queueInfo) string { return strings.Repeat("x", 300) }},
	}}
	got := show(t, asTable, func(s *session) error { _, err := list(s, v, one(rows)); return err })
	want := "NAME       READY\ngröße          5\n日本       12345\na\\e[31m b      1\n"
	if got != want {
		t.Errorf("table:\n%s\nwant:\n%s", got, want)
	}
	wide := show(t, asWide, func(s *session) error { _, err := list(s, v, one(rows)); return err })
	if !strings.Contains(wide, "MORE") || strings.Contains(wide, strings.Repeat("x", 101)) {
		t.Errorf("wide table:\n%s", wide)
	}
}

func TestSheetsHideNothingAndObeyNothing(t *testing.T) {
	st := normalised(sampleStatuses()[0])
	got := show(t, asTable, func(s *session) error { return s.showStatuses([]stem.Status{st}, 1) })
	for _, part := range []string{"a1  failed", "retries-exhausted", `no\e[31m route`, "12345678901234567890", "attempt       2 of 2", "busy", "2026-01-02T02:04:05.678Z"} {
		if !strings.Contains(got, part) {
			t.Errorf("no %q in:\n%s", part, got)
		}
	}
	if strings.Contains(got, "\x1b") {
		t.Errorf("an escape sequence of a task's error reaches the terminal:\n%q", got)
	}
	dead := show(t, asTable, func(s *session) error { return s.showDead(sampleDead(), 2) })
	for _, part := range []string{"a1  dead: retries-exhausted", "header.tenant acme", "a3  dead: malformed", `entry         "no envelope"`} {
		if !strings.Contains(dead, part) {
			t.Errorf("no %q in:\n%s", part, dead)
		}
	}
}

func TestSpans(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 1500 * time.Microsecond: "2ms", 1234 * time.Millisecond: "1.2s", 61 * time.Second: "1m1s", 5 * time.Minute: "5m",
		time.Hour: "1h", 90 * time.Minute: "1h30m", 49 * time.Hour: "2d1h",
	} {
		if got := span(d); got != want {
			t.Errorf("span(%s) = %q, want %q", d, got, want)
		}
	}
	if last := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC); ago(last) != moment(last) {
		t.Errorf("ago of the last moment there is: %s", ago(last))
	}
	if ago(time.Time{}) != "-" || !strings.HasSuffix(ago(time.Now().Add(-time.Minute)), " ago") || !strings.HasPrefix(ago(time.Now().Add(time.Hour)), "in ") {
		t.Error("ago")
	}
}

func TestExitCodes(t *testing.T) {
	for want, errs := range map[int][]error{
		ExitDone:   {nil},
		ExitFailed: {errors.New("x"), errInterrupted},
		ExitUsage: {usage("x"), &connect.SettingError{}, &connect.URLError{}, fmt.Errorf("x: %w", stem.ErrInvalid), stem.ErrTooLarge,
			errors.Join(usage("x"), errors.New("y"))},
		ExitUnreachable: {&connect.OpenError{Err: fs.ErrNotExist}, fmt.Errorf("x: %w", broker.ErrUnavailable), stem.ErrOutcomeUnknown, errTimeout},
		ExitNotFound:    {fmt.Errorf("x: %w", stem.ErrNotFound), broker.ErrNotFound},
		ExitRefused:     {&stem.TaskExistsError{ID: "x"}, stem.ErrQueueFull, broker.ErrUnsupported, store.ErrNotFinished},
	} {
		for _, err := range errs {
			if got := exitCode(err); got != want {
				t.Errorf("exit code of %v: %d, want %d", err, got, want)
			}
		}
	}
}

func TestAllErrors(t *testing.T) {
	lost, late := fail(ExitNotFound, "lost"), fail(ExitRefused, "late")
	for _, c := range []struct {
		n    int
		errs []error
		want int
	}{
		{3, nil, ExitDone},
		{1, []error{lost}, ExitNotFound},
		{2, []error{lost, lost}, ExitNotFound},
		{2, []error{lost, late}, ExitFailed},
		{3, []error{lost}, ExitPartly},
		{2, []error{fail(ExitFailed, "task failed")}, ExitFailed},
	} {
		if got := exitCode(all(c.n, c.errs)); got != c.want {
			t.Errorf("all(%d, %v): exit code %d, want %d", c.n, c.errs, got, c.want)
		}
	}
}

type brokenPipe struct{ writes int }

func (b *brokenPipe) Write([]byte) (int, error) {
	b.writes++
	return 0, fmt.Errorf("write: %w", syscall.EPIPE)
}

func TestReaderThatWentAwayIsNoError(t *testing.T) {
	out := &brokenPipe{}
	s := newSession(App{Name: "stem"}, Process{Stdout: out, Stderr: io.Discard})
	s.flags.output = asJSONL
	pages := 0
	n, err := list(s, statusView(), func(yield func([]stem.Status, error) bool) {
		for yield(sampleStatuses(), nil) {
			pages++
		}
	})
	if err != nil || pages > 0 || out.writes != 1 {
		t.Errorf("%d listed in %d further pages, %d writes, error %v", n, pages, out.writes, err)
	}
}

func TestParseQueues(t *testing.T) {
	for text, want := range map[string]stem.Queues{
		"a":       stem.Strict("a"),
		"a, b":    stem.Strict("a", "b"),
		"a=6,b=3": stem.Weights{"a": 6, "b": 3},
		"*":       stem.Strict("*"),
		"t-*=2":   stem.Weights{"t-*": 2},
	} {
		got, err := parseQueues(text)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("parseQueues(%q) = %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "a,", "a=", "a=x", "a=0", "a,a", "a=1,a=2", "a,b=1", "../x", "a=1=2", "=3"} {
		if got, err := parseQueues(text); err == nil || exitCode(err) != ExitUsage {
			t.Errorf("parseQueues(%q) = %v, %v", text, got, err)
		}
	}
}
