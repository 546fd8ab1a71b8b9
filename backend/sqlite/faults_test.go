package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/vfs"

	"github.com/stemjobs/stem/backend/sqlite"
	"github.com/stemjobs/stem/broker"
)

// faultyDisk is the system's file system with faults that a test turns on.
type faultyDisk struct {
	vfs.VFS
	room     atomic.Int64 // bytes that may still be written; < 0: any number
	badSyncs atomic.Int64 // how many syncs of the WAL fail from now on
	bare     atomic.Bool  // errors are those of the system, which SQLite does not know for a full disk
}

var disks atomic.Int64

func newFaultyDisk(t *testing.T) (*faultyDisk, string) {
	t.Helper()
	d := &faultyDisk{VFS: vfs.Find("")}
	d.room.Store(-1)
	name := fmt.Sprintf("faulty%d", disks.Add(1))
	vfs.Register(name, d)
	t.Cleanup(func() { vfs.Unregister(name) })
	return d, name
}

func (d *faultyDisk) OpenFilename(name *vfs.Filename, flags vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	f, out, err := d.VFS.(vfs.VFSFilename).OpenFilename(name, flags)
	if err != nil {
		return nil, out, err
	}
	return &faultyFile{File: f, disk: d, wal: flags&vfs.OPEN_WAL != 0}, out, nil
}

type faultyFile struct {
	vfs.File
	disk *faultyDisk
	wal  bool
}

func (f *faultyFile) SharedMemory() vfs.SharedMemory {
	if shm, ok := f.File.(vfs.FileSharedMemory); ok {
		return shm.SharedMemory()
	}
	return nil
}

func (f *faultyFile) WriteAt(p []byte, at int64) (int, error) {
	if room := f.disk.room.Load(); room >= 0 {
		if int64(len(p)) > room {
			if f.disk.bare.Load() {
				return 0, &os.PathError{Op: "write", Path: "stem.db", Err: syscall.ENOSPC}
			}
			return 0, sqlite3.FULL
		}
		f.disk.room.Add(-int64(len(p)))
	}
	return f.File.WriteAt(p, at)
}

func (f *faultyFile) Sync(flags vfs.SyncFlag) error {
	if f.wal && f.disk.badSyncs.Load() > 0 {
		f.disk.badSyncs.Add(-1)
		return sqlite3.IOERR_FSYNC
	}
	return f.File.Sync(flags)
}

func openFaulty(t *testing.T) (*faultyDisk, *sqlite.DB, string) {
	t.Helper()
	disk, name := newFaultyDisk(t)
	path := newPath(t)
	db, err := sqlite.OpenVFS(t.Context(), sqlite.Config{Path: path}, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeChecked(t, db) })
	return disk, db, path
}

// gather makes n calls at once that all end up in one group of the writer:
// it holds the file's lock until they wait.
func gather(t *testing.T, db *sqlite.DB, path string, n int, call func(i int) error) []error {
	t.Helper()
	lock, err := os.OpenFile(path+"-lock", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if _, err := sqlite.LockFile(lock, true); err != nil {
		t.Fatal(err)
	}
	wait := together(n, call)
	eventually(t, "all calls wait", func() bool { return db.Pending() == n })
	if err := sqlite.UnlockFile(lock); err != nil {
		t.Fatal(err)
	}
	return wait()
}

// together makes n calls at once; what it returns waits for their errors.
func together(n int, call func(i int) error) (wait func() []error) {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = call(i) })
	}
	return func() []error { wg.Wait(); return errs }
}

// eventually looks until ok says yes.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func TestFsyncFailureFailsItsWholeGroup(t *testing.T) {
	disk, db, path := openFaulty(t)
	b := db.Broker()
	publish(t, b, envelope("before", "q"))
	one := func(i int) error {
		_, err := b.Publish(t.Context(), []broker.Publication{{Envelope: envelope(fmt.Sprint("t", i), "q")}})
		return err
	}
	disk.badSyncs.Store(1)
	for i, err := range gather(t, db, path, 8, one) {
		if !errors.Is(err, broker.ErrUnavailable) {
			t.Errorf("caller %d of a group whose fsync failed: got error %v, want ErrUnavailable", i, err)
		}
	}
	for i, err := range gather(t, db, path, 8, one) {
		if err != nil {
			t.Errorf("caller %d after it: %v", i, err)
		}
	}
	wantReady(t, b, 9)
}

func wantReady(t *testing.T, b broker.Broker, want int) {
	t.Helper()
	q, err := b.Queues(context.Background(), "q")
	if err != nil || q[0].Ready != want {
		t.Errorf("got %+v, %v; want %d ready", q, err, want)
	}
}

func TestFullDisk(t *testing.T) {
	t.Run("as SQLite tells it", func(t *testing.T) { testFullDisk(t, false) })
	t.Run("as the system tells it", func(t *testing.T) { testFullDisk(t, true) })
}

func testFullDisk(t *testing.T, bare bool) {
	disk, db, path := openFaulty(t)
	disk.bare.Store(bare)
	db.SetSpaceLeft(4096)
	b := db.Broker()
	publish(t, b, envelope("before", "q"))
	big := func(id string) *broker.Publication {
		e := envelope(id, "q")
		e.Args = []byte(`"` + strings.Repeat("x", 100_000) + `"`)
		return &broker.Publication{Envelope: e}
	}
	disk.room.Store(50_000)
	_, err := b.Publish(t.Context(), []broker.Publication{{Envelope: envelope("small", "q")}, *big("big")})
	if !errors.Is(err, broker.ErrUnavailable) || !strings.Contains(err.Error(), "disk is full") {
		t.Errorf("publishing onto a full disk: got error %v, want ErrUnavailable that says so", err)
	}
	wantReady(t, b, 1)
	if err := db.Check(t.Context()); err != nil {
		t.Errorf("after a full disk: %v", err)
	}
	// In one group with one that fits, the big one fails alone.
	disk.room.Store(50_000)
	errs := gather(t, db, path, 2, func(i int) error {
		p := []broker.Publication{{Envelope: envelope("fits", "q")}}
		if i == 1 {
			p = []broker.Publication{*big("big")}
		}
		_, err := b.Publish(t.Context(), p)
		return err
	})
	if errs[1] == nil {
		t.Errorf("the big one: it was stored on a full disk")
	}
	disk.room.Store(-1)
	if out, err := b.Publish(t.Context(), []broker.Publication{*big("big")}); err != nil || out[0].State != broker.Stored {
		t.Errorf("when there is space again: %+v, %v", out, err)
	}
}

// TestBadItemFailsAlone: what one caller asks for cannot be written; the
// others of its group do not notice.
func TestBadItemFailsAlone(t *testing.T) {
	path := newPath(t)
	db := open(t, sqlite.Config{Path: path})
	b := db.Broker()
	publish(t, b, envelope("before", "q"))
	raw(t, path, "CREATE TRIGGER bad BEFORE INSERT ON stem_task WHEN new.id = 'bad' BEGIN SELECT raise(ABORT, 'no'); END")
	errs := gather(t, db, path, 8, func(i int) error {
		id := fmt.Sprint("t", i)
		if i == 3 {
			id = "bad"
		}
		_, err := b.Publish(t.Context(), []broker.Publication{{Envelope: envelope("x-"+id, "q")}, {Envelope: envelope(id, "q")}})
		return err
	})
	for i, err := range errs {
		if (err != nil) != (i == 3) {
			t.Errorf("caller %d: got error %v", i, err)
		}
	}
	wantReady(t, b, 1+2*7)
}

// TestGivingUpWhileTheLockIsHeld: a call ends with its context although
// another process holds the lock, and leaves nothing behind.
func TestGivingUpWhileTheLockIsHeld(t *testing.T) {
	path := newPath(t)
	db := open(t, sqlite.Config{Path: path})
	b := db.Broker()
	ctx, cancel := context.WithCancel(t.Context())
	lock, err := os.OpenFile(path+"-lock", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sqlite.LockFile(lock, true); err != nil {
		t.Fatal(err)
	}
	wait := together(3, func(i int) error {
		_, err := b.Publish(ctx, []broker.Publication{{Envelope: envelope(fmt.Sprint("t", i), "q")}})
		return err
	})
	eventually(t, "all calls wait", func() bool { return db.Pending() == 3 })
	cancel()
	for i, err := range wait() {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("caller %d: got error %v, want Canceled", i, err)
		}
	}
	if err := lock.Close(); err != nil { // which releases it
		t.Fatal(err)
	}
	wantReady(t, b, 0)
}

// TestLeasesOutliveAStoppedProcess: while another process holds the lock,
// nobody can renew. Who gets it next does not take that for a lapse.
func TestLeasesOutliveAStoppedProcess(t *testing.T) {
	lease := 400 * time.Millisecond
	for !outlives(t, lease) { // it was over before the machine came to the lock
		if lease *= 2; lease > time.Minute {
			t.Fatal("no lease is held when the lock is taken")
		}
	}
}

// outlives reports whether the lease lasted when the wait for the lock began, so
// that something was tested.
func outlives(t *testing.T, lease time.Duration) bool {
	path := newPath(t)
	one, two := open(t, sqlite.Config{Path: path}), open(t, sqlite.Config{Path: path})
	publish(t, one.Broker(), envelope("a", "q"))
	sub := broker.Subscription{Worker: "w", Queues: []string{"q"}, Lease: lease}
	holder, err := one.Broker().Open(t.Context(), sub)
	if err != nil {
		t.Fatal(err)
	}
	other, err := two.Broker().Open(t.Context(), sub)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	d := exchange(t, holder, nil, 1).Deliveries[0]

	lock, err := os.OpenFile(path+"-lock", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sqlite.LockFile(lock, true); err != nil {
		t.Fatal(err)
	}
	publish := together(1, func(int) error {
		_, err := two.Broker().Publish(t.Context(), []broker.Publication{{Envelope: envelope("b", "else")}})
		return err
	})
	eventually(t, "it waits for the lock", func() bool { return two.Pending() == 1 })
	inTime := time.Since(began) < lease
	eventually(t, "the lease is over", func() bool { return time.Since(began) > lease+lease/2 })
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if err := publish()[0]; err != nil {
		t.Fatal(err)
	}
	if !inTime {
		return false
	}
	if ds := exchange(t, other, nil, 1).Deliveries; len(ds) > 0 {
		t.Errorf("%s passed to another, though nobody could renew it", ds[0].Receipt.ID)
	}
	errs, err := one.Broker().Renew(t.Context(), []broker.Renewal{{Receipt: d.Receipt}})
	if err != nil || errs[0] != nil {
		t.Errorf("renewing after the lock was free: %v, %v", errs, err)
	}
	return true
}
