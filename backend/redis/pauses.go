package redis

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/rueidis"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// Pause implements broker.Pauser: in every partition, the first one last, which
// is the one that is asked.
func (b *redisBroker) Pause(ctx context.Context, batch []broker.Pause) error {
	if err := b.check(ctx); err != nil {
		return err
	}
	args := []string{"pause"}
	for _, p := range batch {
		if err := task.ValidateQueue(p.Queue); err != nil {
			return fmt.Errorf("pause: %w", err)
		}
		if len(p.Note) > broker.MaxPauseNote {
			return fmt.Errorf("pause: %w note of queue %s: %d bytes, more than %d", task.ErrInvalid, p.Queue, len(p.Note), broker.MaxPauseNote)
		}
		args = append(args, p.Queue, p.Note)
	}
	if _, err := b.pause(ctx, args); err != nil {
		return fmt.Errorf("pause: %w", err)
	}
	return nil
}

// Resume implements broker.Pauser.
func (b *redisBroker) Resume(ctx context.Context, queues ...string) ([]bool, error) {
	if err := b.check(ctx); err != nil {
		return nil, err
	}
	args := []string{"resume"}
	for _, q := range queues {
		args = append(args, q, "")
	}
	paused, err := b.pause(ctx, args)
	if err != nil {
		return nil, fmt.Errorf("resume: %w", err)
	}
	return paused, nil
}

func (b *redisBroker) pause(ctx context.Context, args []string) ([]bool, error) {
	paused := make([]bool, len(args)/2)
	for p := len(b.db.tags) - 1; p >= 0; p-- {
		m, err := b.db.run(ctx, b.db.scripts.pause, p, args)
		if err != nil {
			return nil, err
		}
		were, err := m.AsIntSlice()
		if err != nil || len(were) != len(paused) {
			return nil, fmt.Errorf("%w (%w)", errForeign, err)
		}
		for i := range paused {
			paused[i] = paused[i] || were[i] == 1
		}
	}
	return paused, nil
}

// Pauses implements broker.Pauser.
func (b *redisBroker) Pauses(ctx context.Context) ([]broker.Pause, error) {
	if err := b.check(ctx); err != nil {
		return nil, err
	}
	all, err := b.db.do(ctx, b.db.client.B().Hgetall().Key(b.db.tags[0]+":pauses").Build()).AsStrMap()
	if err != nil {
		return nil, fmt.Errorf("list paused queues: %w", unavailable(err))
	}
	var list []broker.Pause
	for queue, text := range all {
		since, note, _ := strings.Cut(text, " ")
		ms, err := strconv.ParseInt(since, 10, 64)
		if err != nil {
			ms = 0 // somebody else wrote it: paused it is
		}
		list = append(list, broker.Pause{Queue: queue, Note: note, Since: moment(ms)})
	}
	slices.SortFunc(list, func(a, b broker.Pause) int { return strings.Compare(a.Queue, b.Queue) })
	return list, nil
}

// Revocations implements broker.RevocationLister: partition by partition, by id.
func (b *redisBroker) Revocations(ctx context.Context, p broker.Page) ([]broker.PendingRevocation, string, error) {
	if err := b.check(ctx); err != nil {
		return nil, "", err
	}
	part, after, err := parseRevocationCursor(p.Cursor)
	if err != nil || part >= len(b.db.tags) {
		return nil, "", err
	}
	var list []broker.PendingRevocation
	last := "" // the cursor of the newest
	for ; part < len(b.db.tags); part, after = part+1, "" {
		ids, err := b.revoked(ctx, part)
		if err != nil {
			return nil, "", fmt.Errorf("list revocations: %w", err)
		}
		for _, r := range ids {
			if r.ID <= after {
				continue
			}
			if len(list) == p.Size() {
				return list, last, nil
			}
			list = append(list, r)
			after = r.ID
			last = strconv.Itoa(part) + "." + r.ID
		}
	}
	return list, "", nil
}

func parseRevocationCursor(text string) (part int, after string, err error) {
	if text == "" {
		return 0, "", nil
	}
	number, after, _ := strings.Cut(text, ".")
	if part, err = strconv.Atoi(number); err != nil || part < 0 {
		return 0, "", fmt.Errorf("%w cursor %.80q: use one that a page gave", task.ErrInvalid, text)
	}
	return part, after, nil
}

// revoked lists the revocations of a partition by id. There are as many as
// people have asked for and workers have not ended yet: few.
func (b *redisBroker) revoked(ctx context.Context, part int) ([]broker.PendingRevocation, error) {
	cmds := b.db.client.B()
	all, err := b.db.do(ctx, cmds.Hgetall().Key(b.db.tags[part]+":rev").Build()).AsStrMap()
	if err != nil || len(all) == 0 {
		return nil, unavailable(err)
	}
	ids := make([]string, 0, len(all))
	for id := range all {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	lines, err := b.db.do(ctx, cmds.Hmget().Key(b.db.tags[part]+":run").Field(ids...).Build()).ToArray()
	if err != nil {
		return nil, unavailable(err)
	}
	list := make([]broker.PendingRevocation, len(ids))
	for i, id := range ids {
		list[i] = pendingRevocation(id, all[id])
		list[i].Worker = workerOf(lines[i])
	}
	return list, nil
}

// workerOf is the worker that a run record names, or "".
func workerOf(m rueidis.RedisMessage) string {
	line, err := m.ToString()
	if err != nil {
		return ""
	}
	r, err := parseRun(line)
	if err != nil {
		return ""
	}
	return r.worker
}

// Holds implements broker.Owner.
func (b *redisBroker) Holds(ctx context.Context, ids ...string) ([]bool, error) {
	if err := b.check(ctx); err != nil {
		return nil, err
	}
	holds := make([]bool, len(ids))
	cmds := make(rueidis.Commands, len(ids))
	for i, id := range ids {
		cmds[i] = b.db.client.B().Getrange().Key(taskKey(b.db.tags[b.db.partition(id)], id)).Start(0).End(0).Build()
	}
	for i, r := range b.db.multi(ctx, cmds...) {
		kind, err := r.ToString()
		if err != nil {
			return nil, fmt.Errorf("look for tasks: %w", unavailable(err))
		}
		holds[i] = kind == string(rune(kindLive))
	}
	return holds, nil
}

// RevokedOf implements broker.RevocationTeller.
func (b *redisBroker) RevokedOf(ctx context.Context, rs ...broker.Receipt) ([]broker.Revoked, error) {
	if err := b.check(ctx); err != nil {
		return nil, err
	}
	cmds := make(rueidis.Commands, 0, 2*len(rs))
	for _, r := range rs {
		tag := b.db.tags[b.db.partition(r.ID)]
		cmds = append(cmds, b.db.client.B().Hget().Key(tag+":rev").Field(r.ID).Build(),
			b.db.client.B().Hget().Key(tag+":run").Field(r.ID).Build())
	}
	replies := b.db.multi(ctx, cmds...)
	var list []broker.Revoked
	for i, r := range rs {
		text, err := replies[2*i].ToString()
		line, err2 := replies[2*i+1].ToString()
		if rueidis.IsRedisNil(err) || rueidis.IsRedisNil(err2) {
			continue
		}
		if err = cmp.Or(err, err2); err != nil {
			return nil, fmt.Errorf("look for revocations: %w", unavailable(err))
		}
		if holder, err := parseRun(line); err == nil && holder.epoch == r.Epoch && holder.has(runHeld) {
			p := pendingRevocation(r.ID, text)
			list = append(list, broker.Revoked{Receipt: r, Terminate: p.Terminate, Reason: p.Reason})
		}
	}
	return list, nil
}

// pendingRevocation reads a field of the hash of revocations.
func pendingRevocation(id, text string) broker.PendingRevocation {
	words := strings.SplitN(text, " ", 3)
	p := broker.PendingRevocation{ID: id, Terminate: words[0] == "1", Reason: task.ReasonRevoked}
	var reason string
	if len(words) == 3 && json.Unmarshal([]byte(words[2]), &reason) == nil {
		p.Reason = reason
	}
	return p
}
