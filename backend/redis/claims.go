package redis

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/rueidis"

	"github.com/stemjobs/stem/broker"
)

// farClaim is a claim in a deployment of several partitions, where its key and
// its task may lie apart. It is taken before the task is stored, in whose step is noted
// that it is to be kept, and dropped again if the task is not stored. See
// lua/claims.lua.
type farClaim struct {
	item int // of the batch
	key  string
	id   string
	ms   int64
	by   int64 // ms until which the task may be stored; 0: there is no hurry
	mine bool  // it was new
	own  bool  // the task had it already
}

// timed is 0 for a claim without a time of its own.
func (f *farClaim) timed() string { return strconv.FormatInt(min(f.ms, 1), 10) }

// farClaims lists the claims of the items that are not decided yet; none where
// there is one partition, which has all in one step.
func (db *DB) farClaims(batch []broker.Publication, out []broker.Outcome) (far []farClaim) {
	if len(db.tags) == 1 {
		return nil
	}
	for i := range batch {
		if out[i].State != 0 {
			continue
		}
		id := batch[i].Envelope.ID
		for _, c := range batch[i].Claims {
			far = append(far, farClaim{item: i, key: c.Key, id: id, ms: ceilMillis(c.For)})
		}
	}
	return far
}

// takeFar takes far claims, and decides the items that have one that is held.
func (db *DB) takeFar(ctx context.Context, far []farClaim, out []broker.Outcome) error {
	words, err := db.claims(ctx, "take", far)
	if err != nil {
		return err
	}
	for i := range far {
		f := &far[i]
		kind, rest, _ := strings.Cut(words[i], " ")
		holder, _, _ := strings.Cut(rest, " ")
		if kind == "u" && !db.known(ctx, holder) {
			// Its holder's status is gone, and with it the claim; or it was never stored.
			if kind, rest, err = db.takeOver(ctx, *f, rest); err != nil {
				return err
			}
			holder, _, _ = strings.Cut(rest, " ")
		}
		switch kind {
		case "n", "o":
			f.mine, f.own = kind == "n", kind == "o"
			if f.by, err = strconv.ParseInt(rest, 10, 64); err != nil {
				return fmt.Errorf("%w (%w)", errForeign, err)
			}
		case "d", "u":
			if out[f.item].State == 0 {
				out[f.item] = broker.Outcome{State: broker.Duplicate, ExistingID: holder}
			}
		case "f":
			out[f.item] = broker.Outcome{State: broker.Refused, Err: wrongType(db.tags[db.partition(f.key)]+":claim:"+f.key, nil)}
		}
	}
	return nil
}

// takeOver drops a claim that has that value, and takes it if nobody was faster.
func (db *DB) takeOver(ctx context.Context, f farClaim, value string) (kind, rest string, err error) {
	old := f
	old.id = value
	if _, err := db.claims(ctx, "drop", []farClaim{old}); err != nil {
		return "", "", err
	}
	words, err := db.claims(ctx, "take", []farClaim{f})
	if err != nil {
		return "", "", err
	}
	kind, rest, _ = strings.Cut(words[0], " ")
	return kind, rest, nil
}

// known reports whether there is anything of a task.
func (db *DB) known(ctx context.Context, id string) bool {
	n, err := db.do(ctx, db.client.B().Exists().Key(taskKey(db.tags[db.partition(id)], id)).Build()).AsInt64()
	return err != nil || n > 0
}

// finishFar keeps the claims of what was stored, and drops those of the rest. What is
// to be kept is in the outbox, whatever happens here.
func (db *DB) finishFar(ctx context.Context, far []farClaim, out []broker.Outcome) error {
	var keep []parcel
	var drop []farClaim
	for _, f := range far {
		switch state := out[f.item].State; {
		case state == broker.Stored || state == broker.Exists && f.own:
			// It may not be kept yet, if this is a repetition.
			keep = append(keep, parcel{db.partition(f.id), keepEntry(f.id, f.timed(), f.key)})
		case f.mine && state != broker.Stored:
			drop = append(drop, f)
		}
	}
	db.deliver(ctx, keep)
	_, err := db.claims(ctx, "drop", drop)
	return err
}

// claims runs the claims script where the keys are.
func (db *DB) claims(ctx context.Context, mode string, far []farClaim) ([]string, error) {
	got := make([]string, len(far))
	shares := db.shares(len(far), 0, func(i int) string { return far[i].key })
	of := flat(func(i int) []string { return []string{far[i].key, far[i].id, strconv.FormatInt(far[i].ms, 10)} })
	args := func(items []int) []string { return append([]string{mode}, of(items)...) }
	err := db.spread(ctx, db.scripts.claims, shares, args, func(m *rueidis.RedisMessage, items []int) error {
		if mode != "take" {
			return nil
		}
		said, err := words(m, items)
		for at := range said {
			got[items[at]] = said[at]
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return got, nil
}
