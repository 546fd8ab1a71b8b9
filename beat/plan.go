package beat

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/stemjobs/stem/schedule"
	"github.com/stemjobs/stem/store"
)

// Action is what a plan does to one entry.
type Action string

// What a plan does to an entry.
const (
	ActionCreate Action = "create"
	ActionChange Action = "change"
	ActionDelete Action = "delete"
	ActionKeep   Action = "keep" // it is as asked for
)

// Desired is an entry as it is to be.
type Desired struct {
	Entry
	Version int64 // that it was made from; 0: whichever the store has
	Line    int   // in its file; 0: it is from none
}

// Difference is one field that changes. Old or New is nil where the field is not
// there.
type Difference struct {
	Field string          `json:"field"` // such as "options.priority"
	Old   json.RawMessage `json:"old,omitempty"`
	New   json.RawMessage `json:"new,omitempty"`
}

// PlannedChange is what a plan does to one entry.
type PlannedChange struct {
	ID      string
	Action  Action
	Version int64 // of the entry that was there; 0: none was
	Fields  []Difference
	Entry   Entry     // as it is to be; of a delete, as it was
	NextDue time.Time // as it will be; zero: it does not fire
}

// Plan is what is to be done to have what is desired, made from what the store
// had. Commit does it.
type Plan struct {
	Changes []PlannedChange // by id, those that keep included
}

// Count is how many entries an action is done to.
func (p *Plan) Count(a Action) int {
	n := 0
	for i := range p.Changes {
		if p.Changes[i].Action == a {
			n++
		}
	}
	return n
}

// Empty reports whether everything is as desired.
func (p *Plan) Empty() bool { return p.Count(ActionKeep) == len(p.Changes) }

// Plan compares what is desired with what the store has; with prune, entries that
// are not desired are deleted. It changes nothing. What is wrong with an entry is
// a *FieldError, a stale version a *store.ConflictError.
func (b *Book) Plan(ctx context.Context, desired []Desired, prune bool) (*Plan, error) {
	have, err := b.have(ctx, desired, prune)
	if err != nil {
		return nil, err
	}
	now, err := b.Now(ctx)
	if err != nil {
		return nil, err
	}
	p := &Plan{}
	seen := map[string]bool{}
	for i := range desired {
		d := &desired[i]
		if seen[d.ID] {
			return nil, wrong("id", "%q is there twice", d.ID)
		}
		seen[d.ID] = true
		old, exists := have[d.ID]
		c, err := b.compare(d, old, exists, now)
		if err != nil {
			return nil, fmt.Errorf("schedule %s: %w", d.ID, err)
		}
		p.Changes = append(p.Changes, c)
	}
	for _, id := range slices.Sorted(maps.Keys(have)) {
		if prune && !seen[id] {
			p.Changes = append(p.Changes, PlannedChange{ID: id, Action: ActionDelete, Version: have[id].Record.Version, Entry: have[id].Entry})
		}
	}
	slices.SortFunc(p.Changes, func(a, b PlannedChange) int { return bytes.Compare([]byte(a.ID), []byte(b.ID)) })
	return p, nil
}

// have reads the entries that a plan concerns.
func (b *Book) have(ctx context.Context, desired []Desired, all bool) (map[string]Listed, error) {
	have := map[string]Listed{}
	if all {
		for page, err := range b.All(ctx) {
			if err != nil {
				return nil, err
			}
			for i := range page {
				have[page[i].Record.ID] = page[i]
			}
		}
		return have, nil
	}
	ids := make([]string, len(desired))
	for i := range desired {
		if ids[i] = desired[i].ID; ValidateID(ids[i]) != nil {
			return nil, ValidateID(ids[i])
		}
	}
	found, err := b.schedules.Get(ctx, ids...)
	if err != nil {
		return nil, fmt.Errorf("read schedules: %w", err)
	}
	for i := range found {
		if found[i].Err == nil {
			have[ids[i]] = b.listed(found[i].Schedule)
		}
	}
	return have, nil
}

// compare says what is to be done for one desired entry.
func (b *Book) compare(d *Desired, old Listed, exists bool, now time.Time) (PlannedChange, error) {
	c := PlannedChange{ID: d.ID, Action: ActionCreate, Entry: d.Entry}
	if d.Version != 0 && (!exists || old.Record.Version != d.Version) {
		return c, &store.ConflictError{ID: d.ID, Have: old.Record.Version, Want: d.Version}
	}
	if exists {
		c.Action, c.Version = ActionChange, old.Record.Version
		c.Entry.keepState(&old.Entry)
	}
	m, err := c.Entry.compile(&b.loader)
	if err != nil {
		return c, err
	}
	var before *Entry
	if exists {
		before = &old.Entry
	}
	if c.Fields, err = differences(before, &c.Entry); err != nil {
		return c, err
	}
	if exists && len(c.Fields) == 0 {
		c.Action, c.NextDue = ActionKeep, old.Record.NextDue
		return c, nil
	}
	c.NextDue = nextDue(&old, exists, &c.Entry, m, now)
	return c, nil
}

// keepState takes over what operators have done, where the desired entry says
// nothing of it.
func (e *Entry) keepState(old *Entry) {
	if e.Enabled == nil {
		e.Enabled = old.Enabled
	}
	if e.Paused == nil {
		e.Paused = old.Paused
		if e.Note == "" {
			e.Note = old.Note
		}
	}
	e.tidy()
}

// tidy writes the usual as nothing, so that what means the same is the same.
func (e *Entry) tidy() {
	if e.Enabled != nil && *e.Enabled {
		e.Enabled = nil
	}
	if e.Paused != nil && !*e.Paused {
		e.Paused = nil
	}
	if e.Overlap == OverlapAllow {
		e.Overlap = ""
	}
	if e.Misfire == (Misfire{Policy: PolicyLatest}) {
		e.Misfire = Misfire{}
	}
}

// nextDue is the next moment of an entry as it is to be. What only changes what
// is done keeps the moment it waits for, also one that has come meanwhile.
func nextDue(old *Listed, exists bool, e *Entry, m *moments, now time.Time) time.Time {
	if !e.active() {
		return time.Time{}
	}
	after := now
	if exists {
		if old.Problem == nil && old.Entry.active() && sameTimes(&old.Entry, e) {
			return old.Record.NextDue
		}
		if e.RunOnce && old.Record.LastTask != "" && old.Problem == nil && sameTimes(&old.Entry, e) {
			return time.Time{}
		}
		if old.Record.LastDue.After(after) {
			after = old.Record.LastDue
		}
	}
	return m.next(after)
}

// sameTimes reports whether two entries have the same due moments.
func sameTimes(a, b *Entry) bool {
	return a.Spec == b.Spec && a.StartAt.Equal(b.StartAt) && a.EndAt.Equal(b.EndAt) && a.RunOnce == b.RunOnce
}

// change makes the store's change of an entry that is there.
func (b *Book) change(old *Listed, e *Entry, now time.Time) (store.ScheduleChange, error) {
	e.tidy()
	m, err := e.compile(&b.loader)
	if err != nil {
		return store.ScheduleChange{}, err
	}
	due := nextDue(old, true, e, m, now)
	return b.stored(old, e, m, due)
}

// stored is the change that makes an entry what it is to be.
func (b *Book) stored(old *Listed, e *Entry, m *moments, due time.Time) (store.ScheduleChange, error) {
	definition := *e
	definition.ID = ""
	raw, err := definition.MarshalJSON()
	if err != nil {
		return store.ScheduleChange{}, err
	}
	return store.ScheduleChange{
		ID: e.ID, Version: old.Record.Version, LastDue: old.Record.LastDue, Definition: raw, NextDue: due, NextAt: m.at(due),
	}, nil
}

// Commit does what the plan says, all or nothing. An entry that was changed by
// somebody else since the plan was made is ErrConflict, and nothing changes; one
// that fired since is no hindrance.
func (b *Book) Commit(ctx context.Context, p *Plan) error {
	for try := 0; ; try++ {
		changes, err := b.changes(ctx, p)
		if err != nil || len(changes) == 0 {
			return err
		}
		_, err = b.schedules.Apply(ctx, changes)
		if err == nil {
			return nil
		}
		var conflict *store.ConflictError
		fired := errors.As(err, &conflict) && conflict.Have == conflict.Want && conflict.Want != 0
		// One that is gone is told as a conflict by the next look at what is there.
		if !fired && !errors.Is(err, ErrNoSchedule) || try == maxTries {
			return err // which says what was done
		}
	}
}

// changes makes the store's changes of a plan, from where the entries stand now.
func (b *Book) changes(ctx context.Context, p *Plan) ([]store.ScheduleChange, error) {
	now, err := b.Now(ctx)
	if err != nil {
		return nil, err
	}
	var ids []string
	for i := range p.Changes {
		if a := p.Changes[i].Action; a == ActionChange || a == ActionDelete {
			ids = append(ids, p.Changes[i].ID)
		}
	}
	have := map[string]Listed{}
	if len(ids) > 0 {
		found, err := b.schedules.Get(ctx, ids...)
		if err != nil {
			return nil, fmt.Errorf("read schedules: %w", err)
		}
		for i := range found {
			if found[i].Err == nil {
				have[ids[i]] = b.listed(found[i].Schedule)
			}
		}
	}
	var changes []store.ScheduleChange
	for i := range p.Changes {
		c := &p.Changes[i]
		switch c.Action {
		case ActionKeep:
			continue
		case ActionCreate:
		case ActionChange, ActionDelete:
			if _, there := have[c.ID]; !there {
				return nil, &store.ConflictError{ID: c.ID, Want: c.Version}
			}
		}
		if c.Action == ActionDelete {
			changes = append(changes, store.ScheduleChange{ID: c.ID, Version: c.Version, Delete: true})
			continue
		}
		old := have[c.ID]
		old.Record.Version = c.Version
		m, err := c.Entry.compile(&b.loader)
		if err != nil {
			return nil, err
		}
		entry := c.Entry
		entry.tidy()
		change, err := b.stored(&old, &entry, m, nextDue(&old, c.Action == ActionChange, &entry, m, now))
		if err != nil {
			return nil, err
		}
		changes = append(changes, change)
	}
	return changes, nil
}

// Apply plans and commits at once.
func (b *Book) Apply(ctx context.Context, desired []Desired, prune bool) (*Plan, error) {
	p, err := b.Plan(ctx, desired, prune)
	if err != nil {
		return nil, err
	}
	return p, b.Commit(ctx, p)
}

// differences lists the fields that differ, by name. old may be nil.
func differences(old, e *Entry) ([]Difference, error) {
	before, err := flat(old)
	if err != nil {
		return nil, err
	}
	after, err := flat(e)
	if err != nil {
		return nil, err
	}
	names := slices.Collect(maps.Keys(after))
	for name := range before {
		if _, ok := after[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var out []Difference
	for _, name := range names {
		if !bytes.Equal(before[name], after[name]) {
			out = append(out, Difference{Field: name, Old: before[name], New: after[name]})
		}
	}
	return out, nil
}

// flat is an entry by the paths of its fields: args stay whole, the spec is its
// canonical text.
func flat(e *Entry) (map[string]json.RawMessage, error) {
	if e == nil {
		return nil, nil
	}
	tidied := *e
	tidied.ID = ""
	tidied.tidy()
	raw, err := tidied.MarshalJSON()
	if err != nil {
		return nil, err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, fmt.Errorf("compare schedules: %w", err)
	}
	for _, name := range []string{"options", "misfire"} {
		var inner map[string]json.RawMessage
		if err := json.Unmarshal(fields[name], &inner); err != nil {
			continue // there is none
		}
		delete(fields, name)
		for k, v := range inner {
			fields[name+"."+k] = v
		}
	}
	if text, err := specText(e.Spec); err == nil {
		fields["spec"] = text
	}
	return fields, nil
}

func specText(d schedule.Definition) (json.RawMessage, error) {
	text, err := d.Text()
	if err != nil {
		return nil, fmt.Errorf("text of a spec: %w", err)
	}
	return marshal(text)
}
