//go:build linux

package stemcmd_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stemjobs/stem/stemcmd"
)

// TestDoctorNamesWhoHoldsTheLock: a process that keeps an SQLite file locked
// stops everybody who writes; the doctor says which it is.
func TestDoctorNamesWhoHoldsTheLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stem.db")
	run := func(args ...string) (int, string) {
		var out, errs bytes.Buffer
		code := stemcmd.Run(t.Context(), stemcmd.App{}, stemcmd.Process{
			Args: append(args, "--broker", "sqlite:"+path), Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs,
		})
		return code, out.String() + errs.String()
	}
	if code, out := run("enqueue", "a", "--in", "1h"); code != 0 {
		t.Fatalf("enqueue: exit code %d: %s", code, out)
	}
	if code, out := run("doctor"); code != 0 {
		t.Errorf("a store that is well: exit code %d: %s", code, out)
	}
	f, err := os.OpenFile(path+"-lock", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	code, out := run("doctor")
	if want := fmt.Sprintf("process %d (", os.Getpid()); code != 1 || !strings.Contains(out, want) || !strings.Contains(out, "holds the lock") {
		t.Errorf("exit code %d, want 1 and %q: %s", code, want, out)
	}
}
