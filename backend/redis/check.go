package redis

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// findMost is how many violations Check lists.
const findMost = 20

// checkAgain is after how long Check looks a second time at what it found: keys
// are read one after the other, and what changes meanwhile looks wrong.
const checkAgain = 200 * time.Millisecond

// Check verifies the deployment's invariants: every task that has not ended is
// in one place, and what is in a place has its task; run records, leases, dead
// letters, claims, counters and the scheduler's keys agree. It returns one error
// that joins what it found, or nil. It reads all keys of the namespace, page by page, and reports
// only what it finds wrong twice.
func (db *DB) Check(ctx context.Context) error {
	if err := db.check(ctx); err != nil {
		return err
	}
	var found []string
	for p := range db.tags {
		once, err := db.checkPartition(ctx, p)
		if err != nil {
			return fmt.Errorf("check %s: %w", db.tags[p], err)
		}
		if len(once) == 0 {
			continue
		}
		select {
		case <-time.After(checkAgain):
		case <-ctx.Done():
			return ctx.Err()
		}
		twice, err := db.checkPartition(ctx, p)
		if err != nil {
			return fmt.Errorf("check %s: %w", db.tags[p], err)
		}
		for text := range once {
			if twice[text] {
				found = append(found, db.tags[p]+": "+text)
			}
		}
	}
	if len(found) == 0 {
		return nil
	}
	slices.Sort(found)
	var errs []error
	for _, text := range found[:min(len(found), findMost)] {
		errs = append(errs, errors.New(text))
	}
	return fmt.Errorf("check Redis: %d found: %w", len(found), errors.Join(errs...))
}

// picture is what one partition holds.
type picture struct {
	db    *DB
	tag   string
	found map[string]bool

	tasks  map[string]byte   // kind, by id
	runs   map[string]*run   // by id
	placed map[string]string // where an id is, of those that wait or are leased
	filled map[string]string // marks, by queue
	counts map[string]int64  // as the server has them
	leased map[string]int64  // counted, by queue
	dead   map[string]int64
	gone   map[string]int64 // entries of a queue's lists whose task is elsewhere
}

func (p *picture) wrong(format string, args ...any) { p.found[fmt.Sprintf(format, args...)] = true }

func (db *DB) checkPartition(ctx context.Context, partition int) (map[string]bool, error) {
	p := &picture{
		db: db, tag: db.tags[partition], found: make(map[string]bool), tasks: make(map[string]byte), runs: make(map[string]*run),
		placed: make(map[string]string), leased: make(map[string]int64), dead: make(map[string]int64), gone: make(map[string]int64),
	}
	keys, err := p.scan(ctx)
	if err != nil {
		return nil, err
	}
	for _, step := range []func(context.Context, map[string][]string) error{
		p.readTasks, p.readRuns, p.readLeases, p.readBack, p.readLines, p.readDelayed, p.readDead, p.readClaims, p.readSchedules,
	} {
		if err := step(ctx, keys); err != nil {
			return nil, err
		}
	}
	p.compare()
	return p.found, nil
}

// scan lists the partition's keys by kind: the word after the tag, or t.
func (p *picture) scan(ctx context.Context) (map[string][]string, error) {
	keys := make(map[string][]string)
	for _, node := range p.db.client.Nodes() {
		for cursor := uint64(0); ; {
			page, err := doAt(ctx, node, node.B().Scan().Cursor(cursor).Match(escapeGlob(p.tag)+"*").Count(1000).Build()).AsScanEntry()
			if err != nil {
				return nil, err
			}
			for _, key := range page.Elements {
				rest, other := strings.CutPrefix(key[len(p.tag):], ":")
				kind := "t"
				if other {
					kind, rest, _ = strings.Cut(rest, ":")
				}
				keys[kind] = append(keys[kind], rest)
			}
			if cursor = page.Cursor; cursor == 0 {
				break
			}
		}
	}
	for kind := range keys { // SCAN may show a key twice, and a replica shows it again
		slices.Sort(keys[kind])
		keys[kind] = slices.Compact(keys[kind])
	}
	return keys, nil
}

func escapeGlob(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

// readTasks reads what kind each task's value is of.
func (p *picture) readTasks(ctx context.Context, keys map[string][]string) error {
	for page := range slices.Chunk(keys["t"], 1000) {
		cmds := make(rueidis.Commands, len(page))
		for i, id := range page {
			cmds[i] = p.db.client.B().Getrange().Key(taskKey(p.tag, id)).Start(0).End(0).Build()
		}
		for i, r := range p.db.multi(ctx, cmds...) {
			kind, err := r.ToString()
			if err != nil {
				return unavailable(err)
			}
			if kind != "" {
				p.tasks[page[i]] = kind[0]
			}
		}
	}
	return nil
}

func (p *picture) readRuns(ctx context.Context, _ map[string][]string) error {
	all, err := p.db.do(ctx, p.db.client.B().Hgetall().Key(p.tag+":run").Build()).AsStrMap()
	if err != nil {
		return unavailable(err)
	}
	for id, line := range all {
		r, err := parseRun(line)
		if err != nil {
			p.wrong("the run record of %s is not readable", id)
			continue
		}
		p.runs[id] = r
	}
	if p.filled, err = p.db.do(ctx, p.db.client.B().Hgetall().Key(p.tag+":filled").Build()).AsStrMap(); err != nil {
		return unavailable(err)
	}
	if p.counts, err = p.db.do(ctx, p.db.client.B().Hgetall().Key(p.tag+":count").Build()).AsIntMap(); err != nil {
		return unavailable(err)
	}
	return nil
}

// members lists a sorted set.
func (p *picture) members(ctx context.Context, key string) ([]string, error) {
	list, err := p.db.do(ctx, p.db.client.B().Zrange().Key(p.tag+key).Min("0").Max("-1").Build()).AsStrSlice()
	return list, unavailable(err)
}

// place notes where a task is.
func (p *picture) place(id, where string) {
	if other, twice := p.placed[id]; twice {
		p.wrong("task %s is in two places: %s and %s", id, other, where)
	}
	p.placed[id] = where
	if p.tasks[id] != kindLive {
		p.wrong("task %s is %s, and there is no such task that waits or runs", id, where)
	}
}

func (p *picture) readLeases(ctx context.Context, _ map[string][]string) error {
	ids, err := p.members(ctx, ":lease")
	for _, id := range ids {
		if id == guard {
			continue
		}
		p.place(id, "leased")
		r := p.runs[id]
		if r == nil || !r.has(runHeld) || r.has(runLapsed) {
			p.wrong("task %s is leased, and its run record does not say so", id)
			continue
		}
		p.leased[r.queue]++
	}
	return err
}

// readBack reads the sets of those that came back.
func (p *picture) readBack(ctx context.Context, keys map[string][]string) error {
	for _, key := range keys["b"] {
		ids, err := p.members(ctx, ":b:"+key)
		if err != nil {
			return err
		}
		p.marked(key, len(ids), 'a')
		for _, id := range ids {
			p.place(id, "ready")
			if p.runs[id] == nil {
				p.wrong("task %s came back, and has no run record", id)
			}
		}
	}
	return nil
}

// marked checks that a queue's field of marks knows of a line.
func (p *picture) marked(key string, n int, first byte) {
	queue, priority, ok := cutLast(key)
	if !ok || len(priority) != 1 {
		p.wrong("key %s names no queue and priority", key)
		return
	}
	if mark := string(rune(first + priority[0] - '0')); n > 0 && !strings.Contains(p.filled[queue], mark) {
		p.wrong("queue %s has ready tasks of priority %s that its marks do not tell of", queue, priority)
	}
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// readLines reads the lists of ready tasks. An entry whose task is elsewhere, or
// gone, is allowed, and counted.
func (p *picture) readLines(ctx context.Context, keys map[string][]string) error {
	for _, key := range keys["q"] {
		ids, err := p.db.do(ctx, p.db.client.B().Lrange().Key(p.tag+":q:"+key).Start(0).Stop(-1).Build()).AsStrSlice()
		if err != nil {
			return unavailable(err)
		}
		p.marked(key, len(ids), '0')
		queue, _, _ := cutLast(key)
		for _, id := range ids {
			_, elsewhere := p.placed[id]
			if elsewhere || p.tasks[id] != kindLive {
				p.gone[queue]++
				continue
			}
			p.place(id, "ready")
		}
	}
	return nil
}

func (p *picture) readDelayed(ctx context.Context, keys map[string][]string) error {
	due, err := p.db.do(ctx, p.db.client.B().Zrange().Key(p.tag+":due").Min("0").Max("-1").Withscores().Build()).AsZScores()
	if err != nil {
		return unavailable(err)
	}
	first := make(map[string]int64)
	for _, z := range due {
		first[z.Member] = int64(z.Score)
	}
	for _, queue := range keys["d"] {
		list, err := p.db.do(ctx, p.db.client.B().Zrange().Key(p.tag+":d:"+queue).Min("0").Max("-1").Withscores().Build()).AsZScores()
		if err != nil {
			return unavailable(err)
		}
		if at, known := first[queue]; len(list) > 0 && (!known || at > int64(list[0].Score)) {
			p.wrong("queue %s has a delayed task that nobody looks for in time", queue)
		}
		for _, z := range list {
			_, id, _ := strings.Cut(z.Member, ":")
			p.place(id, "delayed")
		}
	}
	return nil
}

func (p *picture) readDead(ctx context.Context, _ map[string][]string) error {
	ids, err := p.members(ctx, ":dead")
	if err != nil {
		return err
	}
	listed := make(map[string]bool, len(ids))
	for page := range slices.Chunk(ids, 500) {
		entries, err := p.db.deadQueues(ctx, p.tag, page)
		if err != nil {
			return err
		}
		for i, id := range page {
			listed[id] = true
			if p.tasks[id] != kindDead {
				p.wrong("%s is listed as a dead letter, and is none", id)
				continue
			}
			p.dead[entries[i]]++
		}
	}
	for id, kind := range p.tasks {
		if kind == kindDead && !listed[id] {
			p.wrong("dead letter %s is not listed", id)
		}
	}
	return nil
}

// deadQueues reads the queue of each dead letter; "" for what is none.
func (db *DB) deadQueues(ctx context.Context, tag string, ids []string) ([]string, error) {
	queues := make([]string, len(ids))
	cmds := make(rueidis.Commands, len(ids))
	for i, id := range ids {
		cmds[i] = db.client.B().Get().Key(taskKey(tag, id)).Build()
	}
	for i, r := range db.multi(ctx, cmds...) {
		text, err := r.ToString()
		if rueidis.IsRedisNil(err) {
			continue
		}
		if err != nil {
			return nil, unavailable(err)
		}
		v, err := parseValue(text)
		if err != nil {
			continue
		}
		queues[i] = v.queue
		if v.run != nil {
			queues[i] = v.run.queue
		}
	}
	return queues, nil
}

// readClaims looks for claims without a time of their own whose task is gone.
func (p *picture) readClaims(ctx context.Context, keys map[string][]string) error {
	for page := range slices.Chunk(keys["claim"], 500) {
		cmds := make(rueidis.Commands, 0, 2*len(page))
		for _, key := range page {
			cmds = append(cmds, p.db.client.B().Get().Key(p.tag+":claim:"+key).Build(),
				p.db.client.B().Pttl().Key(p.tag+":claim:"+key).Build())
		}
		replies := p.db.multi(ctx, cmds...)
		for i, key := range page {
			id, err := replies[2*i].ToString()
			ttl, err2 := replies[2*i+1].AsInt64()
			if rueidis.IsRedisNil(err) {
				continue
			}
			if err != nil || err2 != nil {
				return unavailable(errors.Join(err, err2))
			}
			if ttl == -1 && p.db.tags[p.db.partition(id)] == p.tag && p.tasks[id] == 0 {
				p.wrong("claim %s is held by %s, which is gone", key, id)
			}
		}
	}
	return nil
}

// compare looks at what must agree.
func (p *picture) compare() {
	for id, kind := range p.tasks {
		if kind == kindLive && p.placed[id] == "" {
			p.wrong("task %s has not ended and is nowhere: nobody will run it", id)
		}
	}
	for id, r := range p.runs {
		if p.tasks[id] != kindLive {
			p.wrong("there is a run record of %s, and no such task", id)
		}
		if where := p.placed[id]; r.has(runHeld) && !r.has(runLapsed) && where != "leased" {
			p.wrong("task %s is held by its run record, and is %s", id, where)
		}
	}
	fields := make(map[string]bool)
	for field := range maps.Keys(p.counts) {
		fields[field] = true
	}
	for suffix, counted := range map[string]map[string]int64{":l": p.leased, ":x": p.dead, ":g": p.gone} {
		for queue := range counted {
			fields[queue+suffix] = true
		}
	}
	for field := range fields {
		queue, what := field[:len(field)-2], field[len(field)-2:]
		want := map[string]int64{":l": p.leased[queue], ":x": p.dead[queue], ":g": p.gone[queue]}[what]
		if p.counts[field] != want {
			p.wrong("counter %s says %s, and there are %d", field, strconv.FormatInt(p.counts[field], 10), want)
		}
	}
}
