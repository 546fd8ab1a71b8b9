package httptask

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/stemjobs/stem/internal/foreign"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/measure"
)

// Check tells whether the secrets and header values are there, which are read
// again for each call.
func (t *Task) Check() error {
	_, err := t.open(foreign.Call{})
	return err
}

// Run makes one call. The errors of an answer are a [*StatusError], by itself,
// in a runner.PermanentError or in a runner.RetryError.
func (t *Task) Run(ctx context.Context, c foreign.Call) (json.RawMessage, error) {
	x, err := t.open(c)
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, t.e.Timeout)
	defer cancel()
	answer, err := x.follow(limited)
	if err != nil {
		return nil, x.explain(ctx, limited, err)
	}
	defer answer.Body.Close()
	result, err := x.judge(answer)
	if err != nil {
		return nil, x.explain(ctx, limited, err)
	}
	return result, nil
}

// exchange is one call on its way.
type exchange struct {
	t       *Task
	c       foreign.Call
	secrets []string
	header  http.Header // for the endpoint alone
	hide    []string    // what errors must not show

	// Of the present request.
	url     *url.URL
	method  string
	body    []byte
	trusted bool // no redirect has led to another host
}

// open reads what a call needs.
func (t *Task) open(c foreign.Call) (*exchange, error) {
	x := &exchange{t: t, c: c, header: http.Header{}, url: t.e.URL, method: t.e.Method, body: c.Args, trusted: true}
	for _, v := range t.e.Secrets {
		s, err := v.read()
		if err != nil {
			return nil, fmt.Errorf("signing secret: %w", err)
		}
		x.secrets = append(x.secrets, s)
	}
	for _, h := range t.e.Headers {
		s, err := h.Value.read()
		if err == nil {
			err = checkValue(h.Name, s)
		}
		if err != nil {
			return nil, fmt.Errorf("header %s: %w", h.Name, err)
		}
		x.header.Add(h.Name, s)
		if h.Value != Text(s) {
			x.hide = append(x.hide, s)
		}
	}
	return x, nil
}

// request is the present one.
func (x *exchange) request(ctx context.Context) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, x.method, x.url.String(), bytes.NewReader(x.body))
	if err != nil {
		return nil, errors.New("the request cannot be made") // the reason may have the URL
	}
	r.Header.Set("User-Agent", "stem")
	if x.body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if x.trusted {
		if x.c.Trace.Valid() {
			r.Header.Set(measure.HeaderTraceParent, x.c.Trace.Parent)
			if state := x.c.Trace.State; state != "" && checkValue(measure.HeaderTraceState, state) == nil {
				r.Header.Set(measure.HeaderTraceState, x.c.Trace.State)
			}
		}
		for name, values := range x.header {
			r.Header[name] = values
		}
		if len(x.secrets) > 0 {
			r.Header.Set(headerSignature, signature(time.Now(), x.body, x.secrets))
		}
	}
	r.Header.Set(headerKey, x.c.ID)
	r.Header.Set(prefixOwn+"Task-Id", x.c.ID)
	r.Header.Set(prefixOwn+"Task-Name", x.c.Name)
	r.Header.Set(prefixOwn+"Attempt", strconv.Itoa(x.c.Attempt))
	return r, nil
}

// follow sends the request, and those to which it is redirected. It uses the
// transport itself: an http.Client would put URLs into its errors, and has
// rules of its own for what to send where.
func (x *exchange) follow(ctx context.Context) (*http.Response, error) {
	for hops := 0; ; hops++ {
		r, err := x.request(ctx)
		if err != nil {
			return nil, err
		}
		answer, err := x.t.transport.RoundTrip(r)
		if err != nil || !redirects(answer) {
			return answer, err
		}
		_ = answer.Body.Close() // nobody reads it
		if hops == MaxRedirects {
			return nil, x.permanently(fmt.Errorf("more than %d redirects", MaxRedirects))
		}
		if err := x.redirect(answer); err != nil {
			return nil, x.permanently(err)
		}
	}
}

func redirects(answer *http.Response) bool {
	switch answer.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return answer.Header.Get("Location") != ""
	}
	return false
}

// redirect turns the request to where an answer points.
func (x *exchange) redirect(answer *http.Response) error {
	location := answer.Header.Get("Location")
	next, err := x.url.Parse(location)
	if err != nil || len(location) > maxURL {
		return errors.New("redirected to what is no URL")
	}
	if err := checkURL(next); err != nil {
		return fmt.Errorf("redirected to a URL that cannot be used: %w", err)
	}
	if x.url.Scheme == "https" && next.Scheme == "http" {
		return errors.New("redirected from https to http")
	}
	// What has been led away is not trusted again: who led it could have made
	// it come back with a request of its own choice.
	x.trusted = x.trusted && origin(next) == origin(x.url)
	if code := answer.StatusCode; code != http.StatusTemporaryRedirect && code != http.StatusPermanentRedirect {
		x.method, x.body = http.MethodGet, nil
	}
	next.Fragment, next.RawFragment = "", ""
	x.url = next
	return nil
}

// origin is a URL's scheme, host and port.
func origin(u *url.URL) string {
	port := u.Port()
	switch {
	case port != "":
	case u.Scheme == "https":
		port = "443"
	default:
		port = "80"
	}
	return u.Scheme + "://" + strings.ToLower(u.Hostname()) + ":" + port
}

// explain makes an error of what ended a call without a verdict. Who ended it,
// the task's context or the call's own limit, is what counts then.
func (x *exchange) explain(ctx, limited context.Context, err error) error {
	var permanent *runner.PermanentError
	var retry *runner.RetryError
	var result *runner.ResultError
	var status *StatusError
	var refused *RefusedError
	switch {
	case errors.As(err, &permanent), errors.As(err, &retry), errors.As(err, &result), errors.As(err, &status):
		return err
	case errors.As(err, &refused):
		return x.permanently(refused)
	case ctx.Err() != nil:
		return &stoppedError{cause: context.Cause(ctx), call: x.String()}
	case limited.Err() != nil:
		return fmt.Errorf("%s: no whole answer within %s", x, x.t.e.Timeout)
	}
	return fmt.Errorf("%s: %w", x, err)
}

func (x *exchange) permanently(err error) error {
	return &runner.PermanentError{Err: fmt.Errorf("%s: %w", x, err)}
}

// String is what may be known of the present request.
func (x *exchange) String() string { return x.method + " " + x.url.Scheme + "://" + x.url.Host }

// stoppedError is the failure of a call that was told to stop. It wraps the
// cause, by which the runner judges and which it names itself.
type stoppedError struct {
	cause error
	call  string
}

func (e *stoppedError) Error() string { return e.call + ": stopped before the answer was there" }
func (e *stoppedError) Unwrap() error { return e.cause }
