package redis

import (
	"context"
	"net"
	"time"

	"github.com/stemjobs/stem/broker"
)

// Partition is where the task of that id lies, among so many partitions.
func Partition(id string, partitions int) int { return int(crc16(id)) % partitions }

// Mislead has db believe that the server's clock is ahead by so much.
func Mislead(db *DB, by time.Duration) { db.ahead.Store(&lead{by, time.Now()}) }

// ErrGone is of what a connection of Watched did not send.
var ErrGone = errGone

// Watched makes of a connection one that looks before it sends after a rest.
func Watched(c net.Conn) net.Conn { return watched(c) }

// Abandon publishes as a client does that dies before the claims are kept; with stored
// unset, before the task is stored. Where late is set it waited too long with storing.
func Abandon(ctx context.Context, db *DB, p broker.Publication, stored, late bool) (broker.Outcome, error) {
	batch, out := []broker.Publication{p}, make([]broker.Outcome, 1)
	data, err := prepare(&p)
	if err != nil {
		return out[0], err
	}
	far := db.farClaims(batch, out)
	if err := db.takeFar(ctx, far, out); err != nil || !stored {
		return out[0], err
	}
	for i := range far {
		if late {
			far[i].by = 1
		}
	}
	err = db.store(ctx, batch, [][]byte{data}, far, out, false)
	return out[0], err
}
