package storetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/conform"
	"github.com/stemjobs/stem/store"
)

// Bent schedules without a bend pass: what the table shows is the bend.
func TestUnbentSchedules(t *testing.T) {
	RunSchedules(t, ScheduleOptions{Open: openBentPlan(planBend{}), Virtual: true})
}

// brokenPlan breaks one rule of schedules or locks.
type brokenPlan struct {
	name string
	rule string // that must notice
	also string // rules that may notice too, besides the random test
	bend planBend
}

// Every broken fake is caught by the rule that it breaks, and by no rule that
// has nothing to do with it.
func TestBrokenSchedules(t *testing.T) {
	for _, x := range slices.Concat(brokenLocks(), brokenApplying(), brokenDue(), brokenFiring(), brokenPending(), brokenRest()) {
		t.Run(strings.ReplaceAll(x.name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			failed := conform.Failures(t, ScheduleOptions{Open: openBentPlan(x.bend), Virtual: true, Seed: 1}.rules())
			for name, said := range failed {
				if conform.Number(name) == x.rule {
					t.Logf("%s: %.300s", name, said)
				}
			}
			if complaint := conform.Unexpected(failed, x.rule, append(strings.Fields(x.also), "Model")...); complaint != "" {
				t.Errorf("schedules that %s:\n%s", x.name, complaint)
			}
		})
	}
}

func brokenLocks() []brokenPlan {
	ctx := context.Background()
	return []brokenPlan{
		{name: "give every holder the same token", rule: "L1", also: "L2 L4 L5 L6 T5 T6 T11", bend: planBend{
			acquired: func(l store.Lock, err error) (store.Lock, error) { l.Token = min(l.Token, 1); return l, err },
		}},
		{name: "end a lock too soon", rule: "L1", also: "L3 L6", bend: planBend{
			acquire: func(_ store.Locks, name, holder string, ttl time.Duration) (string, string, time.Duration) {
				if ttl > time.Millisecond {
					ttl /= 2
				}
				return name, holder, ttl
			},
		}},
		{name: "never end a lock", rule: "L1", also: "L2 L3 L6 T5", bend: planBend{
			acquire: func(_ store.Locks, name, holder string, ttl time.Duration) (string, string, time.Duration) {
				if ttl > 0 {
					ttl = 1000 * time.Hour
				}
				return name, holder, ttl
			},
		}},
		{name: "have one lock for all names", rule: "L1", bend: planBend{
			acquire: func(_ store.Locks, name, holder string, ttl time.Duration) (string, string, time.Duration) {
				if name == "b" {
					name = "a"
				}
				return name, holder, ttl
			},
		}},
		{name: "renew under a new token", rule: "L2", also: "L3 L6 T1 T5 T6 T11", bend: planBend{
			acquire: func(b store.Locks, name, holder string, ttl time.Duration) (string, string, time.Duration) {
				if l, err := b.Holder(ctx, name); err == nil && l.Holder == holder {
					_ = b.Release(ctx, l)
				}
				return name, holder, ttl
			},
		}},
		{name: "say nothing of who holds it", rule: "L3", bend: planBend{
			acquired: func(l store.Lock, err error) (store.Lock, error) {
				if errors.Is(err, store.ErrHeld) {
					err = store.ErrHeld
				}
				return l, err
			},
		}},
		{name: "take what another holds", rule: "L3", also: "L1 L2 L4 L5 T5", bend: planBend{
			acquire: func(b store.Locks, name, holder string, ttl time.Duration) (string, string, time.Duration) {
				if l, err := b.Holder(ctx, name); err == nil && l.Token > 0 && l.Holder != holder {
					_ = b.Release(ctx, l)
				}
				return name, holder, ttl
			},
		}},
		{name: "release whatever the token", rule: "L4", bend: planBend{
			release: func(b store.Locks, l store.Lock) store.Lock {
				if held, err := b.Holder(ctx, l.Name); err == nil && held.Token > 0 {
					return held
				}
				return l
			},
		}},
		{name: "release nothing", rule: "L4", also: "L5 L6 T5", bend: planBend{
			release: func(_ store.Locks, l store.Lock) store.Lock { l.Token = -1; return l },
		}},
		{name: "take any holder", rule: "L5", bend: planBend{
			acquire: func(_ store.Locks, name, holder string, ttl time.Duration) (string, string, time.Duration) {
				return name, holder + strings.Repeat("!", max(0, 1-len(holder))), ttl
			},
		}},
		{name: "forget how long a lock lasts", rule: "L6", bend: planBend{
			holder: func(_ store.Locks, l store.Lock) store.Lock { l.TTL = 0; return l },
		}},
		{name: "release it for who asks", rule: "L6", bend: planBend{
			holder: func(b store.Locks, l store.Lock) store.Lock { _ = b.Release(ctx, l); return l },
		}},
	}
}

func brokenApplying() []brokenPlan {
	ctx := context.Background()
	return []brokenPlan{
		{name: "apply what they can", rule: "T1", also: "T11", bend: planBend{
			applied: func(b *bentPlan, c []store.ScheduleChange, list []store.Schedule, err error) ([]store.Schedule, error) {
				if err == nil {
					return list, err
				}
				for i := range c {
					_, _ = b.Schedules.Apply(ctx, c[i:i+1])
				}
				return nil, err
			},
		}},
		{name: "ignore the version of a change", rule: "T1", also: "T2 T8", bend: planBend{
			apply: func(b *bentPlan, c []store.ScheduleChange) []store.ScheduleChange {
				for i := range c {
					if s, there := b.now(c[i].ID); there && c[i].Version > 0 {
						c[i].Version = s.Version
					}
				}
				return c
			},
		}},
		{name: "ignore what fired meanwhile", rule: "T1", bend: planBend{
			apply: func(b *bentPlan, c []store.ScheduleChange) []store.ScheduleChange {
				for i := range c {
					s, there := b.now(c[i].ID)
					if there && s.Version == c[i].Version {
						c[i].LastDue, c[i].NextDue, c[i].NextAt = s.LastDue, s.NextDue, s.NextAt
					}
				}
				return c
			},
		}},
		{name: "make anew what exists", rule: "T1", bend: planBend{
			apply: func(b *bentPlan, c []store.ScheduleChange) []store.ScheduleChange {
				for i := range c {
					if s, there := b.now(c[i].ID); there && c[i].Version == 0 && !c[i].Delete {
						c[i].Version, c[i].LastDue = s.Version, s.LastDue
					}
				}
				return c
			},
		}},
		{name: "format definitions anew", rule: "T1", also: "T3", bend: planBend{
			entry: func(s *store.Schedule) {
				var b bytes.Buffer
				if json.Compact(&b, s.Definition) == nil {
					s.Definition = b.Bytes()
				}
			},
		}},
		{name: "take any definition", rule: "T1", bend: planBend{
			apply: func(_ *bentPlan, c []store.ScheduleChange) []store.ScheduleChange {
				for i := range c {
					if !json.Valid(c[i].Definition) && len(c[i].Definition) > 0 {
						c[i].Definition = json.RawMessage("{}")
					}
				}
				return c
			},
		}},
		{name: "apply one of two changes of an id", rule: "T1", bend: planBend{
			apply: func(_ *bentPlan, c []store.ScheduleChange) []store.ScheduleChange {
				seen := map[string]bool{}
				return slices.DeleteFunc(c, func(x store.ScheduleChange) bool {
					twice := seen[x.ID]
					seen[x.ID] = true
					return twice
				})
			},
		}},
		{name: "begin versions again after a delete", rule: "T2", also: "T1 T5", bend: planBend{
			applied: func(_ *bentPlan, c []store.ScheduleChange, list []store.Schedule, err error) ([]store.Schedule, error) {
				for i := range list {
					if c[i].Version == 0 {
						list[i].Version = 1
					}
				}
				return list, err
			},
		}},
		{name: "say nothing of a delete of nothing", rule: "T2", also: "T1", bend: planBend{
			applied: func(_ *bentPlan, c []store.ScheduleChange, list []store.Schedule, err error) ([]store.Schedule, error) {
				if errors.Is(err, store.ErrNoSchedule) && len(c) == 1 && c[0].Delete {
					return make([]store.Schedule, len(c)), nil
				}
				return list, err
			},
		}},
		keepsHistory(),
		{name: "answer in an order of their own", rule: "T3", bend: planBend{
			got: func(found []store.FoundSchedule) {
				slices.SortStableFunc(found, func(a, b store.FoundSchedule) int { return strings.Compare(a.Schedule.ID, b.Schedule.ID) })
			},
		}},
		{name: "list in an order of their own", rule: "T3", bend: planBend{
			listed: func(list []store.Schedule, cursor string) string {
				slices.SortFunc(list, func(a, b store.Schedule) int {
					return strings.Compare(strings.ToLower(a.ID), strings.ToLower(b.ID))
				})
				return cursor
			},
		}},
		{name: "repeat the end of a page", rule: "T3", bend: planBend{
			listed: func(list []store.Schedule, cursor string) string {
				if cursor != "" && len(list) > 1 {
					return list[len(list)-2].ID
				}
				return cursor
			},
		}},
		{name: "end a listing with a page", rule: "T3", bend: planBend{
			listed: func([]store.Schedule, string) string { return "" },
		}},
	}
}

// keepsHistory shows records of an entry that was there before.
func keepsHistory() brokenPlan {
	var mu sync.Mutex
	old := map[string]store.FireRecord{}
	return brokenPlan{name: "keep the history of what was deleted", rule: "T2", also: "T1 T8 T11", bend: planBend{
		history: func(_ *bentPlan, id string, list []store.FireRecord, err error) ([]store.FireRecord, error) {
			mu.Lock()
			defer mu.Unlock()
			if r, there := old[id]; there && len(list) == 0 && err == nil {
				list = append(list, r)
			}
			return list, err
		},
		fired: func(_ *bentPlan, _ store.Lock, answers []store.FireAnswer) {
			mu.Lock()
			defer mu.Unlock()
			for _, a := range answers {
				if a.Err == nil {
					old[a.Record.ID] = a.Record
				}
			}
		},
	}}
}

func brokenDue() []brokenPlan {
	return []brokenPlan{
		{name: "return more than was asked for", rule: "T4", also: "T7 T10", bend: planBend{limit: func(limit int) int { return limit + 1 }}},
		{name: "return less than is due", rule: "T4", also: "T5 T7", bend: planBend{limit: func(limit int) int {
			if limit == 0 || limit > 3 && limit < 100 {
				return 3
			}
			return limit
		}}},
		{name: "look only at what is due already", rule: "T4", bend: planBend{ahead: func(time.Duration) time.Duration { return 0 }}},
		{name: "return the due by id", rule: "T4", bend: planBend{due: func(d *store.Due) {
			slices.SortFunc(d.Entries, func(a, b store.Schedule) int { return strings.Compare(a.ID, b.ID) })
		}}},
		{name: "return the due of a moment in any order", rule: "T4", also: "T10", bend: planBend{due: func(d *store.Due) {
			slices.SortStableFunc(d.Entries, func(a, b store.Schedule) int {
				if c := a.NextAt.Compare(b.NextAt); c != 0 {
					return c
				}
				return strings.Compare(b.ID, a.ID)
			})
		}}},
		{name: "say nothing of more that is due", rule: "T4", also: "T10", bend: planBend{due: func(d *store.Due) { d.More = false }}},
		{name: "say nothing of the next", rule: "T4", also: "T10", bend: planBend{due: func(d *store.Due) { d.Next = 0 }}},
		{name: "look at the wrong next", rule: "T4", bend: planBend{due: func(d *store.Due) { d.Next *= 2 }}},
		{name: "forget the jitter", rule: "T4", also: "T1 T5", bend: planBend{
			apply: func(_ *bentPlan, c []store.ScheduleChange) []store.ScheduleChange {
				for i := range c {
					if !c[i].NextAt.IsZero() && !c[i].NextDue.IsZero() && c[i].NextAt.Year() < 10_000 {
						c[i].NextAt = c[i].NextDue
					}
				}
				return c
			},
		}},
	}
}

func brokenFiring() []brokenPlan {
	newest := func(b *bentPlan, l store.Lock) store.Lock {
		if held, err := b.locks.Holder(context.Background(), store.LeadLock); err == nil && held.Token > 0 {
			return held
		}
		return l
	}
	return []brokenPlan{
		{name: "claim before the moment", rule: "T5", bend: planBend{firing: func(_ *bentPlan, f *store.Firing) { f.NotBefore = time.Time{} }}},
		{name: "ignore who leads", rule: "T5", also: "T6 T7", bend: planBend{lead: newest}},
		{name: "ignore the version of a firing", rule: "T5", bend: planBend{firing: func(b *bentPlan, f *store.Firing) {
			if s, there := b.now(f.ID); there {
				f.Version = s.Version
			}
		}}},
		{name: "ignore which moment is claimed", rule: "T5", also: "T1 T6 T11", bend: planBend{firing: func(b *bentPlan, f *store.Firing) {
			if s, there := b.now(f.ID); there && f.Due.Before(s.NextDue) && f.Next.After(f.Due) {
				f.Next, f.NextAt = s.NextDue.Add(f.Next.Sub(f.Due)), s.NextDue.Add(f.NextAt.Sub(f.Due))
				f.Due = s.NextDue
			}
		}}},
		{name: "stop at the first that fails", rule: "T5", bend: planBend{one: true}},
		{name: "forget the marks of a firing", rule: "T5", bend: planBend{entry: func(s *store.Schedule) { s.Drift, s.LastFired = 0, time.Time{} }}},
		{name: "count no misfires", rule: "T5", bend: planBend{firing: func(_ *bentPlan, f *store.Firing) { f.Missed = min(f.Missed, 0) }}},
		{name: "forget who fires", rule: "T5", also: "T7", bend: planBend{firing: func(_ *bentPlan, f *store.Firing) { f.Beat = "" }}},
		{name: "claim and enqueue nothing", rule: "T6", also: "T10 T7", bend: planBend{
			firing: func(_ *bentPlan, f *store.Firing) { f.Atomic = false },
			fired: func(b *bentPlan, lead store.Lock, answers []store.FireAnswer) {
				for i, a := range answers {
					if a.Err == nil && a.Record.Outcome == store.OutcomePending && a.Record.ID != "a" {
						answers[i].Record.Outcome = store.OutcomeFired
						_ = b.Schedules.Finish(context.Background(), lead, []store.FireRecord{answers[i].Record})
					}
				}
			},
		}},
		{name: "fire into whatever broker", rule: "T6", bend: planBend{into: func(broker.Broker) bool { return true }}},
		{name: "keep pending what they cannot publish", rule: "T6", bend: planBend{
			unplug: true, firing: func(_ *bentPlan, f *store.Firing) { f.Atomic = false },
		}},
		{name: "publish what is for another broker", rule: "T7", also: "T2 T5 T6", bend: planBend{
			firing: func(_ *bentPlan, f *store.Firing) { f.Atomic = true },
		}},
		{name: "make an error of a refused task", rule: "T6", also: "T7", bend: planBend{
			fired: func(_ *bentPlan, _ store.Lock, answers []store.FireAnswer) {
				for i, a := range answers {
					if a.Record.Outcome == store.OutcomeFailed && a.Record.Missed == 0 && a.Record.ID != "over" {
						answers[i] = store.FireAnswer{Err: errors.New(a.Record.Error)}
					}
				}
			},
		}},
	}
}

func brokenPending() []brokenPlan {
	return []brokenPlan{
		{name: "forget what is pending", rule: "T7", also: "T2 T6", bend: planBend{due: func(d *store.Due) { d.Pending = nil }}},
		{name: "return the newest pending first", rule: "T7", bend: planBend{due: func(d *store.Due) { slices.Reverse(d.Pending) }}},
		{name: "forget the claims of what is pending", rule: "T7", bend: planBend{due: func(d *store.Due) {
			for i := range d.Pending {
				d.Pending[i].Publication.Claims = nil
			}
		}}},
		{name: "finish nothing", rule: "T7", also: "T2 T6", bend: planBend{
			finish: func(*bentPlan, store.Lock, []store.FireRecord) []store.FireRecord { return nil },
		}},
		{name: "finish all as fired", rule: "T7", bend: planBend{
			finish: func(_ *bentPlan, _ store.Lock, list []store.FireRecord) []store.FireRecord {
				for i := range list {
					list[i].Outcome = store.OutcomeFired
				}
				return list
			},
		}},
		forgetsClaimed(),
		{name: "leave the history pending", rule: "T7", bend: planBend{
			history: func(_ *bentPlan, _ string, list []store.FireRecord, err error) ([]store.FireRecord, error) {
				for i := range list {
					if list[i].Outcome == store.OutcomeFired && !strings.HasPrefix(list[i].Task, "sch:") {
						list[i].Outcome = store.OutcomePending
					}
				}
				return list, err
			},
		}},
	}
}

// forgetsClaimed shows the task of a firing only when it is finished.
func forgetsClaimed() brokenPlan {
	var pending sync.Map
	return brokenPlan{name: "do not say which task is pending", rule: "T7", also: "T1 T2 T5 T6", bend: planBend{
		entry: func(s *store.Schedule) {
			if _, is := pending.Load(s.LastTask); is {
				s.LastTask = ""
			}
		},
		fired: func(_ *bentPlan, _ store.Lock, answers []store.FireAnswer) {
			for _, a := range answers {
				if a.Err == nil && a.Record.Outcome == store.OutcomePending {
					pending.Store(a.Record.Task, true)
				}
			}
		},
	}}
}

// swallows remembers what any Due has seen for whoever waits.
func swallows() brokenPlan {
	var seen atomic.Int64
	return brokenPlan{name: "take what another has seen for seen", rule: "T9", bend: planBend{
		due: func(d *store.Due) { seen.Store(d.Changes) },
		wait: func(b *bentPlan, ctx context.Context, _ int64, atMost time.Duration) error {
			return b.Schedules.Wait(ctx, seen.Load(), atMost)
		},
	}}
}

func brokenRest() []brokenPlan {
	cut := func(change func(list []store.FireRecord) []store.FireRecord) planBend {
		return planBend{history: func(_ *bentPlan, _ string, list []store.FireRecord, err error) ([]store.FireRecord, error) {
			return change(list), err
		}}
	}
	return []brokenPlan{
		{name: "return the oldest record first", rule: "T8", also: "T5 T7", bend: cut(func(list []store.FireRecord) []store.FireRecord {
			slices.Reverse(list)
			return list
		})},
		{name: "keep fewer records", rule: "T8", bend: cut(func(list []store.FireRecord) []store.FireRecord { return list[:min(len(list), 99)] })},
		{name: "know no unknown id", rule: "T8", bend: planBend{
			history: func(_ *bentPlan, _ string, list []store.FireRecord, err error) ([]store.FireRecord, error) {
				if errors.Is(err, store.ErrNoSchedule) {
					err = nil
				}
				return list, err
			},
		}},
		{name: "forget a run by hand", rule: "T8", bend: planBend{
			apply: func(_ *bentPlan, c []store.ScheduleChange) []store.ScheduleChange {
				for i := range c {
					c[i].Record = nil
				}
				return c
			},
		}},
		{name: "wake nobody", rule: "T9", also: "T11", bend: planBend{
			wait: func(_ *bentPlan, ctx context.Context, _ int64, atMost time.Duration) error {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(atMost):
					return nil
				}
			},
		}},
		{name: "forget a change that came before they wait", rule: "T9", bend: planBend{
			wait: func(b *bentPlan, ctx context.Context, _ int64, atMost time.Duration) error {
				d, err := b.Schedules.Due(ctx, 1, 0)
				if err != nil {
					return err
				}
				return b.Schedules.Wait(ctx, d.Changes, atMost)
			},
		}},
		swallows(),
		{name: "wait too long", rule: "T9", bend: planBend{
			wait: func(b *bentPlan, ctx context.Context, since int64, atMost time.Duration) error {
				return b.Schedules.Wait(ctx, since, 100*atMost)
			},
		}},
		{name: "never claim more than a hundred", rule: "T10", also: "T4", bend: planBend{
			due: func(d *store.Due) {
				if len(d.Entries) > 100 {
					d.Entries, d.More = d.Entries[:100], false
				}
			},
		}},
		{name: "work on after Close", rule: "T11", bend: planBend{end: func() error { return nil }}},
		{name: "ignore the context", rule: "T11", also: "T9", bend: planBend{ctx: context.WithoutCancel}},
	}
}
