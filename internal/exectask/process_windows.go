package exectask

import (
	"os"
	"os/exec"
	"syscall"
)

// baseEnvironment names what every command sees of the worker's environment:
// PATH and what programs on Windows do not start without.
func baseEnvironment() []string {
	return []string{"PATH", "PATHEXT", "SystemRoot", "SystemDrive", "ComSpec", "USERPROFILE", "LANG", "TEMP", "TMP"}
}

// prepare keeps the console's interrupts away from the command.
func prepare(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

func awaitExit(*os.Process) bool { return false }

// Windows has no signal that asks a process to end: both end the command
// itself at once.

func terminateGroup(leader *os.Process) { killGroup(leader) }

func killGroup(leader *os.Process) { _ = leader.Kill() }

func signalName(*os.ProcessState) string { return "unknown" }
