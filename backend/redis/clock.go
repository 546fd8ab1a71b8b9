package redis

import (
	"context"
	"fmt"
	"time"
)

// lead is how far the server's clock is ahead of ours.
type lead struct {
	by   time.Duration
	told time.Time // when it was found out, with a monotonic reading
}

// clockJump is by how much our clock may differ from its own monotonic reading
// before it counts as set.
const clockJump = time.Second

// moved reports whether our clock was set since, or the machine slept.
func (l *lead) moved(now time.Time) bool {
	return (now.Round(0).Sub(l.told.Round(0)) - now.Sub(l.told)).Abs() > clockJump
}

// askTime finds out how far the server's clock is ahead, by the quickest of a few
// answers: of more of them while none was quick, as on a busy machine, where half
// of the quickest is the error.
func (db *DB) askTime(ctx context.Context) error {
	const enough, most, quick = 5, 50, 2 * time.Millisecond
	least := time.Duration(-1)
	var found lead
	for try := 0; try < enough || try < most && least > quick; try++ {
		began := time.Now()
		at, err := db.serverTime(ctx)
		if err != nil {
			return err
		}
		if took := time.Since(began); least < 0 || took < least {
			least = took
			found = lead{at.Sub(began.Round(0).Add(took / 2)), began}
		}
	}
	db.ahead.Store(&found)
	return nil
}

// watchClock asks again when our clock was set. It costs nothing while it was not.
func (db *DB) watchClock(ctx context.Context) error {
	if !db.ahead.Load().moved(time.Now()) {
		return nil
	}
	db.log.Warn("this host's clock was set, or it slept: asking Redis for the time")
	return db.askTime(ctx)
}

// heardTime compares what a script said of the server's time, in whole
// milliseconds, with what is believed: it was read while the call lasted, and so
// must the belief be. Clocks that drift, or are set at the server, are followed
// with that, and nothing is asked for it.
func (db *DB) heardTime(ms int64, began, ended time.Time) {
	at := time.UnixMilli(ms)
	least, most := at.Sub(ended.Round(0)), at.Add(time.Millisecond).Sub(began.Round(0))
	by := db.aheadNow()
	if least > most || least <= by && by <= most { // else our own clock was set meanwhile: see watchClock
		return
	}
	db.ahead.Store(&lead{min(max(by, least), most), ended})
	if len(db.tags) == 1 && (least-by > clockJump || by-most > clockJump) { // a Cluster's nodes may differ all the time
		db.log.Warn("Redis's clock was set", "ahead_of_ours", db.aheadNow(), "before", by)
	}
}

func (db *DB) aheadNow() time.Duration { return db.ahead.Load().by }

// clock is the server's time in ms, as far as is known. It says how old a task is;
// nothing is decided by it.
func (db *DB) clock() int64 { return time.Now().Add(db.aheadNow()).UnixMilli() }

// serverTime is the server's time.
func (db *DB) serverTime(ctx context.Context) (time.Time, error) {
	words, err := db.do(ctx, db.client.B().Time().Build()).AsIntSlice()
	if err != nil || len(words) != 2 {
		return time.Time{}, fmt.Errorf("ask the time: %w", unavailable(err))
	}
	return time.Unix(words[0], words[1]*1000).UTC(), nil
}
