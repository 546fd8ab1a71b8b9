package sqlite

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// LockHolders returns the ids of the processes that hold the lock of a file's
// writers just now, as this host's kernel tells it. There is one at most, for a
// moment at a time; one that was stopped inside a transaction holds it until it
// goes on or dies, and all others wait for it. An empty list also means that the
// kernel does not tell.
func LockHolders(path string) ([]int, error) {
	info, err := os.Stat(path + "-lock")
	if err != nil {
		return nil, err
	}
	st := unix.Stat_t{}
	if err := unix.Stat(path+"-lock", &st); err != nil {
		return nil, fmt.Errorf("look at %s-lock: %w", path, err)
	}
	data, err := os.ReadFile("/proc/locks")
	if err != nil {
		return nil, err
	}
	var pids []int
	for line := range strings.Lines(string(data)) {
		// 1: FLOCK  ADVISORY  WRITE 708 08:01:13 0 EOF; who waits has a "->".
		f := strings.Fields(line)
		if len(f) < 6 || f[1] != "FLOCK" || f[3] != "WRITE" {
			continue
		}
		inode := f[5][strings.LastIndexByte(f[5], ':')+1:]
		pid, err := strconv.Atoi(f[4])
		if err == nil && inode == strconv.FormatUint(st.Ino, 10) && hasOpen(pid, info) {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

// hasOpen tells whether the process has the file open, since inodes of several
// file systems have the same numbers. Of a process of somebody else it cannot be
// told, and is believed.
func hasOpen(pid int, file os.FileInfo) bool {
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil || len(links) == 0 {
		return true
	}
	return slices.ContainsFunc(links, func(link string) bool {
		info, err := os.Stat(link)
		return err == nil && os.SameFile(info, file)
	})
}
