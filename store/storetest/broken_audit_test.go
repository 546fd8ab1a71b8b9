package storetest

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/internal/conform"
	"github.com/stemjobs/stem/store"
)

// bentAudit is a correct audit but for what a fake replaces.
type bentAudit struct {
	store.Audit
	note func(u store.Audit, ctx context.Context, a store.Action, keep time.Duration) error
	list func(u store.Audit, ctx context.Context, q store.AuditQuery) ([]store.Action, string, error)
}

func (b bentAudit) Note(ctx context.Context, a store.Action, keep time.Duration) error {
	if b.note == nil {
		return b.Audit.Note(ctx, a, keep)
	}
	return b.note(b.Audit, ctx, a, keep)
}

func (b bentAudit) List(ctx context.Context, q store.AuditQuery) ([]store.Action, string, error) {
	if b.list == nil {
		return b.Audit.List(ctx, q)
	}
	return b.list(b.Audit, ctx, q)
}

// TestBrokenAudits: every broken fake is caught by the rule that it breaks.
func TestBrokenAudits(t *testing.T) {
	for _, x := range []struct {
		name, rule, also string
		bent             bentAudit
	}{
		{"forget why", "U1", "", bentAudit{note: func(u store.Audit, ctx context.Context, a store.Action, keep time.Duration) error {
			if len(a.Reason) < 5000 {
				a.Reason = ""
			}
			return u.Note(ctx, a, keep)
		}}},
		{"note twice", "U1", "U2 U3 U4", bentAudit{note: func(u store.Audit, ctx context.Context, a store.Action, keep time.Duration) error {
			first := u.Note(ctx, a, keep)
			a.ID += "x"
			_ = u.Note(ctx, a, keep)
			return first
		}}},
		{"begin with the oldest", "U2", "U3", bentAudit{list: func(u store.Audit, ctx context.Context, q store.AuditQuery) ([]store.Action, string, error) {
			page, cursor, err := u.List(ctx, q)
			slices.Reverse(page)
			return page, cursor, err
		}}},
		{"filter nothing", "U2", "", bentAudit{list: func(u store.Audit, ctx context.Context, q store.AuditQuery) ([]store.Action, string, error) {
			return u.List(ctx, store.AuditQuery{Limit: q.Limit, Cursor: q.Cursor})
		}}},
		{"forget too soon", "U3", "", bentAudit{note: func(u store.Audit, ctx context.Context, a store.Action, keep time.Duration) error {
			return u.Note(ctx, a, keep/3)
		}}},
		{"never forget", "U3", "", bentAudit{note: func(u store.Audit, ctx context.Context, a store.Action, keep time.Duration) error {
			return u.Note(ctx, a, 1000*keep)
		}}},
		{"take any cursor", "U4", "", bentAudit{list: func(u store.Audit, ctx context.Context, q store.AuditQuery) ([]store.Action, string, error) {
			if _, err := store.ParseCursor(q.Cursor); err != nil {
				q.Cursor = ""
			}
			return u.List(ctx, q)
		}}},
	} {
		t.Run(strings.ReplaceAll(x.name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			failed := conform.Failures(t, auditRules(func(testing.TB) Auditing {
				db, b := memory.New(), x.bent
				b.Audit = db.Audit()
				return Auditing{Audit: b, Close: db.Close}
			}))
			if complaint := conform.Unexpected(failed, x.rule, strings.Fields(x.also)...); complaint != "" {
				t.Errorf("an audit that is said to %s:\n%s", x.name, complaint)
			}
		})
	}
}
