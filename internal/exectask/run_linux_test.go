package exectask_test

import (
	"os"
	"os/exec"
	"testing"
)

// TestDiesWithTheWorker: a worker that is killed takes its commands with it.
func TestDiesWithTheWorker(t *testing.T) {
	w := newWatcher(t)
	worker := exec.Command(os.Args[0], w.address)
	worker.Env = append(os.Environ(), helperVariable+"=worker")
	if err := worker.Start(); err != nil {
		t.Fatal(err)
	}
	c := w.meet(t)
	if err := worker.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := worker.Wait(); err == nil {
		t.Error("the worker ended well")
	}
	mourn(t, c)
}
