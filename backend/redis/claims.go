package redis

import (
	"context"
	"fmt"
	"strconv"
	"strings"

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
	n, err := db.client.Do(ctx, db.client.B().Exists().Key(db.tags[db.partition(id)]+":t:"+id).Build()).AsInt64()
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
	words := make([]string, len(far))
	var calls []call
	parts := db.split(len(far), func(i int) string { return far[i].key })
	for p, items := range parts {
		if len(items) == 0 {
			continue
		}
		args := []string{mode}
		for _, i := range items {
			args = append(args, far[i].key, far[i].id, strconv.FormatInt(far[i].ms, 10))
		}
		calls = append(calls, call{db.scripts.claims, p, args})
	}
	msgs, errs := db.runAll(ctx, calls)
	for k := range calls {
		if errs[k] != nil {
			return nil, errs[k]
		}
		if mode != "take" {
			continue
		}
		got, err := msgs[k].AsStrSlice()
		items := parts[calls[k].partition]
		if err != nil || len(got) != len(items) {
			return nil, fmt.Errorf("script claims: %w (%w)", errForeign, err)
		}
		for at, i := range items {
			words[i] = got[at]
		}
	}
	return words, nil
}
