//go:build !linux && !darwin && !windows

package sqlite

import "errors"

// spaceLeft is how many bytes the file system of a directory still takes.
func spaceLeft(string) (uint64, error) { return 0, errors.ErrUnsupported }
