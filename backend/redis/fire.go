package redis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// Fire implements store.Schedules.
func (s *schedules) Fire(ctx context.Context, lead store.Lock, batch []store.Firing) ([]store.FireAnswer, error) {
	if err := s.db.check(ctx); err != nil {
		return nil, err
	}
	answers := make([]store.FireAnswer, len(batch))
	args := []string{lead.Name, strconv.FormatInt(lead.Token, 10)}
	var sent []int
	now := s.db.clock()
	for i := range batch {
		f := &batch[i]
		answers[i].Err = f.Check()
		if answers[i].Err == nil && f.Atomic && f.Publication != nil && len(s.db.tags) > 1 {
			answers[i].Err = fmt.Errorf("fire schedule %s and publish its task in one step, in one of %d partitions: %w", f.ID, len(s.db.tags), broker.ErrUnsupported)
		}
		if answers[i].Err == nil {
			args = appendFiring(args, f, now)
			sent = append(sent, i)
		}
	}
	m, err := s.db.run(ctx, s.db.scripts.fire, 0, args)
	if err != nil {
		return nil, fmt.Errorf("fire schedules: %w", err)
	}
	words, err := m.AsStrSlice()
	if len(words) == 1 && words[0] == "!" {
		return nil, fmt.Errorf("fire schedules: %w", lost(lead))
	}
	if err != nil || len(words) != len(sent) {
		return nil, fmt.Errorf("fire schedules: %w (%w)", errForeign, err)
	}
	for at, i := range sent {
		answers[i] = fired(&batch[i], words[at])
	}
	return answers, nil
}

// fired reads what became of one firing.
func fired(f *store.Firing, word string) (a store.FireAnswer) {
	switch {
	case word == "m":
		a.Err = fmt.Errorf("schedule %s: %w", f.ID, store.ErrNoSchedule)
	case word == "e":
		a.Err = fmt.Errorf("schedule %s: %w", f.ID, store.ErrNotDue)
	case word[0] == 'v':
		have, err := strconv.ParseInt(word[1:], 10, 64)
		if a.Err = err; err == nil {
			a.Err = &store.ConflictError{ID: f.ID, Have: have, Want: f.Version}
		}
	default:
		a.Record, a.Err = parseFiring(f.ID, word)
	}
	return a
}

// appendFiring appends the arguments of one firing; see lua/fire.lua.
func appendFiring(args []string, f *store.Firing, now int64) []string {
	r := f.Record(f.Due) // by the server's clock it is claimed there
	var extra []string
	if r.Outcome == store.OutcomePending {
		var err error
		if f.Atomic {
			r.Outcome = store.OutcomeFired
			extra, err = publicationArgs(f.Publication, now)
		} else {
			extra, err = pendingArgs(f.Publication)
		}
		if err != nil {
			extra = nil
			r.Settle(broker.Outcome{State: broker.Refused, Err: err})
		}
	}
	args = append(args, f.ID, strconv.FormatInt(f.Version, 10), strconv.FormatInt(millis(f.Due), 10),
		strconv.FormatInt(millis(f.Next), 10), strconv.FormatInt(millis(f.NextAt), 10),
		strconv.FormatInt(millis(f.NotBefore), 10), firingWords(r.Jitter, r.Missed, r.Beat),
		string(r.Outcome), r.Error, taskWord(r.Task), strconv.Itoa(len(extra)))
	return append(args, extra...)
}

func publicationArgs(p *broker.Publication, now int64) ([]string, error) {
	data, err := prepare(p)
	if err != nil {
		return nil, err
	}
	return appendPublication(nil, p.Envelope, data, p.Claims, now), nil
}

func pendingArgs(p *broker.Publication) ([]string, error) {
	rest := *p
	rest.Envelope = nil
	envelope, err1 := task.Encode(p.Envelope)
	text, err2 := json.Marshal(&rest)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	return []string{string(text) + "\n" + string(envelope)}, nil
}

// Finish implements store.Schedules.
func (s *schedules) Finish(ctx context.Context, lead store.Lock, batch []store.FireRecord) error {
	if err := store.CheckFinish(batch); err != nil {
		return err
	}
	if err := s.db.check(ctx); err != nil {
		return err
	}
	args := []string{lead.Name, strconv.FormatInt(lead.Token, 10)}
	for i := range batch {
		var r store.FireRecord
		r.Finish(&batch[i])
		args = append(args, batch[i].ID, strconv.FormatInt(millis(batch[i].Due), 10), string(r.Outcome), taskWord(r.Task), r.Error)
	}
	m, err := s.db.run(ctx, s.db.scripts.finish, 0, args)
	if err != nil {
		return fmt.Errorf("finish firings: %w", err)
	}
	if leads, err := m.AsInt64(); err != nil || leads == 0 {
		return fmt.Errorf("finish firings: %w", errors.Join(err, lost(lead)))
	}
	return nil
}
