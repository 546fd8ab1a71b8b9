package redis

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/rueidis"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// What a settlement has to do in other partitions than its task's is written
// down in the settlement's step, as entries of the partition's outbox, and then
// done: "p PUBLICATION" publishes, "r ID KEY" releases a claim. So is what storing a
// task has to do there: "k ID T KEY" keeps a claim that was taken for it (T is 0 for one
// without a time of its own). All may happen twice without harm: a publication leaves a mark in the step in which it is stored,
// which lasts for longer than its entry.

// parcel is an outbox entry on its way.
type parcel struct {
	partition int // whose outbox
	entry     string
}

// sentPublication is a publication in an outbox.
type sentPublication struct {
	Envelope json.RawMessage `json:"envelope"`
	Claims   []broker.Claim  `json:"claims,omitempty"`
}

func publicationEntry(data []byte, claims []broker.Claim) (string, error) {
	text, err := json.Marshal(sentPublication{data, claims})
	if err != nil {
		return "", fmt.Errorf("%w publication: %w", task.ErrInvalid, err)
	}
	return "p " + string(text), nil
}

func releaseEntry(id, key string) string { return "r " + id + " " + key }

func keepEntry(id, timed, key string) string { return "k " + id + " " + timed + " " + key }

// deliver does what outbox entries say, and removes them. What fails stays for
// whoever receives there later.
func (db *DB) deliver(ctx context.Context, parcels []parcel) {
	if len(parcels) == 0 {
		return
	}
	if err := db.deliverAll(ctx, parcels); err != nil {
		db.log.Warn("deliver to other partitions; it will be tried again", "entries", len(parcels), "error", err)
	}
}

func (db *DB) deliverAll(ctx context.Context, parcels []parcel) error {
	var batch []broker.Publication
	var keep, drop []farClaim
	done := make([][]string, len(db.tags))
	for _, p := range parcels {
		done[p.partition] = append(done[p.partition], p.entry)
		kind, rest, _ := strings.Cut(p.entry, " ")
		switch kind {
		case "p":
			v, err := readPublication(rest)
			if err != nil {
				db.log.Error("an outbox entry is damaged; it is dropped", "entry", p.entry[:min(len(p.entry), 200)], "error", err)
				continue
			}
			batch = append(batch, v)
		case "k":
			id, more, _ := strings.Cut(rest, " ")
			timed, key, _ := strings.Cut(more, " ")
			c := farClaim{key: key, id: id}
			if timed != "0" {
				c.ms = 1
			}
			keep = append(keep, c)
		case "r":
			id, key, _ := strings.Cut(rest, " ")
			drop = append(drop, farClaim{key: key, id: id})
		}
	}
	if len(batch) > 0 {
		out, err := db.publish(ctx, batch, true)
		if err != nil {
			return err
		}
		for i := range out {
			if errors.Is(out[i].Err, broker.ErrUnavailable) {
				return fmt.Errorf("publish %s: %w", batch[i].Envelope.ID, out[i].Err)
			}
		}
	}
	for _, c := range []struct {
		mode string
		far  []farClaim
	}{{"keep", keep}, {"drop", drop}} { // what is to be released may have to be kept first
		if _, err := db.claims(ctx, c.mode, c.far); err != nil {
			return err
		}
	}
	var calls []call
	for p, entries := range done {
		if len(entries) > 0 {
			calls = append(calls, call{db.scripts.outbox, p, append([]string{outboxAge}, entries...)})
		}
	}
	// Only when they are removed may the marks of what was published end.
	_, errs := db.runAll(ctx, calls)
	if err := cmp.Or(errs...); err != nil {
		return err
	}
	return db.endMarks(ctx, batch)
}

// endMarks has the marks of publications end that are in no outbox any more.
func (db *DB) endMarks(ctx context.Context, batch []broker.Publication) error {
	id := func(i int) string { return batch[i].Envelope.ID }
	return db.spread(ctx, db.scripts.once, db.shares(len(batch), 0, id), flat(func(i int) []string { return []string{id(i)} }),
		func(*rueidis.RedisMessage, []int) error { return nil })
}

func readPublication(text string) (broker.Publication, error) {
	var s sentPublication
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return broker.Publication{}, err
	}
	e, err := task.Decode(s.Envelope)
	return broker.Publication{Envelope: e, Claims: s.Claims}, err
}

// outboxAge is the ms after which an entry is taken for left behind.
const outboxAge = "2000"

// collectNow delivers what the scripts of this call wrote to outboxes.
func (db *DB) collectNow(ctx context.Context) {
	if len(db.tags) > 1 {
		db.collect(ctx, "0")
	}
}

// collect delivers what others left in the outboxes.
func (db *DB) collect(ctx context.Context, age string) {
	calls := make([]call, len(db.tags))
	for p := range calls {
		calls[p] = call{db.scripts.outbox, p, []string{age}}
	}
	var parcels []parcel
	msgs, errs := db.runAll(ctx, calls)
	for p := range calls {
		if errs[p] != nil {
			continue // the exchange that follows will say so
		}
		entries, err := msgs[p].AsStrSlice()
		if err != nil {
			continue
		}
		for _, e := range entries {
			parcels = append(parcels, parcel{partition: p, entry: e})
		}
	}
	db.deliver(ctx, parcels)
}
