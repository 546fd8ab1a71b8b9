//go:build linux || darwin

package sqlite

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// spaceLeft is how many bytes the file system of a directory still takes.
func spaceLeft(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("ask for the space left at %s: %w", dir, err)
	}
	return st.Bavail * uint64(st.Bsize), nil
}
