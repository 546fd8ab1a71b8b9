package stemcmd_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stemjobs/stem/stemcmd"
)

// terminal opens a pseudo-terminal: what a person holds, and what a program
// sees.
func terminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = program.Close()
		_ = person.Close()
	})
	return person, program
}

// read reads from a terminal until that was there. What a program wrote may
// come in pieces, and some time after it has ended.
func read(t *testing.T, person *os.File, want string) {
	t.Helper()
	if err := person.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var got []byte
	buffer := make([]byte, 4096)
	for !strings.Contains(string(got), want) {
		n, err := person.Read(buffer)
		got = append(got, buffer[:n]...)
		if err != nil {
			t.Errorf("asked %q, want %q: %v", got, want, err)
			return
		}
	}
}

// TestConfirmation asks a person: what is not confirmed does not happen.
func TestConfirmation(t *testing.T) {
	db := "sqlite:" + filepath.Join(t.TempDir(), "stem.db")
	run := func(p stemcmd.Process, args ...string) int {
		p.Args = append([]string{"--broker", db}, args...)
		return stemcmd.Run(context.Background(), stemcmd.App{Name: "stem"}, p)
	}
	waiting := func() string {
		var out bytes.Buffer
		if code := run(stemcmd.Process{Stdout: &out}, "tasks", "ls", "state:queued", "--output", "name"); code != 0 {
			t.Fatalf("tasks ls: exit code %d", code)
		}
		return out.String()
	}
	for range 3 {
		if code := run(stemcmd.Process{}, "enqueue", "x", "--queue", "mail"); code != 0 {
			t.Fatalf("enqueue: exit code %d", code)
		}
	}
	for _, c := range []struct {
		answer string
		want   int
	}{
		{"n\n", stemcmd.ExitRefused},
		{"\n", stemcmd.ExitRefused},
		{"yesterday\n", stemcmd.ExitRefused},
		{"\x04", stemcmd.ExitRefused}, // end of input
		{"yes\n", stemcmd.ExitDone},
	} {
		before := waiting()
		person, program := terminal(t)
		if _, err := person.WriteString(c.answer); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if code := run(stemcmd.Process{Stdin: program, Stdout: &out, Stderr: program, Env: []string{"NO_COLOR=1"}}, "queue", "purge", "mail"); code != c.want {
			t.Errorf("answer %q: exit code %d, want %d", c.answer, code, c.want)
		}
		read(t, person, "Purge 3 waiting tasks (queue mail) of "+db+"? [y/N]")
		if refused := c.want == stemcmd.ExitRefused; refused != (waiting() == before) {
			t.Errorf("answer %q: before %q, after %q", c.answer, before, waiting())
		}
	}
}
