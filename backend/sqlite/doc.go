// Package sqlite keeps everything of Stem in one SQLite file: envelopes,
// leases, dead letters, statuses and heartbeats. Several processes of one
// machine may use the file at once, each through one DB:
//
//	db, err := sqlite.Open(ctx, sqlite.Config{Path: "stem.db"})
//	if err != nil { … }
//	defer db.Close()
//	b, results := db.Broker(), db.Results()
//
// It is pure Go. It imports broker, store and task, and the SQLite library.
//
// # The file
//
// A task is one row from its publishing to the end of its retention, in one
// place (ready, delayed, leased, done, dead) and in one partial index for it;
// sql/0001.sql has the schema. So a settlement with its status, follow-ups and
// claims is one transaction, and Check can prove that nothing is in two places.
//
// Beside the file lie its WAL (-wal, -shm), a lock file (-lock), and while
// consumers are open a directory of sockets (-wake). A copy of the file is good
// when its -wal is copied after it, and nothing restarts the WAL in between: an
// open read transaction sees to that, as does a snapshot of the file system.
// Never put the file on a network file system.
//
// # How it writes
//
// One goroutine of a process writes. It takes the lock file's lock, commits
// whatever has gathered meanwhile, and gives the lock back: a group commit, in
// which a bad item fails alone, and a commit that fails fails all of its group.
// The lock is fair between processes, which SQLite's own is not. A process that
// is stopped (SIGSTOP, a debugger) inside a transaction stops all others'
// writes; their calls still end with their contexts, and their leases are not
// taken for lapsed when it goes on.
//
// # How it waits
//
// Readers do not take the lock: an exchange with nothing to settle looks first
// and writes only if there is something to take. Who makes work ready wakes one
// waiting consumer: in its own process it receives for it in the same step, so
// that an idle task costs one commit (hand.go), in another it sends a datagram. See
// wakeDir for that, and for systems without such sockets. After a commit those
// whom it served go first, and only then the writer tells other processes.
package sqlite
