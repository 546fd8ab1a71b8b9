package exectask

import (
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/task"
)

// File is a tasks file that was read.
type File struct {
	Path  string
	Tasks []*Task // in the file's order
}

// Task is one command. Its Run executes it; the rest is for who enqueues it and
// for the worker. Treat it as read-only.
type Task struct {
	Name string
	Line int // in its file

	Queue      string // "": the file names none
	Priority   *int   // nil: the file names none
	MaxRetries *int   // nil: the file names none
	Retry      runner.Retry

	SoftTimeout time.Duration // then the process group gets SIGTERM; 0: none
	HardTimeout time.Duration // then it gets SIGKILL; 0: none
	Concurrency int           // processes of this task at once in this worker; 0: no limit of its own

	exec  []argument
	pass  []string          // environment variables to hand on
	set   map[string]string // environment variables to set
	slots chan struct{}     // nil: no limit
}

// Load reads a tasks file. What is wrong with its content is a [*FileError].
func Load(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("tasks file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("tasks file: %w", err)
	}
	return Parse(path, data)
}

// Parse reads the content of a tasks file; path is its name for errors.
func Parse(path string, data []byte) (*File, error) {
	r := &reader{path: path}
	root, err := r.document(data)
	if err != nil {
		return nil, err
	}
	top, err := r.mapping(root, "the file", "tasks")
	if err != nil {
		return nil, err
	}
	if len(top) == 0 {
		return nil, r.fail(0, "it is empty: want tasks:")
	}
	tasks, err := r.mapping(top[0].value, "tasks")
	if err != nil {
		return nil, err
	}
	if len(tasks) == 0 {
		return nil, r.fail(top[0].line, "tasks: there are none")
	}
	file := &File{Path: path}
	for _, e := range tasks {
		t, err := r.task(e)
		if err != nil {
			return nil, err
		}
		file.Tasks = append(file.Tasks, t)
	}
	return file, nil
}

// task reads one task.
func (r *reader) task(e entry) (*Task, error) {
	if err := task.ValidateName(e.key); err != nil {
		return nil, r.fail(e.line, "%s", err)
	}
	what := "task " + e.key
	fields, err := r.mapping(e.value, what, "exec", "timeout", "retry", "concurrency", "queue", "priority",
		"env", "allow_option_values", "http", "rate")
	if err != nil {
		return nil, err
	}
	t := &Task{Name: e.key, Line: e.line}
	var command *entry
	open := false
	for i, f := range fields {
		name := what + ": " + f.key
		switch f.key {
		case "exec":
			command = &fields[i]
		case "timeout":
			err = r.timeout(t, f.value, name)
		case "retry":
			err = r.retry(t, f.value, name)
		case "concurrency":
			t.Concurrency, err = r.integer(f.value, name, 1, 10_000)
		case "queue":
			err = r.queue(t, f.value, name)
		case "priority":
			var p int
			p, err = r.integer(f.value, name, 0, task.MaxPriority)
			t.Priority = &p
		case "env":
			err = r.env(t, f.value, name)
		case "allow_option_values":
			open, err = r.boolean(f.value, name)
		case "http":
			err = r.fail(f.line, "%s: HTTP tasks are not available in this version; an exec task can call a program that does it", name)
		case "rate":
			err = r.fail(f.line, "%s: rate limits are not available in this version; concurrency is", name)
		}
		if err != nil {
			return nil, err
		}
	}
	if command == nil {
		return nil, r.fail(e.line, "%s: exec is missing", what)
	}
	if t.Concurrency > 0 {
		t.slots = make(chan struct{}, t.Concurrency)
	}
	t.exec, err = r.command(command.value, what+": exec", open)
	return t, err
}

// command reads the words of a command line.
func (r *reader) command(n ast.Node, what string, open bool) ([]argument, error) {
	words, err := r.list(n, what)
	if err != nil {
		return nil, err
	}
	if len(words) == 0 {
		return nil, r.fail(line(n), "%s: want a program and its arguments", what)
	}
	command := make([]argument, len(words))
	for i, w := range words {
		s, err := r.text(w, what)
		if err != nil {
			return nil, err
		}
		a, err := parseArgument(s)
		if err != nil {
			return nil, r.fail(line(w), "%s: %s", what, err)
		}
		text, fixed := a.fixed()
		if i == 0 && (!fixed || strings.TrimSpace(text) == "") {
			return nil, r.fail(line(w), "%s: the program is %q: want a name or a path without {{}}", what, s)
		}
		a.open = open
		open = open || i > 0 && fixed && text == "--"
		command[i] = a
	}
	return command, nil
}

func (r *reader) timeout(t *Task, n ast.Node, what string) error {
	fields, err := r.mapping(n, what, "soft", "hard")
	if err != nil {
		return err
	}
	for _, f := range fields {
		d, err := r.duration(f.value, what+": "+f.key)
		if err != nil {
			return err
		}
		if f.key == "soft" {
			t.SoftTimeout = d
		} else {
			t.HardTimeout = d
		}
	}
	if t.HardTimeout > 0 && t.SoftTimeout > t.HardTimeout {
		return r.fail(line(n), "%s: soft %s is longer than hard %s", what, t.SoftTimeout, t.HardTimeout)
	}
	return nil
}

func (r *reader) retry(t *Task, n ast.Node, what string) error {
	fields, err := r.mapping(n, what, "max", "base", "factor", "max_wait", "jitter")
	if err != nil {
		return err
	}
	for _, f := range fields {
		name := what + ": " + f.key
		var err error
		switch f.key {
		case "max":
			var most int
			most, err = r.integer(f.value, name, 0, math.MaxInt32)
			t.MaxRetries = &most
		case "base":
			t.Retry.Base, err = r.duration(f.value, name)
		case "factor":
			t.Retry.Factor, err = r.number(f.value, name, 1, 100)
		case "max_wait":
			t.Retry.Max, err = r.duration(f.value, name)
		case "jitter":
			t.Retry.Jitter, err = r.number(f.value, name, 0, 1)
			if t.Retry.Jitter == 0 {
				t.Retry.Jitter = -1 // none; zero stands for the default there
			}
		}
		if err != nil {
			return err
		}
	}
	if t.Retry.Max > 0 && t.Retry.Base > t.Retry.Max {
		return r.fail(line(n), "%s: base %s is longer than max_wait %s", what, t.Retry.Base, t.Retry.Max)
	}
	return nil
}

func (r *reader) queue(t *Task, n ast.Node, what string) error {
	queue, err := r.text(n, what)
	if err != nil {
		return err
	}
	if err := task.ValidateQueue(queue); err != nil {
		return r.fail(line(n), "%s: %s", what, err)
	}
	t.Queue = queue
	return nil
}

// env reads the names of variables to hand on, or a mapping of those to set.
func (r *reader) env(t *Task, n ast.Node, what string) error {
	if names, ok := n.(*ast.SequenceNode); ok {
		for _, v := range names.Values {
			name, err := r.text(v, what)
			if err == nil {
				err = r.variable(name, line(v), what)
			}
			if err != nil {
				return err
			}
			t.pass = append(t.pass, name)
		}
		return nil
	}
	fields, err := r.mapping(n, what)
	if err != nil {
		return r.fail(line(n), "%s: want a list of names to hand on, or a mapping of names to values", what)
	}
	t.set = make(map[string]string, len(fields))
	for _, f := range fields {
		if err := r.variable(f.key, f.line, what); err != nil {
			return err
		}
		if t.set[f.key], err = r.text(f.value, what+": "+f.key); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) variable(name string, at int, what string) error {
	if name == "" || strings.Trim(name, strings.ReplaceAll(fieldCharacters, "-", "")) != "" || name[0] >= '0' && name[0] <= '9' {
		return r.fail(at, "%s: %.60q: want a variable's name of A-Z a-z 0-9 _", what, name)
	}
	if strings.HasPrefix(strings.ToUpper(name), "STEM_") {
		return r.fail(at, "%s: %s: Stem's own variables, which may hold secrets, are not handed on", what, name)
	}
	return nil
}
