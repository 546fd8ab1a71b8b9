//go:build unix

package redistest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// Error is what the server answers to a command that it refuses.
type Error string

func (e Error) Error() string { return string(e) }

// Conn is a connection that speaks just enough of Redis's protocol for tests.
// It is not safe for concurrent use.
type Conn struct {
	net.Conn
	in *bufio.Reader
}

// Dial connects.
func Dial(network, addr string) (*Conn, error) {
	c, err := net.DialTimeout(network, addr, 5*time.Second)
	if err != nil {
		return nil, err
	}
	return &Conn{Conn: c, in: bufio.NewReader(c)}, nil
}

// Do runs a command and returns its reply: a string, an int64, nil, or []any
// of these. Arguments are written as fmt.Sprint does. It gives up after 30 s.
func (c *Conn) Do(args ...any) (any, error) {
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return nil, err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		text := fmt.Sprint(a)
		if raw, ok := a.([]byte); ok {
			text = string(raw)
		}
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(text), text)
	}
	if _, err := io.WriteString(c.Conn, b.String()); err != nil {
		return nil, err
	}
	return c.reply()
}

func (c *Conn) reply() (any, error) {
	line, err := c.in.ReadString('\n')
	if err != nil {
		return nil, err
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return nil, errors.New("an empty reply")
	}
	kind, rest := line[0], line[1:]
	switch kind {
	case '+':
		return rest, nil
	case '-':
		return nil, Error(rest)
	case ':':
		return strconv.ParseInt(rest, 10, 64)
	}
	n, err := strconv.Atoi(rest)
	switch {
	case err != nil || kind != '$' && kind != '*':
		return nil, fmt.Errorf("cannot read the reply %q", line)
	case n < 0:
		return nil, nil
	case kind == '$':
		data := make([]byte, n+len("\r\n"))
		_, err := io.ReadFull(c.in, data)
		return string(data[:n]), err
	}
	list := make([]any, n)
	for i := range list {
		var said Error
		if list[i], err = c.reply(); errors.As(err, &said) {
			list[i] = said
		} else if err != nil {
			return nil, err
		}
	}
	return list, nil
}
