package redis

import (
	"context"
	"strconv"
	"strings"

	"github.com/redis/rueidis"

	"github.com/stemjobs/stem/broker"
)

// farClaim is a claim in a deployment of several partitions, where its key and
// its task may lie apart. It is taken before the task is stored, and dropped
// again if that is not.
type farClaim struct {
	item int // of the batch
	key  string
	id   string
	ms   int64
	mine bool // it was new
	own  bool // the task had it already
}

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
		kind, holder, _ := strings.Cut(words[i], " ")
		if kind == "u" && !db.known(ctx, holder) {
			// Its holder's status is gone, and with it the claim.
			again := []farClaim{*f}
			again[0].id = holder
			if _, err := db.claims(ctx, "drop", again); err != nil {
				return err
			}
			again[0].id = f.id
			w, err := db.claims(ctx, "take", again)
			if err != nil {
				return err
			}
			kind, holder, _ = strings.Cut(w[0], " ")
		}
		switch kind {
		case "n":
			f.mine = true
		case "o":
			f.own = true
		case "d", "u":
			if out[f.item].State == 0 {
				out[f.item] = broker.Outcome{State: broker.Duplicate, ExistingID: holder}
			}
		}
	}
	return nil
}

// known reports whether there is anything of a task.
func (db *DB) known(ctx context.Context, id string) bool {
	n, err := db.do(ctx, db.client.B().Exists().Key(taskKey(db.tags[db.partition(id)], id)).Build()).AsInt64()
	return err != nil || n > 0
}

// finishFar keeps the claims of what was stored, and drops those of the rest.
func (db *DB) finishFar(ctx context.Context, far []farClaim, out []broker.Outcome) error {
	var keep, drop []farClaim
	for _, f := range far {
		switch state := out[f.item].State; {
		case f.ms == 0 && (state == broker.Stored || state == broker.Exists && f.own):
			keep = append(keep, f) // it may not be kept yet, if this is a repetition
		case f.mine && state != broker.Stored:
			drop = append(drop, f)
		}
	}
	if _, err := db.claims(ctx, "keep", keep); err != nil {
		return err
	}
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
