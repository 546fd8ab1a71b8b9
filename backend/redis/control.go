package redis

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/rueidis"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
)

// How much is kept for who does not read (rule C4).
const (
	mostCommands = 256
	mostReplies  = 4096
)

// Control returns the channel to the workers of the deployment.
func (db *DB) Control() store.Control { return control{db} }

type control struct{ db *DB }

// told is a command on its way: its number, and the ms until which it may be
// delivered, by the server's clock.
type told struct {
	store.Command
	number, until int64
}

func parseTold(message string) (t told, ok bool) {
	words := strings.SplitN(message, " ", 3)
	if len(words) != 3 {
		return t, false
	}
	n := numbers{}
	t.number, t.until = n.int(words[0]), n.int(words[1])
	return t, n.err == nil && json.Unmarshal([]byte(words[2]), &t.Command) == nil
}

// Listen implements store.Control.
func (c control) Listen(ctx context.Context, worker string) (store.Commands, error) {
	l := &commands{stream: newStream[told](c.db), worker: worker}
	err := l.open(ctx, c.db.topic("control"), func(message string) {
		if t, ok := parseTold(message); ok && broker.Match(t.To, worker) {
			l.put(t, nil, mostCommands)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("listen to commands: %w", err)
	}
	// A command that is on its way already is from before.
	n, err := c.db.do(ctx, c.db.client.B().Get().Key(c.db.tags[0]+":told").Build()).AsInt64()
	if err != nil && !rueidis.IsRedisNil(err) {
		return nil, fmt.Errorf("listen to commands: %w", closeAfter(l, unavailable(err)))
	}
	l.after = n
	return l, nil
}

// closeAfter closes what an error leaves without an owner.
func closeAfter(c interface{ Close() error }, err error) error {
	if e := c.Close(); e != nil {
		return fmt.Errorf("%w (%w)", err, e)
	}
	return err
}

// commands is what one worker hears.
type commands struct {
	*stream[told]
	worker string
	after  int64 // the number of the last command that is not for it
}

// Next implements store.Commands. Commands are rare: each costs a look at the
// server's clock, so that who slept does not obey an old one.
func (l *commands) Next(ctx context.Context) (store.Command, error) {
	for {
		t, err := l.next(ctx, "wait for a command")
		if err != nil {
			return store.Command{}, err
		}
		if t.number <= l.after {
			continue
		}
		now, err := l.db.serverTime(ctx)
		if err != nil {
			return store.Command{}, fmt.Errorf("wait for a command: %w", err)
		}
		if now.UnixMilli() < t.until {
			return t.Command, nil
		}
	}
}

// Reply implements store.Commands.
func (l *commands) Reply(ctx context.Context, r store.Reply) error {
	if err := r.Check(); err != nil {
		return fmt.Errorf("reply: %w", err)
	}
	if err := l.check(ctx); err != nil {
		return fmt.Errorf("reply: %w", err)
	}
	r.Worker = l.worker
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("reply: %w", err)
	}
	cmd := l.db.client.B().Publish().Channel(l.db.replies(r.Command)).Message(rueidis.BinaryString(data)).Build()
	if err := failed(l.db.do(ctx, cmd)); err != nil {
		return fmt.Errorf("reply: %w", unavailable(err))
	}
	return nil
}

// replies is the channel of the answers to a command.
func (db *DB) replies(command string) string { return db.topic("replies") + ":" + command }

// Ask implements store.Control.
func (c control) Ask(ctx context.Context, cmd store.Command) (store.Replies, error) {
	if err := cmd.Check(); err != nil {
		return nil, fmt.Errorf("ask: %w", err)
	}
	data, err := json.Marshal(cmd)
	if err != nil {
		return nil, fmt.Errorf("ask: %w", err)
	}
	r := &replies{newStream[store.Reply](c.db)}
	err = r.open(ctx, c.db.replies(cmd.ID), func(message string) {
		var answer store.Reply
		if json.Unmarshal([]byte(message), &answer) == nil && answer.Command == cmd.ID {
			r.put(answer, nil, mostReplies)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("ask: %w", err)
	}
	_, err = c.db.run(ctx, c.db.scripts.tell, 0, []string{
		c.db.topic("control"), strconv.FormatInt(max(cmd.For.Milliseconds(), 1), 10), string(data),
	})
	if err != nil {
		return nil, fmt.Errorf("ask: %w", closeAfter(r, err))
	}
	return r, nil
}

// replies is the stream of replies to one command.
type replies struct{ *stream[store.Reply] }

// Next implements store.Replies.
func (r *replies) Next(ctx context.Context) (store.Reply, error) {
	return r.next(ctx, "wait for a reply")
}
