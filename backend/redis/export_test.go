package redis

import (
	"net"
	"time"
)

// Partition is where the task of that id lies, among so many partitions.
func Partition(id string, partitions int) int { return int(crc16(id)) % partitions }

// Mislead has db believe that the server's clock is ahead by so much.
func Mislead(db *DB, by time.Duration) { db.ahead.Store(&lead{by, time.Now()}) }

// ErrGone is of what a connection of Watched did not send.
var ErrGone = errGone

// Watched makes of a connection one that looks before it sends after a rest.
func Watched(c net.Conn) net.Conn { return watched(c) }
