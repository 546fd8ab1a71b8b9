package tasksfile

import (
	"math"

	"github.com/goccy/go-yaml/ast"

	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

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

// rate reads a rate limit: "100/s", or a mapping that also has a burst.
func (r *reader) rate(t *Task, n ast.Node, what string) error {
	limit, where, burst := n, what, 0
	if _, text := n.(ast.ScalarNode); !text {
		fields, err := r.mapping(n, what, "limit", "burst", "fail_open")
		if err != nil {
			return err
		}
		limit = nil
		for _, f := range fields {
			switch name := what + ": " + f.key; f.key {
			case "limit":
				limit, where = f.value, name
			case "burst":
				burst, err = r.integer(f.value, name, 1, 1_000_000)
			case "fail_open":
				t.FailOpen, err = r.boolean(f.value, name)
			}
			if err != nil {
				return err
			}
		}
		if limit == nil {
			return r.fail(line(n), "%s: limit is missing", what)
		}
	}
	text, err := r.text(limit, where)
	if err != nil {
		return err
	}
	t.Rate, err = store.ParseRate(text)
	if t.Rate.Burst = burst; err == nil {
		err = t.Rate.Validate()
	}
	if err != nil {
		return r.fail(line(limit), "%s: %s", where, err)
	}
	return nil
}
