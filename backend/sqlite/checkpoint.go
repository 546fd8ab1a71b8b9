package sqlite

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/ncruces/go-sqlite3"
)

// checkpointer copies the WAL into the file beside the writer, in a goroutine
// and a connection of its own.
type checkpointer struct {
	db    *DB
	asked chan struct{}
	upTo  atomic.Int64 // pages of the WAL that the last checkpoint had copied
	ended chan struct{}
	conn  *conn
}

func newCheckpointer(db *DB) *checkpointer {
	ck := &checkpointer{db: db, asked: make(chan struct{}, 1), ended: make(chan struct{})}
	go ck.run()
	return ck
}

// ask requests a checkpoint if enough was written since the last.
func (ck *checkpointer) ask(pages int) {
	upTo := int(ck.upTo.Load())
	if pages < upTo {
		ck.upTo.Store(0) // the WAL began anew
		upTo = 0
	}
	if pages-upTo >= walSoft {
		signal(ck.asked)
	}
}

func (ck *checkpointer) run() {
	defer close(ck.ended)
	for {
		select {
		case <-ck.asked:
			if err := ck.once(); err != nil {
				ck.db.log.Warn("checkpoint the SQLite file", "file", ck.db.path, "error", err)
			}
		case <-ck.db.closed:
			return
		}
	}
}

func (ck *checkpointer) once() (err error) {
	if ck.conn == nil {
		if ck.conn, err = ck.db.openConn(context.Background(), false, 256); err != nil {
			return err
		}
	}
	_, done, err := ck.conn.WALCheckpoint("main", sqlite3.CHECKPOINT_PASSIVE)
	if errors.Is(err, sqlite3.BUSY) {
		return nil // another process does it
	}
	if err != nil {
		return failed("checkpoint", err)
	}
	ck.upTo.Store(int64(done))
	return nil
}

func (ck *checkpointer) close() error {
	<-ck.ended
	if ck.conn == nil {
		return nil
	}
	return ck.conn.close()
}
