//go:build !unix

package redis

import "syscall"

// hungUp does not know here: the call fails that finds out.
func hungUp(syscall.RawConn) bool { return false }
