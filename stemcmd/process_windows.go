package stemcmd

import (
	"os"
	"os/exec"
	"syscall"
)

// processLives reports whether there is a process of that id.
func processLives(pid int) bool {
	p, err := os.FindProcess(pid)
	if err != nil {
		return false
	}
	_ = p.Release() // it was only looked for
	return true
}

// detach makes a command outlive this process, in a group of its own.
func detach(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

// stopSignal is what ends a worker: Windows has but one way to end the process of
// somebody else, and leases bring the work back. worker shutdown is the warm one.
func stopSignal(mode string) (os.Signal, bool) {
	return os.Kill, mode == "warm" || mode == "soft" || mode == "hard"
}
