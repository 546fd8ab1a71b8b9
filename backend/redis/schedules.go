package redis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// Schedules returns the scheduler's entries. Those of a deployment with one
// partition fire into its own brokers in the step that claims
// (store.FiresInto); with several a task may lie in another slot than its
// entry, and its firing is pending until it is published.
func (db *DB) Schedules() store.Schedules { return &schedules{db: db} }

type schedules struct {
	db *DB

	hears sync.Once

	mu     sync.Mutex
	passed map[string]bool // what cannot be read, of which the log has said so
}

// FiresInto implements store.FiresInto: true for the brokers of the same
// servers, logical database and namespace, also when they were opened apart.
func (s *schedules) FiresInto(b broker.Broker) bool {
	own, ok := b.(*redisBroker)
	return ok && len(s.db.tags) == 1 && own.AtomicWith(&results{db: s.db})
}

// scanEntry reads the fields of an entry's hash.
func scanEntry(id string, f map[string]string) (e store.Schedule, err error) {
	n := numbers{}
	e = store.Schedule{
		ID: id, Version: n.int(f["version"]), UpdatedAt: happened(n.int(f["updated"])), Definition: json.RawMessage(f["definition"]),
		NextDue: moment(n.int(f["next_due"])), NextAt: moment(n.int(f["next_at"])),
		LastDue: moment(n.int(f["last_due"])), LastFired: happened(n.int(f["last_fired"])),
		LastTask: f["last_task"], LastError: f["last_error"], Jitter: time.Duration(n.int(f["jitter"])),
		Fired: n.int(f["fired"]), Misfired: n.int(f["misfired"]),
	}
	if !e.LastFired.IsZero() {
		e.Drift = e.LastFired.Sub(e.LastDue.Add(e.Jitter))
	}
	if n.err != nil {
		return e, fmt.Errorf("read schedule %s: %w", id, n.err)
	}
	return e, nil
}

// happened is the time of microseconds; 0: none.
func happened(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}

// noTask stands for none in a line of the history.
const noTask = "~"

// parseFiring reads a line of the history.
func parseFiring(id, line string) (r store.FireRecord, err error) {
	w := strings.SplitN(line, " ", 8)
	if len(w) != 8 {
		return r, fmt.Errorf("read the history of schedule %s: %w", id, errForeign)
	}
	n := numbers{}
	r = store.FireRecord{
		ID: id, Due: moment(n.int(w[0])), Fired: happened(n.int(w[1])), Outcome: store.FireOutcome(w[2]),
		Jitter: time.Duration(n.int(w[3])), Missed: int(n.int(w[4])), Beat: unescape(w[5]), Task: w[6], Error: w[7],
	}
	if r.Task == noTask {
		r.Task = ""
	}
	r.Drift = r.Fired.Sub(r.Due.Add(r.Jitter))
	if n.err != nil {
		return r, fmt.Errorf("read the history of schedule %s: %w", id, n.err)
	}
	return r, nil
}

// firingWords are the words of a history's line that the firing itself says.
func firingWords(jitter time.Duration, missed int, beat string) string {
	return fmt.Sprintf("%d %d %s", int64(jitter), missed, escape(beat))
}

func taskWord(id string) string {
	if id == "" {
		return noTask
	}
	return id
}

// Apply implements store.Schedules.
func (s *schedules) Apply(ctx context.Context, changes []store.ScheduleChange) ([]store.Schedule, error) {
	if err := store.CheckChanges(changes); err != nil {
		return nil, fmt.Errorf("apply schedules: %w", err)
	}
	if err := s.db.check(ctx); err != nil || len(changes) == 0 {
		return nil, err
	}
	var args []string
	for i := range changes {
		args = append(args, changeArgs(&changes[i])...)
	}
	m, err := s.db.run(ctx, s.db.scripts.apply, 0, args)
	if err != nil {
		return nil, fmt.Errorf("apply schedules: %w", err)
	}
	list, err := applied(m, changes)
	if err != nil {
		return nil, fmt.Errorf("apply schedules: %w", err)
	}
	return list, nil
}

func changeArgs(c *store.ScheduleChange) []string {
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	args := []string{
		c.ID, "s", number(c.Version), number(millis(c.LastDue)), number(millis(c.NextDue)), number(millis(c.NextAt)),
		string(c.Definition), "", "",
	}
	if c.Delete {
		args[1] = "d"
	}
	if r := c.Record; r != nil {
		by := r.ByHand(c.ID, time.Now())
		if !r.Due.IsZero() {
			args[7] = number(millis(by.Due))
		}
		args[8] = strings.Join([]string{string(by.Outcome), firingWords(by.Jitter, by.Missed, by.Beat), taskWord(by.Task), by.Error}, " ")
	}
	return args
}

// applied reads what lua/apply.lua answers.
func applied(m rueidis.RedisMessage, changes []store.ScheduleChange) ([]store.Schedule, error) {
	reply, err := m.ToArray()
	if err != nil || len(reply) < 1 {
		return nil, fmt.Errorf("%w (%w)", errForeign, err)
	}
	word, err := reply[0].ToString()
	if err != nil {
		return nil, err
	}
	if word == "ok" && len(reply) == 1+len(changes) {
		list := make([]store.Schedule, len(changes))
		for i := range list {
			fields, err := reply[1+i].AsStrMap()
			if err != nil {
				return nil, err
			}
			if list[i], err = scanEntry(changes[i].ID, fields); err != nil {
				return nil, err
			}
		}
		return list, nil
	}
	var n [2]int64
	for i := range min(len(reply)-1, len(n)) {
		if n[i], err = reply[1+i].AsInt64(); err != nil {
			return nil, err
		}
	}
	if n[0] < 0 || n[0] >= int64(len(changes)) {
		return nil, errForeign
	}
	c := &changes[n[0]]
	if word == "v" {
		return nil, &store.ConflictError{ID: c.ID, Have: n[1], Want: c.Version}
	}
	return nil, fmt.Errorf("schedule %s: %w", c.ID, store.ErrNoSchedule)
}

func (s *schedules) key(name string) string { return s.db.tags[0] + ":" + name }

// Get implements store.Schedules.
func (s *schedules) Get(ctx context.Context, ids ...string) ([]store.FoundSchedule, error) {
	if err := s.db.check(ctx); err != nil {
		return nil, err
	}
	cmds := make(rueidis.Commands, len(ids))
	for i, id := range ids {
		cmds[i] = s.db.client.B().Hgetall().Key(s.key("entry:" + id)).Build()
	}
	found := make([]store.FoundSchedule, len(ids))
	for i, r := range s.db.multi(ctx, cmds...) {
		fields, err := r.AsStrMap()
		if err != nil {
			return nil, fmt.Errorf("get schedules: %w", unavailable(err))
		}
		if len(fields) == 0 {
			found[i].Err = store.ErrNoSchedule
		} else if found[i].Schedule, err = scanEntry(ids[i], fields); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// List implements store.Schedules.
func (s *schedules) List(ctx context.Context, p broker.Page) ([]store.Schedule, string, error) {
	if err := s.db.check(ctx); err != nil {
		return nil, "", err
	}
	from, size := "-", p.Size()
	if p.Cursor != "" {
		from = "(" + p.Cursor
	}
	cmd := s.db.client.B().Zrangebylex().Key(s.key("entries")).Min(from).Max("+").Limit(0, int64(size)+1).Build()
	ids, err := s.db.do(ctx, cmd).AsStrSlice()
	if err != nil {
		return nil, "", fmt.Errorf("list schedules: %w", unavailable(err))
	}
	next := ""
	if len(ids) > size {
		ids, next = ids[:size], ids[size-1]
	}
	found, err := s.Get(ctx, ids...)
	if err != nil {
		return nil, "", fmt.Errorf("list schedules: %w", err)
	}
	list := make([]store.Schedule, 0, len(found))
	for _, f := range found {
		if f.Err == nil { // not deleted meanwhile
			list = append(list, f.Schedule)
		}
	}
	return list, next, nil
}

// History implements store.Schedules.
func (s *schedules) History(ctx context.Context, id string, limit int) ([]store.FireRecord, error) {
	if err := s.db.check(ctx); err != nil {
		return nil, err
	}
	if limit <= 0 || limit > store.MaxHistory {
		limit = store.MaxHistory
	}
	b := s.db.client.B()
	r := s.db.multi(ctx,
		b.Exists().Key(s.key("entry:"+id)).Build(),
		b.Lrange().Key(s.key("history:"+id)).Start(0).Stop(int64(limit)-1).Build(),
	)
	there, err1 := r[0].AsBool()
	lines, err2 := r[1].AsStrSlice()
	switch err := errors.Join(err1, err2); {
	case err != nil:
		return nil, fmt.Errorf("history of schedule %s: %w", id, unavailable(err))
	case !there:
		return nil, fmt.Errorf("history of schedule %s: %w", id, store.ErrNoSchedule)
	}
	list := make([]store.FireRecord, len(lines))
	for i, line := range lines {
		var err error
		if list[i], err = parseFiring(id, line); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// dueMost is how many entries one script returns, whatever the limit.
const dueMost = 5000

// Due implements store.Schedules.
func (s *schedules) Due(ctx context.Context, limit int, ahead time.Duration) (store.Due, error) {
	if err := s.db.check(ctx); err != nil {
		return store.Due{}, err
	}
	if limit <= 0 {
		limit = store.DueLimit
	}
	m, err := s.db.run(ctx, s.db.scripts.due, 0, []string{strconv.Itoa(min(limit, dueMost)), strconv.FormatInt(max(ahead, 0).Milliseconds(), 10)})
	if err != nil {
		return store.Due{}, fmt.Errorf("look for due schedules: %w", err)
	}
	d, err := s.parseDue(m, max(ahead, 0).Truncate(time.Millisecond))
	if err != nil {
		return store.Due{}, fmt.Errorf("look for due schedules: %w", err)
	}
	return d, nil
}

// parseDue reads what lua/due.lua answers. An entry, or a firing that is pending,
// that cannot be read must not keep the others from firing: it is passed over.
func (s *schedules) parseDue(m rueidis.RedisMessage, ahead time.Duration) (d store.Due, err error) {
	reply, err := m.ToArray()
	if err != nil || len(reply) != 5 {
		return d, fmt.Errorf("%w (%w)", errForeign, err)
	}
	var n [3]int64
	for i := range n {
		text, err := reply[i].ToString()
		if err == nil {
			n[i], err = strconv.ParseInt(text, 10, 64)
		}
		if err != nil {
			return d, fmt.Errorf("%w (%w)", errForeign, err)
		}
	}
	d.Now, d.Changes = happened(n[0]), n[1]
	if n[2] > 0 {
		next := moment(n[2])
		d.More, d.Next = !next.After(d.Now.Add(ahead)), max(next.Sub(d.Now), 1)
	}
	entries, err1 := reply[3].ToArray()
	pending, err2 := reply[4].AsStrSlice()
	if err := errors.Join(err1, err2); err != nil {
		return d, err
	}
	for i := 0; i+1 < len(entries); i += 2 {
		id, err1 := entries[i].ToString()
		fields, err2 := entries[i+1].AsStrMap()
		if err := errors.Join(err1, err2); err != nil {
			return d, err
		}
		e, err := scanEntry(id, fields)
		if key := fields["foreign"]; key != "" {
			err = wrongType(key, nil)
		}
		if err == nil {
			d.Entries = append(d.Entries, e)
		} else {
			s.passOver("entry "+id, err)
		}
	}
	for _, text := range pending {
		if w, err := parsePending(text); err == nil {
			d.Pending = append(d.Pending, w)
		} else {
			s.passOver(text, err)
		}
	}
	return d, nil
}

// passOver says once in the log that something cannot be read.
func (s *schedules) passOver(what string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.passed[what] {
		return
	}
	if s.passed == nil {
		s.passed = make(map[string]bool)
	}
	s.passed[what] = true
	s.db.log.Error("what the scheduler keeps cannot be read and is passed over; see the store's check", "what", fmt.Sprintf("%.200q", what), "error", err)
}

// parsePending reads a firing that is pending: "ID LINE", the publication without
// its envelope, and the envelope.
func parsePending(text string) (w store.Pending, err error) {
	line, rest, ok1 := strings.Cut(text, "\n")
	id, line, ok2 := strings.Cut(line, " ")
	publication, envelope, ok3 := strings.Cut(rest, "\n")
	if !ok1 || !ok2 || !ok3 {
		return w, fmt.Errorf("read a pending firing: %w", errForeign)
	}
	if w.Record, err = parseFiring(id, line); err == nil {
		err = json.Unmarshal([]byte(publication), &w.Publication)
	}
	if err == nil {
		w.Publication.Envelope, err = task.Decode([]byte(envelope))
	}
	if err != nil {
		return w, fmt.Errorf("read a pending firing of schedule %s: %w", id, err)
	}
	return w, nil
}

// lookEvery is how often who waits looks by himself: a message may be lost. Who
// calls Wait more often than that wakes for nothing else.
const lookEvery = 2 * time.Second

// Wait implements store.Schedules. It hears of changes by the subscription of the
// process, and looks at their number when it begins and now and then besides.
func (s *schedules) Wait(ctx context.Context, since int64, atMost time.Duration) error {
	if err := s.db.check(ctx); err != nil || atMost <= 0 {
		return err
	}
	s.hears.Do(func() { _, _ = s.db.hub.watch("") }) // as long as the DB is open: the server is told once; see lua/apply.lua
	changed, _ := s.db.hub.addWatch("")
	defer s.db.hub.unwatch("", changed)
	end := time.Now().Add(atMost)
	timer := time.NewTimer(min(atMost, lookEvery))
	defer timer.Stop()
	for {
		changes, err := s.changes(ctx)
		if err != nil {
			return fmt.Errorf("wait for schedules: %w", err)
		}
		if changes != since {
			return nil
		}
		select {
		case <-changed:
		case <-timer.C:
			left := time.Until(end)
			if left <= 0 {
				return nil
			}
			timer.Reset(min(left, lookEvery))
		case <-ctx.Done():
			return ctx.Err()
		case <-s.db.closed:
			return broker.ErrClosed
		}
	}
}

func (s *schedules) changes(ctx context.Context) (int64, error) {
	n, err := s.db.do(ctx, s.db.client.B().Hget().Key(s.key("schedules")).Field("changes").Build()).AsInt64()
	if rueidis.IsRedisNil(err) {
		return 0, nil
	}
	return n, unavailable(err)
}
