package tasksfile_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/internal/tasksfile"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

const everything = `# what a tasks file can say
tasks:
  thumbnail:
    exec: ["convert", "-thumbnail", "200x200", "--", "{{.in}}", "{{ .out }}"]
    timeout: {soft: 30s, hard: 40s}
    retry: {max: 5, base: 2s, factor: 1.5, max_wait: 1m, jitter: 0}
    concurrency: 4
    queue: images
    priority: 7
    env: [HTTPS_PROXY]
  plain: {exec: [true]}
  never.again:
    exec:
      - sleep
      - 5
      - 010
      - |
        two
        lines
    retry: {max: 0, jitter: 0.25}
    env: {LEVEL: 3, NAME: "a b", EMPTY: ""}
    allow_option_values: true
`

func pointer[T any](v T) *T { return &v }

func TestParse(t *testing.T) {
	file, err := tasksfile.Parse("tasks.yaml", []byte(everything))
	if err != nil {
		t.Fatal(err)
	}
	want := []*tasksfile.Task{
		{
			Name: "thumbnail", Line: 3, Queue: "images", Priority: pointer(7), MaxRetries: pointer(5),
			Retry:       runner.Retry{Base: 2 * time.Second, Factor: 1.5, Max: time.Minute, Jitter: -1},
			SoftTimeout: 30 * time.Second, HardTimeout: 40 * time.Second, Concurrency: 4,
		},
		{Name: "plain", Line: 11},
		{Name: "never.again", Line: 12, MaxRetries: pointer(0), Retry: runner.Retry{Jitter: 0.25}},
	}
	if diff := cmp.Diff(want, file.Tasks, cmpopts.IgnoreUnexported(tasksfile.Task{})); diff != "" {
		t.Errorf("tasks (-want +got):\n%s", diff)
	}
}

// TestBrokenFiles: each is refused with the line and the reason.
func TestBrokenFiles(t *testing.T) {
	in := func(lines ...string) string { // the body of one task, from line 3 on
		return "tasks:\n  it:\n    " + strings.Join(lines, "\n    ") + "\n"
	}
	for name, c := range map[string]struct{ text, want string }{
		"empty":               {"", "f.yaml: it is empty: want tasks:"},
		"only a comment":      {"# nothing\n", "f.yaml: it is empty: want tasks:"},
		"empty mapping":       {"{}", "f.yaml: it is empty: want tasks:"},
		"a list":              {"- a\n", "f.yaml:1: the file: want a mapping"},
		"a word":              {"tasks\n", "f.yaml:1: the file: want a mapping"},
		"null tasks":          {"tasks:\n", "f.yaml:1: tasks: want a mapping"},
		"no tasks":            {"tasks: {}\n", "f.yaml:1: tasks: there are none"},
		"unknown top key":     {"tasks:\n  a: {exec: [x]}\ntaks:\n", `f.yaml:3: unknown key "taks" in the file; did you mean "tasks"?`},
		"unknown key":         {in("exec: [x]", "timeouts: {soft: 1s}"), `f.yaml:4: unknown key "timeouts" in task it; did you mean "timeout"?`},
		"unknown inner key":   {in("exec: [x]", "retry:", "  max: 1", "  bases: 1s"), `f.yaml:6: unknown key "bases" in task it: retry; did you mean "base"?`},
		"known keys listed":   {in("exec: [x]", "zzz: 1"), "(known: exec, http, timeout, retry,"},
		"twice a task":        {"tasks:\n  a: {exec: [x]}\n  a: {exec: [y]}\n", "f.yaml:3: not YAML: mapping key \"a\" already defined"},
		"twice a key":         {in("exec: [x]", "exec: [y]"), "f.yaml:4: not YAML: mapping key \"exec\" already defined"},
		"bad name":            {"tasks:\n  \"a b\": {exec: [x]}\n", `f.yaml:2: invalid task name "a b"`},
		"name too long":       {"tasks:\n  " + strings.Repeat("n", 201) + ": {exec: [x]}\n", "f.yaml:2: invalid task name"},
		"task is text":        {"tasks:\n  it: ls -l\n", "f.yaml:2: task it: want a mapping"},
		"no exec":             {in("queue: q"), "f.yaml:2: task it: exec or http is missing"},
		"exec is text":        {in("exec: ls -l"), "f.yaml:3: task it: exec: want a list"},
		"exec is empty":       {in("exec: []"), "f.yaml:3: task it: exec: want a program"},
		"exec of lists":       {in("exec:", "- a", "- [b]"), "f.yaml:5: task it: exec: want text"},
		"exec of nothing":     {in("exec: [a, null]"), "f.yaml:3: task it: exec: want text"},
		"exec of empty text":  {in(`exec: ["  "]`), "f.yaml:3: task it: exec: the program is"},
		"program by argument": {in(`exec: ["{{.cmd}}"]`), "f.yaml:3: task it: exec: the program is"},
		"open braces":         {in(`exec: [a, "{{.in"]`), "f.yaml:3: task it: exec: \"{{.in\": {{ without }}"},
		"template function":   {in("exec:", "- a", `- "{{ printf .in }}"`), "f.yaml:5: task it: exec: {{ printf .in }}: want {{.name}}"},
		"template path":       {in(`exec: [a, "{{.user.name}}"]`), "want {{.name}}"},
		"template dot":        {in(`exec: [a, "{{.}}"]`), "want {{.name}}"},
		"zero byte in exec":   {in(`exec: [a, "b\0"]`), "it has a zero byte"},
		"timeout is text":     {in("exec: [x]", "timeout: 30s"), "f.yaml:4: task it: timeout: want a mapping"},
		"timeout no unit":     {in("exec: [x]", "timeout: {soft: 30}"), `f.yaml:4: task it: timeout: soft: "30": want a duration`},
		"timeout zero":        {in("exec: [x]", "timeout: {soft: 0s}"), "want a duration of a millisecond or more"},
		"timeout negative":    {in("exec: [x]", "timeout: {hard: -1s}"), "want a duration of a millisecond or more"},
		"timeout word":        {in("exec: [x]", "timeout: {hard: soon}"), `"soon": want a duration`},
		"soft beyond hard":    {in("exec: [x]", "timeout: {soft: 2s, hard: 1s}"), "f.yaml:4: task it: timeout: soft 2s is longer than hard 1s"},
		"retry negative":      {in("exec: [x]", "retry: {max: -1}"), `f.yaml:4: task it: retry: max: "-1": want a whole number from 0`},
		"retry fraction":      {in("exec: [x]", "retry: {max: 1.5}"), "want a whole number from 0"},
		"retry word":          {in("exec: [x]", "retry: {max: many}"), "want a whole number from 0"},
		"retry huge":          {in("exec: [x]", "retry: {max: 99999999999999999999}"), "want a whole number from 0"},
		"factor small":        {in("exec: [x]", "retry: {factor: 0.5}"), `f.yaml:4: task it: retry: factor: "0.5": want a number from 1 to 100`},
		"factor nan":          {in("exec: [x]", "retry: {factor: .nan}"), "want a number from 1 to 100"},
		"factor infinite":     {in("exec: [x]", "retry: {factor: .inf}"), "want a number from 1 to 100"},
		"jitter large":        {in("exec: [x]", "retry: {jitter: 2}"), "want a number from 0 to 1"},
		"base beyond most":    {in("exec: [x]", "retry: {base: 2m, max_wait: 1m}"), "base 2m0s is longer than max_wait 1m0s"},
		"concurrency zero":    {in("exec: [x]", "concurrency: 0"), `f.yaml:4: task it: concurrency: "0": want a whole number from 1 to 10000`},
		"priority 12":         {in("exec: [x]", "priority: 12"), `f.yaml:4: task it: priority: "12": want a whole number from 0 to 9`},
		"queue with slash":    {in("exec: [x]", "queue: ../x"), `f.yaml:4: task it: queue: invalid queue name "../x"`},
		"env is text":         {in("exec: [x]", "env: HOME"), "f.yaml:4: task it: env: want a list of names"},
		"env of ours":         {in("exec: [x]", "env:", "- HOME", "- STEM_BROKER_URL"), "f.yaml:6: task it: env: STEM_BROKER_URL: Stem's own variables"},
		"env sets ours":       {in("exec: [x]", "env: {stem_x: 1}"), "f.yaml:4: task it: env: stem_x: Stem's own variables"},
		"env with value":      {in("exec: [x]", "env: [A=b]"), `"A=b": want a variable's name`},
		"env by digit":        {in("exec: [x]", "env: [1A]"), `"1A": want a variable's name`},
		"env null":            {in("exec: [x]", "env: {A: }"), "f.yaml:4: task it: env: A: want text"},
		"allow word":          {in("exec: [x]", "allow_option_values: maybe"), `f.yaml:4: task it: allow_option_values: "maybe": want true or false`},
		"rate without time":   {in("exec: [x]", "rate: 100"), `f.yaml:4: task it: rate: invalid rate "100": want how many in a second, minute, hour or day, such as 10/s`},
		"rate of none":        {in("exec: [x]", "rate: 0/s"), `f.yaml:4: task it: rate: invalid rate "0/s"`},
		"rate too high":       {in("exec: [x]", "rate: 200000/s"), "f.yaml:4: task it: rate: invalid rate: 200000 in 1s: want 100,000 a second or less"},
		"rate is a list":      {in("exec: [x]", "rate: [10/s]"), "f.yaml:4: task it: rate: want a mapping of keys to values"},
		"rate is empty":       {in("exec: [x]", "rate:"), "f.yaml:4: task it: rate: want text"},
		"rate has no limit":   {in("exec: [x]", "rate: {burst: 3}"), "f.yaml:4: task it: rate: limit is missing"},
		"rate has odd key":    {in("exec: [x]", "rate: {limit: 1/s, bursts: 3}"), `f.yaml:4: unknown key "bursts" in task it: rate; did you mean "burst"?`},
		"rate burst zero":     {in("exec: [x]", "rate:", "  limit: 1/s", "  burst: 0"), `f.yaml:6: task it: rate: burst: "0": want a whole number from 1 to 1000000`},
		"rate limit wrong":    {in("exec: [x]", "rate:", "  burst: 2", "  limit: 1/w"), `f.yaml:6: task it: rate: limit: invalid rate "1/w"`},
		"anchor":              {in("exec: &a [x]"), `f.yaml:3: "&": anchors, aliases, tags and directives are not used here`},
		"alias":               {in("exec: [x]", "env: *a"), "f.yaml:4: \"*\": anchors"},
		"merge":               {in("exec: [x]", "<<: {queue: q}"), "f.yaml:4: \"<<\": anchors"},
		"tag":                 {in("exec: !!str x"), "f.yaml:3: \"!!str\": anchors"},
		"directive":           {"%YAML 1.2\n---\ntasks: {it: {exec: [x]}}\n", "f.yaml:1: \"%\": anchors"},
		"two documents":       {"tasks: {it: {exec: [x]}}\n---\ntasks: {}\n", "f.yaml:3: a second document"},
		"tab":                 {"tasks:\n\tit: {exec: [x]}\n", "f.yaml:2: not YAML"},
		"unclosed quote":      {in("exec: [\"x]"), "f.yaml:3: not YAML"},
		"unclosed list":       {in("exec: [x"), "not YAML"},
		"key of a list":       {"tasks:\n  [a]: {exec: [x]}\n", "f.yaml:2: not YAML"},
		"no UTF-8":            {"tasks: \xff", "f.yaml: it is no UTF-8 text"},
		"binary":              {"\x7fELF\x00\x00", "f.yaml: it is no UTF-8 text"},
		"too large":           {strings.Repeat("#\n", 65<<10), "f.yaml: it has more than 128 KiB"},
	} {
		t.Run(name, func(t *testing.T) {
			file, err := tasksfile.Parse("f.yaml", []byte(c.text))
			var broken *tasksfile.FileError
			if file != nil || !errors.As(err, &broken) || !errors.Is(err, task.ErrInvalid) {
				t.Fatalf("Parse = %v, %v; want a FileError", file, err)
			}
			if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error is\n%v\nwant it to say, on one line,\n%s", err, c.want)
			}
		})
	}
}

// TestHostileFiles: what is made to blow up a parser is refused.
func TestHostileFiles(t *testing.T) {
	const n = 100 << 10
	laughs := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c <= 'j'; c++ {
		laughs += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.Repeat(fmt.Sprintf("*%c,", c-1), 9))
	}
	block := ""
	for i := range 400 {
		block += strings.Repeat(" ", i) + "a:\n"
	}
	for name, text := range map[string]string{
		"laughs":   laughs,
		"lists":    "tasks: " + strings.Repeat("[", n),
		"balanced": "tasks: " + strings.Repeat("[", 1000) + strings.Repeat("]", 1000),
		"mappings": "tasks: " + strings.Repeat("{a: ", n/4),
		"entries":  "tasks:\n" + strings.Repeat("- ", n/2),
		"keys":     strings.Repeat("? ", n/2),
		"values":   strings.Repeat("a: ", n/3),
		"colons":   strings.Repeat(":", n),
		"anchors":  strings.Repeat("&a ", n/3),
		"tags":     strings.Repeat("!a ", n/3),
		"block":    block,
		"closes":   strings.Repeat("]", n),
		"dashes":   strings.Repeat("---\n", n/4),
	} {
		if _, err := tasksfile.Parse(name, []byte(text)); !errors.Is(err, task.ErrInvalid) || len(err.Error()) > 1000 {
			t.Errorf("%s: %.200v, want ErrInvalid in a few words", name, err)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	if _, err := tasksfile.Load(filepath.Join(dir, "none.yaml")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := tasksfile.Load(dir); err == nil || !strings.Contains(err.Error(), "directory") {
		t.Errorf("a directory: %v", err)
	}
	path := filepath.Join(dir, "tasks.yaml")
	if err := os.WriteFile(path, []byte(everything), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := tasksfile.Load(path)
	if err != nil || file.Path != path || len(file.Tasks) != 3 {
		t.Errorf("Load = %+v, %v", file, err)
	}
	if err := os.WriteFile(path, []byte("tasks:\n  a: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := tasksfile.Load(path); err == nil || !strings.HasPrefix(err.Error(), path+":2: ") {
		t.Errorf("a broken file: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(everything))
	f.Add([]byte("tasks: {a: {exec: [x, \"{{.y}}\"], env: {A: 1}}}"))
	f.Add([]byte("tasks: {a: {http: {url: \"http://h/\", headers: {A: b}, signing: {secret: [S]}, allow_private: [10.0.0.0/8]}}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := tasksfile.Parse("f.yaml", data)
		if err != nil {
			if !errors.Is(err, task.ErrInvalid) {
				t.Fatalf("%v does not wrap ErrInvalid", err)
			}
			return
		}
		for _, x := range file.Tasks {
			if err := task.ValidateName(x.Name); err != nil || x.Line < 1 {
				t.Fatalf("task %q at line %d: %v", x.Name, x.Line, err)
			}
		}
	})
}

func TestRate(t *testing.T) {
	for text, want := range map[string]tasksfile.Task{
		`rate: 100/s`:                  {Rate: store.Rate{Count: 100, Per: time.Second}},
		`rate: "500/h"`:                {Rate: store.Rate{Count: 500, Per: time.Hour}},
		`rate: {limit: 7/d, burst: 3}`: {Rate: store.Rate{Count: 7, Per: 24 * time.Hour, Burst: 3}},
		`rate: {burst: 20, fail_open: true, limit: 60/m}`: {Rate: store.Rate{Count: 60, Per: time.Minute, Burst: 20}, FailOpen: true},
		`queue: q`: {},
	} {
		f, err := tasksfile.Parse("f.yaml", []byte("tasks:\n  it:\n    exec: [x]\n    "+text+"\n"))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := f.Tasks[0]; got.Rate != want.Rate || got.FailOpen != want.FailOpen {
			t.Errorf("%s: got %+v, fail open %v", text, got.Rate, got.FailOpen)
		}
	}
}
