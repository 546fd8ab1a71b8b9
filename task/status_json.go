package task

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"
)

// Records are written as JSON under the names of their tags, with each moment
// as the wire has it, in UTC with three digits of milliseconds, whatever clock
// and zone it came from; text that is not UTF-8 gets U+FFFD for its bad bytes.
//
// Who embeds one of these types in a struct of its own gets these methods with
// it, and loses its own fields: name the field.

// MarshalJSON implements json.Marshaler.
func (s Status) MarshalJSON() ([]byte, error) {
	w := writer{buf: append(make([]byte, 0, 512+len(s.Args)+len(s.Result)), '{')}
	w.lossy("id", s.ID)
	w.lossy("name", s.Name)
	w.lossy("state", string(s.State))
	w.lossy("queue", s.Queue)
	w.int("priority", int64(s.Priority))
	w.int("attempt", int64(s.Attempt))
	w.int("maxRetries", int64(s.MaxRetries))
	w.int("epoch", s.Epoch)
	w.int("starts", int64(s.Starts))
	w.some("worker", s.Worker)
	w.time("enqueuedAt", s.EnqueuedAt)
	w.someTime("notBefore", s.NotBefore)
	w.someTime("startedAt", s.StartedAt)
	w.someTime("finishedAt", s.FinishedAt)
	w.someTime("expiresAt", s.ExpiresAt)
	if len(s.Args) > 0 {
		w.raw("args", s.Args)
	}
	if len(s.Result) > 0 {
		w.raw("result", s.Result)
	}
	w.some("reason", s.Reason)
	if s.Error != nil {
		w.key("error")
		w.error(s.Error)
	}
	if len(s.Errors) > 0 {
		w.key("errors")
		for i := range s.Errors {
			w.buf = append(w.buf, "[,"[min(i, 1)])
			w.error(&s.Errors[i])
		}
		w.buf = append(w.buf, ']')
	}
	if s.Progress != nil {
		w.key("progress")
		w.progress(s.Progress)
	}
	if len(s.Meta) > 0 {
		w.meta(s.Meta)
	}
	if s.ReplayCount != 0 {
		w.int("replayCount", int64(s.ReplayCount))
	}
	w.someTime("lastReplayAt", s.LastReplayAt)
	return append(w.buf, '}'), w.err
}

// MarshalJSON implements json.Marshaler.
func (e Error) MarshalJSON() ([]byte, error) {
	var w writer
	w.error(&e)
	return w.buf, w.err
}

// MarshalJSON implements json.Marshaler.
func (p Progress) MarshalJSON() ([]byte, error) {
	var w writer
	w.progress(&p)
	return w.buf, w.err
}

func (w *writer) error(e *Error) {
	w.buf = append(w.buf, '{')
	w.lossy("type", e.Type)
	w.lossy("message", e.Message)
	w.some("stack", e.Stack)
	w.bool("retryable", e.Retryable)
	w.int("attempt", int64(e.Attempt))
	w.time("at", e.At)
	w.some("worker", e.Worker)
	w.buf = append(w.buf, '}')
}

func (w *writer) progress(p *Progress) {
	w.buf = append(w.buf, '{')
	w.float("percent", p.Percent)
	if len(p.Data) > 0 {
		w.raw("data", p.Data)
	}
	w.time("at", p.At)
	w.buf = append(w.buf, '}')
}

func (w *writer) lossy(name, s string) { w.text(name, strings.ToValidUTF8(s, "\uFFFD")) }

func (w *writer) some(name, s string) {
	if s != "" {
		w.lossy(name, s)
	}
}

func (w *writer) someTime(name string, t time.Time) {
	if !t.IsZero() {
		w.time(name, t)
	}
}

func (w *writer) bool(name string, b bool) {
	w.key(name)
	w.buf = strconv.AppendBool(w.buf, b)
}

func (w *writer) float(name string, f float64) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		w.fail("%s %v: it is no number", name, f)
		return
	}
	w.key(name)
	w.buf = strconv.AppendFloat(w.buf, f, 'f', -1, 64)
}

var (
	_ json.Marshaler = Status{}
	_ json.Marshaler = Error{}
	_ json.Marshaler = Progress{}
)
