package redis

import (
	"context"
	"crypto/sha1" //nolint:gosec // EVALSHA's own
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/stemjobs/stem/broker"
)

//go:embed lua
var luaFiles embed.FS

// script is one script, of which the hash is what is sent: its text is put together
// when a server does not know it.
type script struct {
	name, sha string
	files     []string
	reads     bool // it writes nothing: no replica need have it
}

// scripts are all of them, and which files each consists of.
type scripts struct {
	publish, plain, exchange, close, revoke, purge, queues, get, watch, claims, outbox, sweep *script
	lock, apply, due, fire, finish                                                            *script

	deadlist, deadreplay, deadpurge, deadimport *script

	getrecords, setrecords, delete *script

	limit, pause, beat, beats, memo, tell, audit, audits, types, once, mend *script
}

func loadScripts() (scripts, error) {
	var s scripts
	for _, part := range []struct {
		to    **script
		files []string
	}{
		{&s.publish, []string{"common", "publish"}},
		{&s.plain, []string{"plain"}},
		{&s.exchange, []string{"common", "settle", "receive", "wait", "exchange"}},
		{&s.close, []string{"common", "close"}},
		{&s.revoke, []string{"common", "revoke"}},
		{&s.purge, []string{"common", "purge"}},
		{&s.queues, []string{"common", "queues"}},
		{&s.get, []string{"common", "get"}},
		{&s.watch, []string{"common", "watch"}},
		{&s.claims, []string{"common", "claims"}},
		{&s.sweep, []string{"common", "sweep"}},
		{&s.outbox, []string{"common", "outbox"}},
		{&s.lock, []string{"common", "schedule", "lock"}},
		{&s.apply, []string{"common", "schedule", "apply"}},
		{&s.due, []string{"common", "schedule", "due"}},
		{&s.fire, []string{"common", "schedule", "fire"}},
		{&s.finish, []string{"common", "schedule", "finish"}},
		{&s.deadlist, []string{"common", "deadlist"}},
		{&s.deadreplay, []string{"common", "dead", "deadreplay"}},
		{&s.deadpurge, []string{"common", "dead", "deadpurge"}},
		{&s.deadimport, []string{"common", "deadimport"}},
		{&s.getrecords, []string{"common", "getrecords"}},
		{&s.setrecords, []string{"common", "setrecords"}},
		{&s.delete, []string{"common", "dead", "delete"}},
		{&s.limit, []string{"common", "limit"}},
		{&s.pause, []string{"common", "pause"}},
		{&s.beat, []string{"begin", "beat"}},
		{&s.beats, []string{"begin", "beats"}},
		{&s.memo, []string{"common", "memo"}},
		{&s.tell, []string{"common", "tell"}},
		{&s.audit, []string{"common", "audit"}},
		{&s.audits, []string{"common", "audits"}},
		{&s.types, []string{"types"}},
		{&s.once, []string{"once"}},
		{&s.mend, []string{"common", "mend"}},
	} {
		loaded, err := loadScript(part.files...)
		if err != nil {
			return s, err
		}
		*part.to = loaded
	}
	for _, r := range []*script{s.get, s.queues, s.due, s.deadlist, s.getrecords, s.beats, s.audits, s.types} {
		r.reads = true
	}
	return s, nil
}

// loadScript puts a script together once.
func loadScript(files ...string) (*script, error) {
	s := &script{name: files[len(files)-1], files: files}
	text, err := s.source()
	if err != nil {
		return nil, err
	}
	sum := sha1.Sum([]byte(text)) //nolint:gosec // EVALSHA's own
	s.sha = hex.EncodeToString(sum[:])
	return s, nil
}

// source is the script's text. Lines of comment stay behind: the server keeps and
// compiles what it is sent.
func (s *script) source() (string, error) {
	var b strings.Builder
	for _, name := range s.files {
		text, err := luaFiles.ReadFile("lua/" + name + ".lua")
		if err == nil {
			err = appendLua(&b, string(text))
		}
		if err != nil {
			return "", fmt.Errorf("put script %s together: %w", s.name, err)
		}
	}
	return b.String(), nil
}

// appendLua appends a file without its comments. "-- include NAME" stands for
// another file.
func appendLua(b *strings.Builder, text string) error {
	for line := range strings.Lines(text) {
		t := strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(t, "-- include "); ok {
			other, err := luaFiles.ReadFile("lua/" + name + ".lua")
			if err != nil {
				return err
			}
			if err := appendLua(b, string(other)); err != nil {
				return err
			}
		}
		if t != "" && !strings.HasPrefix(t, "--") {
			b.WriteString(t + "\n")
		}
	}
	return nil
}

// call is one script to run in one partition.
type call struct {
	script    *script
	partition int
	args      []string
}

// run runs one script.
func (db *DB) run(ctx context.Context, s *script, partition int, args []string) (rueidis.RedisMessage, error) {
	caller := ctx
	ctx, cancel := bounded(ctx)
	defer cancel()
	err := db.sound(ctx, partition)
	var m rueidis.RedisMessage
	if err == nil {
		m, err = db.evaluate(ctx, &call{s, partition, args})
	}
	if err != nil {
		return m, fmt.Errorf("script %s: %w", s.name, ownDeadline(caller, db.met(ctx, partition, err)))
	}
	return m, nil
}

// evaluate runs one script by its hash, and sends it where it is not known.
func (db *DB) evaluate(ctx context.Context, c *call) (rueidis.RedisMessage, error) {
	m, err := db.send(ctx, db.evalsha(c), c.script)
	for n := 0; n <= laneCount && errors.Is(err, errGone); n++ {
		m, err = db.send(ctx, db.evalsha(c), c.script) // over another connection, or a new one
	}
	if !noScript(err) {
		return m, err
	}
	text, err := c.script.source()
	if err != nil {
		return m, err
	}
	return db.send(ctx, db.eval(c, text), c.script)
}

// callTimeout bounds a call whose caller sets no bound.
const callTimeout = 10 * time.Second

// bounded gives a context a deadline. A call with one is written and read by the
// goroutine that makes it, where it is alone on its connection; without one, the
// client starts two goroutines for the connection, and each call goes through
// both: half as much work again, and half as much time.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, callTimeout)
}

// ownDeadline is unavailable for a call that may have ended by a deadline of ours,
// which it has if its caller's context has none. The client keeps a caller's by a
// clock of its own, and may be a moment ahead of the context.
func ownDeadline(caller context.Context, err error) error {
	if _, theirs := caller.Deadline(); !theirs && errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: no answer within %s", broker.ErrUnavailable, callTimeout)
	}
	return unavailable(err)
}

// send sends one command, and where that is asked for waits on the same
// connection until the replicas have what it wrote.
func (db *DB) send(ctx context.Context, c rueidis.Completed, s *script) (rueidis.RedisMessage, error) {
	want := int64(db.config.WaitReplicas)
	if want == 0 || s.reads {
		return db.alone(ctx, c).ToMessage()
	}
	wait := db.client.B().Wait().Numreplicas(want).Timeout(replicaTimeout.Milliseconds()).Build()
	answers := db.together(ctx, c, wait)
	m, err := answers[0].ToMessage()
	if err != nil {
		return m, err
	}
	n, err := answers[1].AsInt64()
	if err == nil && n < want {
		err = fmt.Errorf("%d replicas had it within %s, want %d", n, replicaTimeout, want)
	}
	return m, err
}

// laneCount is how many calls of a process may have a connection of their own at
// once: one that stores, two that exchange.
const laneCount = 3

// alone sends one command over a connection that no other call uses meanwhile.
// What is sent over a connection that several use is written and read by two
// goroutines of the client, from the first time that two calls meet there: that
// is half as much work again for each, and four switches between threads. More
// calls than there are lanes share such a connection.
func (db *DB) alone(ctx context.Context, c rueidis.Completed) rueidis.RedisResult {
	if db.config.Cluster {
		return db.client.Do(ctx, c) // which follows a slot that has moved
	}
	select {
	case db.lanes <- struct{}{}:
	default:
		return db.client.Do(ctx, c)
	}
	l, ok := db.dedicate(ctx)
	if !ok {
		return rueidis.NewErrorResult(ctx.Err())
	}
	answered := false
	defer func() {
		l.release()
		if answered {
			db.rested.Add(1)
		}
		<-db.lanes
	}()
	r := l.client.Do(ctx, c)
	answered = r.NonRedisError() == nil
	return r
}

// dedicated is a connection that one call has for itself.
type dedicated struct {
	client  rueidis.DedicatedClient
	release func()
}

// dedicate takes a connection for the caller's lane. The client takes one that rests,
// or dials, and does not stop when ctx ends: so where none is known to rest, another
// goroutine waits for it. If ctx ends first, the lane is given back when it came;
// Close waits for that.
func (db *DB) dedicate(ctx context.Context) (l dedicated, ok bool) {
	if db.rested.Add(-1) >= 0 {
		l.client, l.release = db.client.Dedicate()
		return l, true
	}
	db.rested.Add(1)
	ready := make(chan dedicated)
	go func() {
		var l dedicated
		l.client, l.release = db.client.Dedicate()
		select {
		case ready <- l:
		case <-ctx.Done():
			l.release()
			<-db.lanes
		}
	}()
	select {
	case l = <-ready:
		return l, true
	case <-ctx.Done():
		return l, false
	}
}

// together sends commands over one connection. On a Cluster none of them is sent
// again to another server, where the others would not follow.
func (db *DB) together(ctx context.Context, cmds ...rueidis.Completed) []rueidis.RedisResult {
	if !db.config.Cluster {
		return db.client.DoMulti(ctx, cmds...)
	}
	c, release := db.client.Dedicate()
	defer release()
	return c.DoMulti(ctx, cmds...)
}

// sideBySide sends commands, and returns an answer for each. On a Cluster
// each goes its own way: of several that meet a slot which is being moved, the
// client mixes up the answers, and panics.
func (db *DB) sideBySide(ctx context.Context, cmds ...rueidis.Completed) []rueidis.RedisResult {
	if !db.config.Cluster || len(cmds) == 0 {
		return db.client.DoMulti(ctx, cmds...)
	}
	answers := make([]rueidis.RedisResult, len(cmds))
	var others sync.WaitGroup
	for i := range cmds[1:] {
		others.Go(func() { answers[1+i] = db.client.Do(ctx, cmds[1+i]) })
	}
	answers[0] = db.client.Do(ctx, cmds[0])
	others.Wait()
	return answers
}

// replicaTimeout bounds the wait for replicas.
const replicaTimeout = 5 * time.Second

// runAll runs scripts side by side, and returns an answer or an error for each.
func (db *DB) runAll(ctx context.Context, calls []call) ([]rueidis.RedisMessage, []error) {
	msgs, errs := make([]rueidis.RedisMessage, len(calls)), make([]error, len(calls))
	if len(calls) == 1 || db.config.WaitReplicas > 0 {
		for i := range calls {
			msgs[i], errs[i] = db.run(ctx, calls[i].script, calls[i].partition, calls[i].args)
		}
		return msgs, errs
	}
	caller := ctx
	ctx, cancel := bounded(ctx)
	defer cancel()
	cmds, of := make(rueidis.Commands, 0, len(calls)), make([]int, 0, len(calls))
	for i := range calls {
		if errs[i] = db.sound(ctx, calls[i].partition); errs[i] == nil {
			cmds, of = append(cmds, db.evalsha(&calls[i])), append(of, i)
		}
	}
	for k, r := range db.sideBySide(ctx, cmds...) {
		i := of[k]
		if msgs[i], errs[i] = r.ToMessage(); noScript(errs[i]) || errors.Is(errs[i], errGone) {
			msgs[i], errs[i] = db.evaluate(ctx, &calls[i])
		}
		errs[i] = db.met(ctx, calls[i].partition, errs[i])
	}
	for i, err := range errs {
		if err != nil {
			errs[i] = fmt.Errorf("script %s: %w", calls[i].script.name, ownDeadline(caller, err))
		}
	}
	return msgs, errs
}

func (db *DB) evalsha(c *call) rueidis.Completed {
	keys := db.keys[c.partition]
	return db.client.B().Evalsha().Sha1(c.script.sha).Numkeys(int64(len(keys))).Key(keys...).Arg(c.args...).Build()
}

func (db *DB) eval(c *call, text string) rueidis.Completed {
	keys := db.keys[c.partition]
	return db.client.B().Eval().Script(text).Numkeys(int64(len(keys))).Key(keys...).Arg(c.args...).Build()
}

// keysOf are what a script is said to use: the tag, from which it makes the names
// of its keys. On a Cluster they are two that never exist. So no server runs a
// script while the slot is being moved, when it would see some of the keys and miss
// the others: the one it moves from sends it on, since the keys are not there, and
// the one it moves to answers TRYAGAIN, since several are asked for and are not all
// there.
func (db *DB) keysOf(tag string) []string {
	if !db.config.Cluster {
		return []string{tag}
	}
	return []string{tag, tag + ":never"}
}

func noScript(err error) bool {
	e, ok := rueidis.IsRedisErr(err)
	return ok && e.IsNoScript()
}
