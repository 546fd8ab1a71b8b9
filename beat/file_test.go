package beat_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/beat"
	"github.com/stemjobs/stem/store"
)

func TestExamples(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "examples", "schedules", "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("examples: %v, %v", files, err)
	}
	for _, path := range files {
		entries, err := beat.LoadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := range entries {
			next, err := entries[i].Next(time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), 1)
			if err != nil || len(next) != 1 {
				t.Errorf("%s: next %v, %v", entries[i].ID, next, err)
			}
		}
	}
}

// TestExport: what is exported is read again as the same.
func TestExport(t *testing.T) {
	entries, err := beat.LoadFile(filepath.Join("..", "examples", "schedules", "schedules.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, false)
	if _, err := r.book.Apply(t.Context(), entries, false); err != nil {
		t.Fatal(err)
	}
	var records []store.Schedule
	for page, err := range r.book.All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		for i := range page {
			records = append(records, page[i].Record)
		}
	}
	for _, asJSON := range []bool{true, false} {
		var out bytes.Buffer
		if err := beat.ExportFile(&out, records, asJSON); err != nil {
			t.Fatal(err)
		}
		again, err := beat.ParseFile("export", out.Bytes())
		if err != nil {
			t.Fatalf("%v\n%s", err, out.String())
		}
		p, err := r.book.Plan(t.Context(), again, true)
		if err != nil || !p.Empty() || len(p.Changes) != len(entries) {
			t.Errorf("json %t: the plan of an export: %+v, %v", asJSON, p, err)
		}
	}
}

func TestWrongFiles(t *testing.T) {
	const head = "schedules:\n  - {id: fine, task: a, spec: \"every:1m\"}\n"
	deep := "schedules: " + strings.Repeat("[", 5000)
	laughs := "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nschedules: [*b,*b]\n"
	cases := map[string]struct{ text, want string }{
		"unknown key":        {head + "  - id: x\n    task: a\n    spec: every:1m\n    jiter: 3s\n", `f:6: schedule x: jiter: unknown key; did you mean "jitter"?`},
		"unknown option":     {head + "  - id: x\n    task: a\n    spec: every:1m\n    options:\n      qeue: a\n", `f:7: schedule x: options.qeue: unknown key; did you mean "queue"?`},
		"unknown zone":       {head + "  - {id: x, task: a, spec: {cron: \"0 2 * * *\", timezone: Europe/Berlon}}\n", `f:3: schedule x: spec: timezone "Europe/Berlon": want`},
		"unknown spec":       {head + "  - {id: x, task: a, spec: \"sometimes\"}\n", `f:3: schedule x: spec: spec "sometimes": want`},
		"no spec":            {head + "  - {id: x, task: a}\n", `f:3: schedule x: spec: `},
		"no task":            {head + "  - {id: x, spec: \"every:1m\"}\n", `f:3: schedule x: task: `},
		"no id":              {head + "  - {task: a, spec: \"every:1m\"}\n", `f:3: id: `},
		"duplicate ids":      {head + "  - {id: fine, task: a, spec: \"every:1m\"}\n", `f:3: id: "fine" is there twice, first on line 2`},
		"duplicate keys":     {head + "  - {id: x, id: y, task: a, spec: \"every:1m\"}\n", "f:3: not YAML"},
		"latitude":           {head + "  - id: x\n    task: a\n    spec: {solar: sunset, latitude: 91, longitude: 1}\n", `f:5: schedule x: spec: latitude "91"`},
		"endAt":              {head + "  - id: x\n    task: a\n    spec: every:1m\n    startAt: 2026-01-02T00:00:00Z\n    endAt: 2026-01-01T00:00:00Z\n", `f:7: schedule x: endAt: `},
		"no moment":          {head + "  - {id: x, task: a, spec: \"every:1m\", startAt: soon}\n", `f:3: schedule x: startAt: "soon": want a moment`},
		"overlap":            {head + "  - {id: x, task: a, spec: \"every:1m\", overlap: wait}\n", `overlap: "wait": want allow, skip or queue`},
		"policy":             {head + "  - {id: x, task: a, spec: \"every:1m\", misfire: {policy: some}}\n", `misfire.policy: "some": want latest, all or skip`},
		"max without all":    {head + "  - {id: x, task: a, spec: \"every:1m\", misfire: {max: 3}}\n", `misfire.max: want it with policy all alone`},
		"priority":           {head + "  - {id: x, task: a, spec: \"every:1m\", options: {priority: 10}}\n", `options.priority: 10: want from 0 to 9`},
		"priority of text":   {head + "  - {id: x, task: a, spec: \"every:1m\", options: {priority: high}}\n", `options.priority: "high": want a whole number`},
		"queue":              {head + "  - {id: x, task: a, spec: \"every:1m\", options: {queue: \"a b\"}}\n", `options.queue: `},
		"task name":          {head + "  - {id: x, task: \"a b\", spec: \"every:1m\"}\n", `task: invalid task name`},
		"header":             {head + "  - {id: x, task: a, spec: \"every:1m\", options: {headers: {stem-x: a}}}\n", `options: `},
		"jitter":             {head + "  - {id: x, task: a, spec: \"every:1m\", jitter: 25h}\n", `jitter: 25h0m0s: want whole milliseconds, from 0 to 24h`},
		"a number as jitter": {head + "  - {id: x, task: a, spec: \"every:1m\", jitter: 5}\n", `jitter: 5: want a duration with its unit`},
		"version":            {head + "  - {id: x, task: a, spec: \"every:1m\", version: one}\n", `f:3: schedule x: version: `},
		"large arguments":    {head + "  - {id: x, task: a, spec: \"every:1m\", args: [" + strings.Repeat("\""+strings.Repeat("x", 40<<10)+"\",\n", 2) + "]}\n", "it has"},
		"empty":              {"", "it is empty"},
		"null":               {"null\n", "want schedules:"},
		"another key":        {"tasks: {}\n", `f:1: unknown key "tasks"`},
		"not a list":         {"schedules: {a: b}\n", "f:1: schedules: want a list"},
		"an entry of text":   {"schedules: [a]\n", `f:1: "a": want an object`},
		"two documents":      {"schedules: []\n---\nschedules: []\n", "a second document"},
		"not YAML":           {"schedules: [}\n", "not YAML"},
		"not text":           {"schedules: \xff\n", "no UTF-8"},
		"anchors":            {laughs, "anchors, aliases, tags and directives are not used here"},
		"deep":               {deep, "nested too deep"},
		"ten megabytes":      {head + strings.Repeat("  - {id: x, task: a, spec: \"every:1m\"}\n", 10<<20/40), "more than 1024 KiB"},
		"a long line":        {"schedules: [" + strings.Repeat("[],", 100_000) + "]\n", "f:1: the line has more than 64 KiB"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := beat.ParseFile("f", []byte(c.text))
			var file *beat.FileError
			if !errors.As(err, &file) || !errors.Is(err, stem.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

// TestEveryWrongEntry: all that is wrong is told at once.
func TestEveryWrongEntry(t *testing.T) {
	_, err := beat.ParseFile("f", []byte("schedules:\n  - {id: a}\n  - {id: b, task: t, spec: x}\n"))
	if err == nil || !strings.Contains(err.Error(), "f:2:") || !strings.Contains(err.Error(), "f:3:") {
		t.Errorf("error %v", err)
	}
}

func TestNoSuchFile(t *testing.T) {
	if _, err := beat.LoadFile(filepath.Join(t.TempDir(), "none.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

func FuzzParseFile(f *testing.F) {
	text, err := os.ReadFile(filepath.Join("..", "examples", "schedules", "schedules.yaml"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"schedules":[{"id":"a","task":"b","spec":"every:1m","misfire":"skip","args":[1,2.5,null]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := beat.ParseFile("f", data)
		if err != nil {
			if !errors.Is(err, stem.ErrInvalid) {
				t.Fatalf("%v is not ErrInvalid", err)
			}
			return
		}
		for i := range entries {
			raw, err := entries[i].MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			again, err := beat.ParseDesired(raw)
			if err != nil {
				t.Fatalf("%s is not read again: %v", raw, err)
			}
			back, err := again.MarshalJSON()
			if err != nil || !bytes.Equal(raw, back) {
				t.Fatalf("%s became %s, %v", raw, back, err)
			}
		}
	})
}
