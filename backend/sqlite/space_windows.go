package sqlite

import (
	"fmt"

	"golang.org/x/sys/windows"
)

// spaceLeft is how many bytes the file system of a directory still takes.
func spaceLeft(dir string) (uint64, error) {
	path, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return 0, fmt.Errorf("ask for the space left at %s: %w", dir, err)
	}
	var left uint64
	if err := windows.GetDiskFreeSpaceEx(path, &left, nil, nil); err != nil {
		return 0, fmt.Errorf("ask for the space left at %s: %w", dir, err)
	}
	return left, nil
}
