//go:build unix

package sqlite

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// datagrams says whether this system has datagram sockets with a path.
const datagrams = true

// sender sends datagrams to sockets by path, and never waits.
type sender struct{ fd int }

func newSender() (*sender, error) {
	syscall.ForkLock.RLock() // no child process gets it
	defer syscall.ForkLock.RUnlock()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		return nil, fmt.Errorf("open a socket: %w", err)
	}
	unix.CloseOnExec(fd)
	return &sender{fd}, nil
}

// send reports what became of a message: sent, or full (the receiver has many
// unread), abandoned (its owner ended without closing it), or moved (there is
// nothing of that name).
func (s *sender) send(path string, message []byte) delivery {
	for {
		err := unix.Sendto(s.fd, message, unix.MSG_DONTWAIT, &unix.SockaddrUnix{Name: path})
		switch {
		case err == nil:
			return sent
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECONNREFUSED):
			return abandoned
		case errors.Is(err, unix.ENOENT):
			return moved
		default:
			return full
		}
	}
}

func (s *sender) close() error { return unix.Close(s.fd) }
