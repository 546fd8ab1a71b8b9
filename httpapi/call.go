package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"os"
	"path"
	"reflect"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stemjobs/stem/task"
)

// call is one request on its way through the server. It is its own response
// writer, so that the mux carries it to the handler.
type call struct {
	http.ResponseWriter
	s      *Server
	r      *http.Request
	route  *route
	id     string
	token  *Token // nil: the server has none
	raw    []byte // the body
	body   any    // decoded: a pointer to the route's type
	query  map[string]string
	status int // of the answer; a handler may set it before it returns
	bytes  int
	sent   bool
}

// Unwrap is for http.ResponseController.
func (c *call) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func (c *call) ctx() context.Context { return c.r.Context() }

// tokenName is who calls, as far as the server tells callers apart.
func (c *call) tokenName() string {
	if c.token == nil {
		return ""
	}
	return c.token.Name
}

// bodyOf is the decoded body of a call whose route takes a T.
func bodyOf[T any](c *call) *T {
	b, ok := c.body.(*T)
	if !ok {
		panic(fmt.Sprintf("httpapi: %s %s does not take a %T", c.route.method, c.route.path, b))
	}
	return b
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &call{ResponseWriter: w, s: s, r: r, id: s.requestID(r)}
	began := time.Now()
	defer func() {
		if v := recover(); v != nil {
			s.opts.Logger.LogAttrs(c.ctx(), slog.LevelError, "the API panicked", slog.Any("panic", v),
				slog.String("request_id", c.id), slog.String("stack", string(debug.Stack())))
			c.fail(problem(internalError, "the server's log says more under this request's id"))
		}
		s.log(c, time.Since(began))
	}()
	h := w.Header()
	h["X-Request-Id"] = []string{c.id}
	h["Cache-Control"] = []string{"no-store"}
	h["X-Content-Type-Options"] = []string{"nosniff"}
	if p := s.admit(r); p != nil {
		c.fail(p)
		return
	}
	s.mux.ServeHTTP(c, r)
}

// admit refuses requests before anything of theirs is looked at.
func (s *Server) admit(r *http.Request) *Problem {
	if !s.hostAllowed(r.Host) {
		return problem(hostRefused, "the Host header names %.100q; the server's allowed hosts do not", r.Host)
	}
	if err := s.origin.Check(r); err != nil {
		return problem(crossOrigin, "%s", err)
	}
	if clean := path.Clean(r.URL.Path); clean != r.URL.Path {
		return problem(notFound, "no path of the API has a form like this")
	}
	return nil
}

// requestID is the caller's own id of a request, when it is a sane one.
func (s *Server) requestID(r *http.Request) string {
	if id := r.Header.Get("X-Request-Id"); id != "" && task.ValidateID(id) == nil {
		return id
	}
	return s.prefix[len(s.prefix)-12:] + "-" + strconv.FormatUint(s.count.Add(1), 10)
}

// serve runs one route's handler.
func (s *Server) serve(c *call, rt *route) {
	c.route = rt
	answer, err := s.handle(c)
	if rt.role == Operate && rt.method != http.MethodGet {
		s.keep(c, answer, err)
	}
	switch {
	case err != nil:
		c.fail(problemOf(err))
	case !c.sent:
		c.answer(answer)
	}
}

func (s *Server) handle(c *call) (any, error) {
	if p := s.authorize(c); p != nil {
		return nil, p
	}
	if p := c.readQuery(); p != nil {
		return nil, p
	}
	if c.route.body != nil {
		if p := c.readBody(); p != nil {
			return nil, p
		}
	}
	if c.route.stream && c.r.Method == http.MethodHead {
		p := problem(methodNotAllowed, "a stream has no head alone")
		p.allow = http.MethodGet
		return nil, p
	}
	if c.route.waits {
		if s.waiting.Add(1) > int64(s.opts.MaxWaiting) || s.draining.Load() {
			s.waiting.Add(-1)
			return nil, problem(busy, "try again in a moment, or at another server")
		}
		defer s.waiting.Add(-1)
	}
	return c.route.handle(s, c)
}

// authorize finds the caller's token, and whether it may use the route.
func (s *Server) authorize(c *call) *Problem {
	if len(s.opts.Tokens) == 0 {
		if reachableOpenly(c.r) {
			return problem(forbidden, "without tokens the API answers over loopback only")
		}
		return nil
	}
	scheme, secret, _ := strings.Cut(c.r.Header.Get("Authorization"), " ")
	if strings.EqualFold(scheme, "bearer") {
		c.token = find(s.opts.Tokens, strings.TrimSpace(secret))
	}
	switch {
	case c.token == nil:
		c.Header().Set("WWW-Authenticate", `Bearer realm="stem"`)
		return problem(unauthenticated, `want a header "Authorization: Bearer TOKEN" with a token of this server`)
	case !c.token.may(c.route.role):
		return problem(forbidden, "the token %q may not do this: it wants the role %s", c.token.Name, c.route.role)
	}
	return nil
}

// readQuery takes the parameters that the route knows, each at most once.
func (c *call) readQuery() *Problem {
	if c.r.URL.RawQuery == "" {
		return nil
	}
	values, err := parseQuery(c.r.URL.RawQuery)
	if err != nil {
		return problem(invalidArgument, "query: %s", err)
	}
	c.query = map[string]string{}
	for k, vs := range values {
		known := slices.ContainsFunc(c.route.params, func(p param) bool { return p.in == "query" && p.name == k })
		if !known || len(vs) > 1 {
			p := problem(unknownParameter, "%.80q is no parameter of this path, or is there twice", k)
			p.Parameter = k
			return p
		}
		c.query[k] = vs[0]
	}
	return nil
}

// readBody reads and decodes the body, within its bounds of size and time.
func (c *call) readBody() *Problem {
	mediatype, params, err := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	charset := params["charset"]
	if err != nil || mediatype != "application/json" || charset != "" && !strings.EqualFold(charset, "utf-8") {
		return problem(mediaType, `want "Content-Type: application/json"`)
	}
	limit := min(c.s.opts.MaxBody, task.DefaultMaxSize*5/4)
	if c.route.batch {
		limit = c.s.opts.MaxBody
	}
	if c.r.ContentLength > int64(limit) {
		return c.bodyTooLarge(limit)
	}
	rc := http.NewResponseController(c.ResponseWriter)
	_ = rc.SetReadDeadline(time.Now().Add(c.s.opts.ReadTimeout)) // a writer without one has no slow clients either
	if c.raw, err = readAll(c.r.Body, int(c.r.ContentLength), limit); err != nil {
		switch {
		case errors.Is(err, errTooLong):
			return c.bodyTooLarge(limit)
		case errors.Is(err, os.ErrDeadlineExceeded):
			c.Header().Set("Connection", "close")
			return problem(requestTimeout, "the body took longer than %s", c.s.opts.ReadTimeout)
		}
		c.Header().Set("Connection", "close")
		return problem(malformedJSON, "the body broke off")
	}
	_ = rc.SetReadDeadline(time.Time{})
	v := reflect.New(c.route.body)
	c.body = v.Interface()
	return c.route.shape.decode(c.raw, c.body)
}

func (c *call) bodyTooLarge(limit int) *Problem {
	c.Header().Set("Connection", "close")
	return problem(tooLarge, "the body may have %d bytes here; pass a reference to larger payloads", limit)
}

var errTooLong = errors.New("longer than allowed")

// readAll reads a body of a known (or, -1, unknown) length.
func readAll(r io.Reader, length, limit int) ([]byte, error) {
	buf := make([]byte, 0, min(max(length, 0), limit)+1)
	for {
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		switch {
		case len(buf) > limit:
			return nil, errTooLong
		case errors.Is(err, io.EOF):
			return buf, nil
		case err != nil:
			return nil, fmt.Errorf("read the body: %w", err)
		case len(buf) == cap(buf):
			buf = slices.Grow(buf, max(512, len(buf)))
		}
	}
}

// answer writes what the handler returned. It ends with a new line, for who
// reads it on a terminal.
func (c *call) answer(v any) {
	if c.status == 0 {
		c.status = c.route.status
	}
	raw, ok := v.(json.RawMessage)
	if !ok {
		var buf bytes.Buffer
		enc := json.NewEncoder(&buf)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(v); err != nil {
			c.status = 0
			p := problem(internalError, "the server's log says more under this request's id")
			p.cause = err
			c.fail(p)
			return
		}
		raw = buf.Bytes()
	}
	c.write("application/json", raw)
}

// fail writes a problem, unless something was written already.
func (c *call) fail(p *Problem) {
	if c.sent {
		return
	}
	reply := *p
	reply.RequestID = c.id
	c.status = p.Status
	if p.cause != nil && !errors.Is(p.cause, context.Canceled) {
		c.s.opts.Logger.LogAttrs(c.ctx(), slog.LevelWarn, "a request failed",
			slog.String("request_id", c.id), slog.Any("error", p.cause))
	}
	if p.retryAfter != "" {
		c.Header().Set("Retry-After", p.retryAfter)
	}
	if p.allow != "" {
		c.Header().Set("Allow", p.allow)
	}
	raw, err := json.Marshal(&reply)
	if err != nil {
		raw = []byte("{}") // a problem always encodes
	}
	c.write("application/problem+json", append(raw, '\n'))
}

func (c *call) write(contentType string, raw []byte) {
	c.sent = true
	h := c.Header()
	h["Content-Type"] = []string{contentType}
	h["Content-Length"] = []string{strconv.Itoa(len(raw))}
	if c.s.draining.Load() {
		h["Connection"] = []string{"close"}
	}
	c.deadline()
	c.WriteHeader(c.status)
	n, _ := c.Write(raw) // an error means that the client has gone
	c.bytes += n
}

// deadline gives the next write its time.
func (c *call) deadline() {
	rc := http.NewResponseController(c.ResponseWriter)
	_ = rc.SetWriteDeadline(time.Now().Add(c.s.opts.WriteTimeout)) // as in readBody
}

// log writes the access log's line: never the query or a body, in which
// arguments may be.
func (s *Server) log(c *call, took time.Duration) {
	if !s.opts.Logger.Enabled(c.ctx(), slog.LevelInfo) {
		return
	}
	s.opts.Logger.LogAttrs(c.ctx(), slog.LevelInfo, "request",
		slog.String("method", c.r.Method), slog.String("path", c.r.URL.Path), slog.Int("status", c.status),
		slog.Int("bytes", c.bytes), slog.Float64("took_ms", float64(took.Microseconds())/1000), slog.String("token", c.tokenName()),
		slog.String("remote", c.r.RemoteAddr), slog.String("request_id", c.id))
}
