package redis_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/stemjobs/stem/backend/redis"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// A record's key that is of another type, or damaged, stops what needs it and says
// so, and nothing else of the batch.
func TestRecordsThatAreNotOurs(t *testing.T) {
	for name, spoil := range map[string]func(s string) []any{
		"of another type": func(key string) []any { return []any{"RPUSH", key, "x"} },
		"damaged":         func(key string) []any { return []any{"SET", key, "r12 {"} },
		"no record":       func(key string) []any { return []any{"SET", key, "r"} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := namespace()
			results := open(t, redis.Config{Namespace: ns}).Results()
			key := "{" + ns + ":0}:s:b"
			shared.Get(t).Do(spoil(key)...)
			ids := []string{"a", "b", "c"}
			var statuses []task.Status
			var starts []store.Update
			var ends []store.Record
			for _, id := range ids {
				e := envelope(id)
				statuses = append(statuses, task.NewStatus(e))
				starts = append(starts, store.Update{Key: store.Key{ID: id, Epoch: 1}, Start: true, Envelope: e})
				ends = append(ends, store.Record{
					Key: store.Key{ID: id, Epoch: 1}, Outcome: task.Outcome{State: task.Succeeded, Keep: task.Forever}, Envelope: e,
				})
			}
			check := func(what string, errs []error, err error) {
				t.Helper()
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				for i, id := range ids {
					bad := errs[i] != nil
					if bad != (id == "b") || bad && (!errors.Is(errs[i], broker.ErrUnavailable) || !strings.Contains(errs[i].Error(), key)) {
						t.Errorf("%s, of %s: %v", what, id, errs[i])
					}
				}
			}
			errs, err := results.Create(t.Context(), statuses)
			check("Create", errs, err)
			answers, err := results.Update(t.Context(), starts)
			for i := range answers {
				errs[i] = answers[i].Err
			}
			check("Update", errs, err)
			errs, err = results.Record(t.Context(), ends)
			check("Record", errs, err)
			found, err := results.Get(t.Context(), ids...)
			if err != nil || found[0].Status.State != task.Succeeded || found[1].Err == nil || found[2].Status.State != task.Succeeded {
				t.Errorf("Get: %+v, %v", found, err)
			}
			if list, err := results.List(t.Context(), store.Query{}); err != nil || len(list.Statuses) != 2 {
				t.Errorf("List: %+v, %v", list, err)
			}
		})
	}
}
