package sqlite

// datagrams says whether this system has datagram sockets with a path.
const datagrams = false

// isRefused reports whether a socket's owner is gone.
func isRefused(error) bool { return false }
