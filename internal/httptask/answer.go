package httptask

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/stemjobs/stem/internal/foreign"
	"github.com/stemjobs/stem/internal/runner"
)

// MaxBody is how many bytes of a failure's body its error shows.
const MaxBody = 1 << 10

// StatusError says what an endpoint answered that was no success.
type StatusError struct {
	Call string // such as "POST https://host"
	Code int
	Body string // its beginning
}

func (e *StatusError) Error() string {
	s := e.Call + ": " + strconv.Itoa(e.Code)
	if text := http.StatusText(e.Code); text != "" {
		s += " " + text
	}
	if e.Body != "" {
		s += ": " + e.Body
	}
	return s
}

// judge turns an answer into what a handler returns.
func (x *exchange) judge(answer *http.Response) (json.RawMessage, error) {
	code := answer.StatusCode
	if code >= 200 && code <= 299 {
		return x.result(answer)
	}
	failure := &StatusError{Call: x.String(), Code: code}
	if code >= 200 { // else the body is the connection, for a protocol that nobody asked for
		failure.Body = x.excerpt(answer.Body)
	}
	if !again(code) {
		return nil, &runner.PermanentError{Err: failure}
	}
	if wait, ok := RetryAfter(answer.Header, time.Now()); ok {
		return nil, &runner.RetryError{Err: failure, In: spread(wait)}
	}
	return nil, failure
}

// again tells whether a status says that another attempt could help.
func again(code int) bool {
	switch code {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	}
	return code >= 500 && code <= 599
}

func (x *exchange) result(answer *http.Response) (json.RawMessage, error) {
	limit := x.t.e.MaxResult
	if answer.ContentLength > int64(limit) {
		return nil, x.tooLarge()
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, int64(limit)+1))
	switch {
	case len(body) > limit:
		return nil, x.tooLarge()
	case err != nil:
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	return foreign.Result(x.String()+": answer", body)
}

func (x *exchange) tooLarge() error {
	return foreign.TooLarge(x.String()+": answer", x.t.e.MaxResult)
}

// excerpt is the beginning of a failure's body, in which what the endpoint may
// have sent back of its secret headers is hidden. What cannot be read of it is
// left out: the status says enough.
func (x *exchange) excerpt(body io.Reader) string {
	longest := 0
	for _, s := range x.hide {
		longest = max(longest, len(s))
	}
	data, _ := io.ReadAll(io.LimitReader(body, int64(MaxBody+longest)))
	text := string(data)
	for _, s := range x.hide {
		text = strings.ReplaceAll(text, s, "***")
	}
	if len(data) == MaxBody+longest {
		text = text[:max(0, len(text)-longest)] // its end may be the beginning of a secret
	}
	text = text[:min(len(text), MaxBody)]
	return strings.TrimSpace(strings.ToValidUTF8(text, "\uFFFD"))
}
