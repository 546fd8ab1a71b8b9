package tasksfile

import (
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/stemjobs/stem/internal/exectask"
)

const nameCharacters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_"

// command reads the words of a command line.
func (r *reader) command(c *exectask.Command, n ast.Node, what string) error {
	words, err := r.list(n, what)
	if err != nil {
		return err
	}
	if len(words) == 0 {
		return r.fail(line(n), "%s: want a program and its arguments", what)
	}
	for _, w := range words {
		s, err := r.text(w, what)
		if err != nil {
			return err
		}
		if err := c.Add(s); err != nil {
			return r.fail(line(w), "%s: %s", what, err)
		}
	}
	return nil
}

// env reads the names of variables to hand on, or a mapping of those to set.
func (r *reader) env(c *exectask.Command, n ast.Node, what string) error {
	if names, ok := n.(*ast.SequenceNode); ok {
		for _, v := range names.Values {
			name, err := r.text(v, what)
			if err == nil {
				err = r.variable(name, line(v), what)
			}
			if err != nil {
				return err
			}
			c.Pass = append(c.Pass, name)
		}
		return nil
	}
	fields, err := r.mapping(n, what)
	if err != nil {
		return r.fail(line(n), "%s: want a list of names to hand on, or a mapping of names to values", what)
	}
	c.Set = make(map[string]string, len(fields))
	for _, f := range fields {
		if err := r.variable(f.key, f.line, what); err != nil {
			return err
		}
		if c.Set[f.key], err = r.text(f.value, what+": "+f.key); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) variable(name string, at int, what string) error {
	if name == "" || strings.Trim(name, nameCharacters) != "" || name[0] >= '0' && name[0] <= '9' {
		return r.fail(at, "%s: %.60q: want a variable's name of A-Z a-z 0-9 _", what, name)
	}
	if strings.HasPrefix(strings.ToUpper(name), "STEM_") {
		return r.fail(at, "%s: %s: Stem's own variables, which may hold secrets, are not handed on", what, name)
	}
	return nil
}
