package redis

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/redis/rueidis"

	"github.com/stemjobs/stem/store"
)

// readSchedules checks what is kept for the scheduler: each entry is listed, and
// in line for its next moment; histories belong to entries; what a history calls
// pending is so.
func (p *picture) readSchedules(ctx context.Context, keys map[string][]string) error {
	listed, err1 := p.members(ctx, ":entries")
	pending, err2 := p.members(ctx, ":pending")
	due, err3 := p.db.do(ctx, p.db.client.B().Zrange().Key(p.tag+":entries:due").Min("0").Max("-1").Withscores().Build()).AsZScores()
	firings, err4 := p.db.do(ctx, p.db.client.B().Hgetall().Key(p.tag+":pending:firings").Build()).AsStrMap()
	if err := errors.Join(err1, err2, unavailable(err3), unavailable(err4)); err != nil {
		return err
	}
	inLine := make(map[string]int64, len(due))
	for _, z := range due {
		inLine[z.Member] = int64(z.Score)
	}
	for _, id := range listed {
		if _, there := slices.BinarySearch(keys["entry"], id); !there {
			p.wrong("schedule %s is listed, and is not there", id)
		}
	}
	for page := range slices.Chunk(keys["entry"], 500) {
		if err := p.checkEntries(ctx, page, inLine); err != nil {
			return err
		}
	}
	for id := range inLine {
		p.wrong("schedule %s is in line for a moment, and is not there", id)
	}
	for _, member := range pending {
		if _, err := parsePending(firings[member]); err != nil {
			p.wrong("pending firing %s: %s", member, err)
		}
	}
	if len(pending) != len(firings) {
		p.wrong("%d firings are pending, and %d are in line", len(firings), len(pending))
	}
	return p.checkHistories(ctx, keys, firings)
}

// checkEntries checks some entries, and takes off inLine what is right.
func (p *picture) checkEntries(ctx context.Context, ids []string, inLine map[string]int64) error {
	cmds := make(rueidis.Commands, len(ids))
	for i, id := range ids {
		cmds[i] = p.db.client.B().Hgetall().Key(p.tag + ":entry:" + id).Build()
	}
	for i, r := range p.db.multi(ctx, cmds...) {
		id := ids[i]
		fields, err := r.AsStrMap()
		if err != nil {
			return unavailable(err)
		}
		e, err := scanEntry(id, fields)
		if err != nil {
			p.wrong("%s", err)
		} else if millis(e.NextAt) != inLine[id] || e.NextDue.IsZero() != e.NextAt.IsZero() || e.Version < 1 {
			p.wrong("schedule %s, version %d, is due at %d, and in line for %d", id, e.Version, millis(e.NextAt), inLine[id])
		}
		delete(inLine, id)
	}
	return nil
}

func (p *picture) checkHistories(ctx context.Context, keys map[string][]string, firings map[string]string) error {
	for _, id := range keys["history"] {
		if _, there := slices.BinarySearch(keys["entry"], id); !there {
			p.wrong("there is a history of schedule %s, which is not there", id)
		}
		lines, err := p.db.do(ctx, p.db.client.B().Lrange().Key(p.tag+":history:"+id).Start(0).Stop(store.MaxHistory-1).Build()).AsStrSlice()
		if err != nil {
			return unavailable(err)
		}
		for _, line := range lines {
			r, err := parseFiring(id, line)
			moment, _, _ := strings.Cut(line, " ")
			switch {
			case err != nil:
				p.wrong("%s", err)
			case r.Outcome == store.OutcomePending && firings[moment+" "+id] == "":
				p.wrong("schedule %s: its firing of %s says that it is pending, and is not", id, r.Due)
			}
		}
	}
	return nil
}
