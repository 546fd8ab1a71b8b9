package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/stemjobs/stem/beat"
	"github.com/stemjobs/stem/store"
)

// auditTime bounds the record that follows a change.
const auditTime = 5 * time.Second

// keep records in the store's audit what an operator's call has changed: all
// that came through, and what failed on the way; not what was refused, nor what
// only tried. The change is done by then, so a record that cannot be kept is
// logged.
func (s *Server) keep(c *call, answer any, err error) {
	keeper := s.client.Audit()
	if keeper == nil || tried(c.body) {
		return
	}
	if err != nil {
		var own *Problem
		if errors.As(err, &own) || problemOf(err).Status < http.StatusInternalServerError {
			return // refused
		}
	}
	who := c.tokenName()
	if who == "" {
		who = "loopback, without a token"
	}
	count := 0
	if err == nil {
		count = 1
	}
	switch done := answer.(type) {
	case Changed:
		count = done.Count
	case beat.PlanView:
		if count = len(done.Created) + len(done.Changed) + len(done.Deleted); count == 0 {
			return
		}
	case ScheduleBackfilled:
		var changed bool
		if count, changed = done.count(); !changed {
			return
		}
	case Asked:
		count = done.done()
	case QueuePaused:
		if !done.Changed {
			return
		}
	case RateChanged:
		if !done.Changed {
			return
		}
	case Revoked:
		if done.State == "too-late" {
			return // it is as it was
		}
	}
	on := c.r.URL.Path
	if c.r.URL.RawQuery != "" {
		on += "?" + c.r.URL.RawQuery
	}
	if len(c.raw) > 0 {
		on += " " + withoutPayload(c.raw)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx()), auditTime)
	defer cancel()
	a, failed := store.NewAction(who, "api", c.route.method+" "+c.route.path, on)
	if failed == nil {
		failed = keeper.Note(ctx, a.Ended(count, "request "+c.id, err), store.AuditKeep)
	}
	if failed != nil {
		s.opts.Logger.LogAttrs(ctx, slog.LevelError, "a change is not in the audit", slog.Any("error", failed),
			slog.String("route", strings.TrimSpace(a.What)), slog.String("request_id", c.id))
	}
}

// withoutPayload is a body as the audit keeps it: without what a task is given to
// work on, which may be secret, is no matter of who changed what, and goes from the
// store sooner than the record.
func withoutPayload(raw []byte) string {
	var body map[string]any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if d.Decode(&body) != nil || !hide(body) {
		return string(raw)
	}
	var text strings.Builder
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	if err := e.Encode(body); err != nil {
		return "{…}"
	}
	return strings.TrimSuffix(text.String(), "\n")
}

// hide puts a dot, dot, dot in the place of payloads, and reports whether there were any.
func hide(v any) (found bool) {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			switch key {
			case "args", "headers":
				v[key], found = "…", true
			case "filter": // which tasks
			default:
				found = hide(value) || found
			}
		}
	case []any:
		for _, value := range v {
			found = hide(value) || found
		}
	}
	return found
}

func auditRoutes() []route {
	return []route{{
		method: "GET", path: "/v1/audit", role: Operate, summary: "List who changed what", answer: reflect.TypeFor[AuditList](),
		params: append([]param{
			query("who", "A user@host or a token's name, or a pattern with *."), query("via", "cli or api."),
			query("what", "A command or a route, or a pattern with *, such as dlq *."), query("on", "A part of what it was done to."),
			query("since", "Since: RFC 3339, or a duration ago such as 2h."), query("until", "Before: RFC 3339, or a duration ago such as 2h."),
		}, paging()...),
		problems: []string{unsupported, unavailable}, handle: (*Server).listAudit,
	}}
}

func (s *Server) listAudit(c *call) (any, error) {
	q := store.AuditQuery{Who: c.query["who"], Via: c.query["via"], What: c.query["what"], On: c.query["on"]}
	if q.Via != "" && q.Via != "cli" && q.Via != "api" {
		return nil, wrong("via", "want cli or api")
	}
	now, p := time.Now(), (*Problem)(nil)
	if q.Since, p = c.moment("since", now); p != nil {
		return nil, p
	}
	if q.Until, p = c.moment("until", now); p != nil {
		return nil, p
	}
	if q.Limit, q.Cursor, p = c.page(); p != nil {
		return nil, p
	}
	keeper := s.client.Audit()
	if keeper == nil {
		return nil, problem(unsupported, "this server's store keeps no audit")
	}
	actions, next, err := keeper.List(c.ctx(), q)
	if err != nil {
		return nil, err
	}
	return AuditList{Actions: list(actions), Cursor: next}, nil
}

// tried reports whether a body asks only what would happen.
func tried(body any) bool {
	v := reflect.ValueOf(body)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return false
	}
	dry := v.Elem().FieldByName("DryRun")
	return dry.IsValid() && dry.Kind() == reflect.Bool && dry.Bool()
}
