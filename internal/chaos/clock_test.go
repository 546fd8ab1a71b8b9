//go:build linux

package chaos

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/internal/redistest"
	"github.com/stemjobs/stem/task"
)

// clockEnv is by how many seconds the clock of a process is off that
// buildOffClock built.
const clockEnv = "STEM_CHAOS_CLOCK"

// TestClocksAreOff has three workers: one whose clock is right, and those whose
// clocks are an hour fast and an hour slow. Tasks that expire in half an hour are
// executed, and retries wait as long as they should. It belongs to the long form:
// the standard library is compiled anew for it.
func TestClocksAreOff(t *testing.T) {
	if !full() {
		return // internal/runner tests the same with a store whose clock is ahead
	}
	t.Parallel()
	program := filepath.Join(t.TempDir(), "off")
	if err := buildOffClock(t.TempDir(), program); err != nil {
		t.Fatal(err)
	}
	s := newStage(t, t.TempDir(), place{urls: storeURLs{Tasks: redistest.Start(t, redistest.Options{}).URL(0)}})
	var workers []*process
	for _, off := range []string{"0", "3600", "-3600"} {
		args := workerArgs{Name: "clock", Concurrency: 4, Lease: testLease}
		workers = append(workers, startProgram(t, program, []string{clockEnv + "=" + off}, "worker", s.dir, args, nil))
	}
	const total = 300
	for n := 0; n < total; n += 10 {
		var items []stem.Item
		for k := range 10 {
			items = append(items, flaky.Item(flakyArgs{Millis: rand.IntN(100), Result: n + k}, stem.ExpiresIn(30*time.Minute), stem.ID(task.NewID())))
		}
		if err := s.enqueue(items...); err != nil {
			t.Fatal(err)
		}
	}
	s.await("all have ended", 2*time.Minute, func() bool { return s.remaining() == 0 })
	by := map[string]int{}
	for _, id := range s.ids {
		status, err := s.client.Get(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if status.State != stem.Succeeded || status.Attempt != 2 {
			t.Errorf("%s is %s (%s) after %d attempts", id, status.State, status.Reason, status.Attempt)
		}
		by[status.Worker]++
	}
	t.Logf("executed by: %v", by)
	for _, w := range workers {
		if by[w.name] == 0 {
			t.Errorf("%s executed nothing", w.name)
		}
	}
	if err := checkStores(t.Context(), s.db); err != nil {
		t.Error(err)
	}
}

// buildOffClock builds this package's test program with a standard library whose
// time.Now is off.
func buildOffClock(dir, to string) error {
	const now = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	const offset = `package time

import "syscall"

var testOffset = func() int64 { v, _ := syscall.Getenv("` + clockEnv + `"); n, _ := atoi(v); return int64(n) }()
`
	root := filepath.Join(runtime.GOROOT(), "src", "time") //nolint:staticcheck // the toolchain that runs this test
	source, err := os.ReadFile(filepath.Join(root, "time.go"))
	if err != nil {
		return err
	}
	if !strings.Contains(string(source), now) {
		return errors.New("time.Now is written in another way: adapt this test")
	}
	source = bytes.Replace(source, []byte(now), []byte(now+"\tsec += testOffset\n"), 1)
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{
		filepath.Join(root, "time.go"):   filepath.Join(dir, "time.go"),
		filepath.Join(root, "offset.go"): filepath.Join(dir, "offset.go"),
	}})
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{"time.go": source, "offset.go": []byte(offset), "overlay.json": overlay} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return err
		}
	}
	out, err := exec.Command("go", "test", "-c", "-overlay", filepath.Join(dir, "overlay.json"), "-o", to, ".").CombinedOutput()
	if err != nil {
		return fmt.Errorf("build: %w: %s", err, out)
	}
	return nil
}
