package redis_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/store"
)

// An entry whose key is of another type is passed over, and named: the others fire.
func TestEntryOfAnotherType(t *testing.T) {
	t.Parallel()
	var logged bytes.Buffer
	ns := namespace()
	db := open(t, redis.Config{Namespace: ns, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	tag := "{" + ns + ":0}:"
	at := time.Now().Add(-time.Minute)
	var changes []store.ScheduleChange
	for _, id := range []string{"x", "y"} {
		changes = append(changes, store.ScheduleChange{ID: id, Definition: []byte("{}"), NextDue: at, NextAt: at})
	}
	if _, err := db.Schedules().Apply(t.Context(), changes); err != nil {
		t.Fatal(err)
	}
	defer breakKey(t, tag+"entry:x")()
	d, err := db.Schedules().Due(t.Context(), 0, 0)
	if err != nil || len(d.Entries) != 1 || d.Entries[0].ID != "y" {
		t.Errorf("Due: %+v, %v", d, err)
	}
	if !strings.Contains(logged.String(), "the key "+tag+"entry:x is another program's") {
		t.Errorf("the log: %s", &logged)
	}
}
