package redis

import (
	"context"
	"errors"
	"strings"

	"github.com/redis/rueidis"
)

// reply is what a command brought that is no script: an answer, or why there is
// none. Its errors are as unavailable makes them, but for that of a key which is
// not there (rueidis.IsRedisNil).
type reply struct {
	message rueidis.RedisMessage
	err     error
}

type message = rueidis.RedisMessage

// as reads a reply's message.
func as[T any](r reply, read func(*message) (T, error)) (value T, err error) {
	if r.err != nil {
		return value, r.err
	}
	value, err = read(&r.message)
	if rueidis.IsRedisNil(err) {
		return value, err
	}
	return value, unavailable(err)
}

func (r reply) ToString() (string, error)               { return as(r, (*message).ToString) }
func (r reply) ToArray() ([]message, error)             { return as(r, (*message).ToArray) }
func (r reply) AsBool() (bool, error)                   { return as(r, (*message).AsBool) }
func (r reply) AsInt64() (int64, error)                 { return as(r, (*message).AsInt64) }
func (r reply) AsIntSlice() ([]int64, error)            { return as(r, (*message).AsIntSlice) }
func (r reply) AsIntMap() (map[string]int64, error)     { return as(r, (*message).AsIntMap) }
func (r reply) AsStrSlice() ([]string, error)           { return as(r, (*message).AsStrSlice) }
func (r reply) AsStrMap() (map[string]string, error)    { return as(r, (*message).AsStrMap) }
func (r reply) AsZScores() ([]rueidis.ZScore, error)    { return as(r, (*message).AsZScores) }
func (r reply) AsScanEntry() (rueidis.ScanEntry, error) { return as(r, (*message).AsScanEntry) }

// do runs one command, which ends in time as a script does (see bounded).
func (db *DB) do(ctx context.Context, c rueidis.Completed) reply { return doAt(ctx, db.client, c) }

// doAt is do at one of a Cluster's nodes.
func doAt(ctx context.Context, node rueidis.Client, c rueidis.Completed) reply {
	caller := ctx
	ctx, cancel := bounded(ctx)
	defer cancel()
	key := keyOf(c)
	r := node.Do(ctx, c)
	if errors.Is(r.Error(), errGone) {
		r = node.Do(ctx, c) // which dials again
	}
	return replyOf(caller, key, r)
}

// multi runs commands side by side, and returns a reply for each. All of them
// together end in time.
func (db *DB) multi(ctx context.Context, cmds ...rueidis.Completed) []reply {
	caller := ctx
	ctx, cancel := bounded(ctx)
	defer cancel()
	keys := make([]string, len(cmds))
	for i, c := range cmds {
		keys[i] = keyOf(c)
	}
	replies := make([]reply, len(cmds))
	for i, r := range db.sideBySide(ctx, cmds...) {
		replies[i] = replyOf(caller, keys[i], r)
	}
	return replies
}

// keyOf is the key that a command reads or writes, as far as it has one. The
// client uses a command's memory again once it was sent.
func keyOf(c rueidis.Completed) string {
	if words := c.Commands(); len(words) > 1 {
		return strings.Clone(words[1])
	}
	return ""
}

func replyOf(caller context.Context, key string, r rueidis.RedisResult) reply {
	m, err := r.ToMessage()
	switch {
	case err == nil || rueidis.IsRedisNil(err):
	case isWrongType(err):
		err = wrongType(key, err)
	default:
		err = ownDeadline(caller, err)
	}
	return reply{m, err}
}

// failed returns the first error of replies that have nothing to read.
func failed(replies ...reply) error {
	for _, r := range replies {
		if r.err != nil {
			return r.err
		}
	}
	return nil
}
