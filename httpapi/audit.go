package httpapi

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"strings"
	"time"

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
	var refused *Problem
	if keeper == nil || errors.As(err, &refused) || tried(c.body) {
		return
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
		on += " " + string(c.raw)
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

// tried reports whether a body asks only what would happen.
func tried(body any) bool {
	v := reflect.ValueOf(body)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return false
	}
	dry := v.Elem().FieldByName("DryRun")
	return dry.IsValid() && dry.Kind() == reflect.Bool && dry.Bool()
}
