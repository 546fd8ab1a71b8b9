//go:build unix

package sqlite

import (
	"errors"

	"golang.org/x/sys/unix"
)

// datagrams says whether this system has datagram sockets with a path.
const datagrams = true

// isRefused reports whether a socket's owner is gone.
func isRefused(err error) bool {
	return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT)
}
