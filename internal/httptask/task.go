package httptask

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/stemjobs/stem/internal/foreign"
	"github.com/stemjobs/stem/internal/runner"
)

const (
	// DefaultTimeout bounds one call of a task that says nothing.
	DefaultTimeout = 30 * time.Second
	// MaxRedirects is how many redirects are followed.
	MaxRedirects = 5

	maxURL = 4 << 10
)

// The headers that a call has of its own.
const (
	headerSignature = "Stem-Signature"
	headerKey       = "Idempotency-Key"
	prefixOwn       = "Stem-"
)

// Endpoint is where a task's arguments are sent, and how.
type Endpoint struct {
	URL       *url.URL // as ParseURL returns it
	Method    string   // POST, PUT or PATCH; "": POST
	Headers   []Header
	Timeout   time.Duration // of one call with its redirects and its answer; 0: DefaultTimeout
	Secrets   []Value       // each signs, so that a receiver can be moved from one to the next
	Guard     Guard
	MaxResult int // bytes; 0: foreign.MaxResult
}

// Header is one that is sent to the endpoint, and to no other host.
type Header struct {
	Name  string
	Value Value
}

// Task sends calls to an endpoint. It is safe for concurrent use.
type Task struct {
	e         Endpoint
	transport *http.Transport
}

// New makes the task of an endpoint, with connections of that pool.
func New(p *Pool, e Endpoint) (*Task, error) {
	if e.Method == "" {
		e.Method = http.MethodPost
	}
	if e.Timeout == 0 {
		e.Timeout = DefaultTimeout
	}
	if e.MaxResult == 0 {
		e.MaxResult = foreign.MaxResult
	}
	if err := checkURL(e.URL); err != nil {
		return nil, err
	}
	if addr, err := netip.ParseAddr(e.URL.Hostname()); err == nil {
		if err := e.Guard.Check(addr); err != nil {
			return nil, err
		}
	}
	return &Task{e: e, transport: p.transport(e.Guard)}, nil
}

// ParseURL reads an endpoint's URL. Its errors do not show it.
func ParseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || len(s) > maxURL {
		return nil, errors.New("it is no URL: want one like https://host/path")
	}
	u.Fragment, u.RawFragment = "", "" // is never sent
	return u, checkURL(u)
}

func checkURL(u *url.URL) error {
	switch {
	case u == nil || u.Scheme != "http" && u.Scheme != "https" || u.Opaque != "":
		return errors.New("want an http:// or https:// URL")
	case u.User != nil:
		return errors.New("its user name and password would be seen: send a header instead, with its value in a file")
	case u.Hostname() == "":
		return errors.New("it names no host")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return errors.New("its port is none: want a number from 1 to 65535")
		}
	}
	return nil
}

// ParseMethod reads a method that has a body.
func ParseMethod(s string) (string, error) {
	switch m := strings.ToUpper(s); m {
	case http.MethodPost, http.MethodPut, http.MethodPatch:
		return m, nil
	}
	return "", fmt.Errorf("%.20q: want POST, PUT or PATCH, which have a body for the arguments", s)
}

// ParseHeader reads a header of an endpoint. A value of "@" and a path stands
// for what is in that file.
func ParseHeader(name, value string) (Header, error) {
	if name == "" || strings.ContainsFunc(name, notInName) {
		return Header{}, fmt.Errorf("%.60q: want a header's name of letters, digits and dashes", name)
	}
	name = http.CanonicalHeaderKey(name)
	switch {
	case name == headerKey || strings.HasPrefix(name, prefixOwn):
		return Header{}, fmt.Errorf("%s: Stem sets it", name)
	case ofConnection(name):
		return Header{}, fmt.Errorf("%s: it belongs to the connection", name)
	}
	if path, ok := strings.CutPrefix(value, "@"); ok && path != "" {
		return Header{name, InFile(path)}, nil
	}
	return Header{name, Text(value)}, checkValue(name, value)
}

func notInName(r rune) bool {
	return r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
}

// ofConnection tells headers by which a client and a server, or what lies
// between them, agree on how to talk.
func ofConnection(name string) bool {
	switch name {
	case "Accept-Encoding", "Connection", "Content-Length", "Expect", "Host", "Keep-Alive", "Te", "Trailer",
		"Transfer-Encoding", "Upgrade":
		return true
	}
	return strings.HasPrefix(name, "Proxy-")
}

func checkValue(name, value string) error {
	if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
		return fmt.Errorf("%s: its value has control characters", name)
	}
	return nil
}

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
