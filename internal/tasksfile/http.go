package tasksfile

import (
	"slices"

	"github.com/goccy/go-yaml/ast"

	"github.com/stemjobs/stem/internal/foreign"
	"github.com/stemjobs/stem/internal/httptask"
)

// endpoint reads what an HTTP task calls.
func (r *reader) endpoint(n ast.Node, what string) (foreign.Work, error) {
	fields, err := r.mapping(n, what, "url", "method", "headers", "timeout", "signing", "allow_private", "max_result")
	if err != nil {
		return nil, err
	}
	var e httptask.Endpoint
	at := line(n)
	for _, f := range fields {
		name := what + ": " + f.key
		switch f.key {
		case "url":
			at = f.line
			e.URL, err = parsed(r, f.value, name, httptask.ParseURL)
		case "method":
			e.Method, err = parsed(r, f.value, name, httptask.ParseMethod)
		case "headers":
			e.Headers, err = r.headers(f.value, name)
		case "timeout":
			e.Timeout, err = r.duration(f.value, name)
		case "signing":
			e.Secrets, err = r.signing(f.value, name)
		case "allow_private":
			e.Guard, err = r.guard(f.value, name)
		case "max_result":
			e.MaxResult, err = r.integer(f.value, name, 1, foreign.MaxResult)
		}
		if err != nil {
			return nil, err
		}
	}
	if e.URL == nil {
		return nil, r.fail(at, "%s: url is missing", what)
	}
	work, err := httptask.New(r.pool, e)
	if err != nil {
		return nil, r.fail(at, "%s: url: %s", what, err)
	}
	return work, nil
}

// parsed reads a text of which parse makes something.
func parsed[T any](r *reader, n ast.Node, what string, parse func(string) (T, error)) (T, error) {
	var zero T
	s, err := r.text(n, what)
	if err != nil {
		return zero, err
	}
	v, err := parse(s)
	if err != nil {
		return zero, r.fail(line(n), "%s: %s", what, err)
	}
	return v, nil
}

// headers reads a mapping of headers to values.
func (r *reader) headers(n ast.Node, what string) ([]httptask.Header, error) {
	fields, err := r.mapping(n, what)
	if err != nil {
		return nil, err
	}
	headers := make([]httptask.Header, 0, len(fields))
	for _, f := range fields {
		h, err := parsed(r, f.value, what, func(value string) (httptask.Header, error) {
			return httptask.ParseHeader(f.key, value)
		})
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(headers, func(other httptask.Header) bool { return other.Name == h.Name }) {
			return nil, r.fail(f.line, "%s: %s is there twice", what, h.Name)
		}
		headers = append(headers, h)
	}
	return headers, nil
}

// signing reads where the secrets are: one, or a list of those that are valid
// at once.
func (r *reader) signing(n ast.Node, what string) ([]httptask.Value, error) {
	fields, err := r.mapping(n, what, "secret")
	if err != nil {
		return nil, err
	}
	if len(fields) == 0 {
		return nil, r.fail(line(n), "%s: secret is missing", what)
	}
	what += ": secret"
	places := []ast.Node{fields[0].value}
	if list, ok := fields[0].value.(*ast.SequenceNode); ok {
		places = list.Values
	}
	if len(places) == 0 {
		return nil, r.fail(fields[0].line, "%s: there is none", what)
	}
	secrets := make([]httptask.Value, len(places))
	for i, place := range places {
		if secrets[i], err = parsed(r, place, what, httptask.ParseSecret); err != nil {
			return nil, err
		}
	}
	return secrets, nil
}

// guard reads which addresses are allowed beyond the public ones: true for
// what is private, or a list of ranges.
func (r *reader) guard(n ast.Node, what string) (httptask.Guard, error) {
	var g httptask.Guard
	list, ok := n.(*ast.SequenceNode)
	if !ok {
		private, err := r.boolean(n, what)
		if err != nil {
			return g, r.fail(line(n), "%s: want true, or a list of ranges like 10.1.0.0/16", what)
		}
		g.Private = private
		return g, nil
	}
	for _, v := range list.Values {
		p, err := parsed(r, v, what, httptask.ParseRange)
		if err != nil {
			return g, err
		}
		g.Allowed = append(g.Allowed, p)
	}
	return g, nil
}
