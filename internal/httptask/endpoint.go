package httptask

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/stemjobs/stem/internal/foreign"
)

const (
	// DefaultTimeout bounds one call of a task that says nothing.
	DefaultTimeout = 30 * time.Second
	// MaxRedirects is how many redirects are followed.
	MaxRedirects = 5

	maxURL = 4 << 10
)

// The headers that a call has of its own.
const (
	headerSignature = "Stem-Signature"
	headerKey       = "Idempotency-Key"
	prefixOwn       = "Stem-"
)

// Endpoint is where a task's arguments are sent, and how.
type Endpoint struct {
	URL       *url.URL // as ParseURL returns it
	Method    string   // POST, PUT or PATCH; "": POST
	Headers   []Header
	Timeout   time.Duration // of one call with its redirects and its answer; 0: DefaultTimeout
	Secrets   []Value       // each signs, so that a receiver can be moved from one to the next
	Guard     Guard
	MaxResult int // bytes; 0: foreign.MaxResult
}

// Header is one that is sent to the endpoint, and to no other host.
type Header struct {
	Name  string
	Value Value
}

// Task sends calls to an endpoint. It is safe for concurrent use.
type Task struct {
	e         Endpoint
	transport *http.Transport
}

// New makes the task of an endpoint, with connections of that pool.
func New(p *Pool, e Endpoint) (*Task, error) {
	if e.Method == "" {
		e.Method = http.MethodPost
	}
	if e.Timeout == 0 {
		e.Timeout = DefaultTimeout
	}
	if e.MaxResult == 0 {
		e.MaxResult = foreign.MaxResult
	}
	if err := checkURL(e.URL); err != nil {
		return nil, err
	}
	if addr, err := netip.ParseAddr(e.URL.Hostname()); err == nil {
		if err := e.Guard.Check(addr); err != nil {
			return nil, err
		}
	}
	return &Task{e: e, transport: p.transport(e.Guard)}, nil
}

// ParseURL reads an endpoint's URL. Its errors do not show it.
func ParseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || len(s) > maxURL {
		return nil, errors.New("it is no URL: want one like https://host/path")
	}
	u.Fragment, u.RawFragment = "", "" // is never sent
	return u, checkURL(u)
}

func checkURL(u *url.URL) error {
	switch {
	case u == nil || u.Scheme != "http" && u.Scheme != "https" || u.Opaque != "":
		return errors.New("want an http:// or https:// URL")
	case u.User != nil:
		return errors.New("its user name and password would be seen: send a header instead, with its value in a file")
	case u.Hostname() == "":
		return errors.New("it names no host")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return errors.New("its port is none: want a number from 1 to 65535")
		}
	}
	return nil
}

// ParseMethod reads a method that has a body.
func ParseMethod(s string) (string, error) {
	switch m := strings.ToUpper(s); m {
	case http.MethodPost, http.MethodPut, http.MethodPatch:
		return m, nil
	}
	return "", fmt.Errorf("%.20q: want POST, PUT or PATCH, which have a body for the arguments", s)
}

// ParseHeader reads a header of an endpoint. A value of "@" and a path stands
// for what is in that file.
func ParseHeader(name, value string) (Header, error) {
	if name == "" || strings.ContainsFunc(name, notInName) {
		return Header{}, fmt.Errorf("%.60q: want a header's name of letters, digits and dashes", name)
	}
	name = http.CanonicalHeaderKey(name)
	switch {
	case name == headerKey || strings.HasPrefix(name, prefixOwn):
		return Header{}, fmt.Errorf("%s: Stem sets it", name)
	case ofConnection(name):
		return Header{}, fmt.Errorf("%s: it belongs to the connection", name)
	}
	if path, ok := strings.CutPrefix(value, "@"); ok && path != "" {
		return Header{name, InFile(path)}, nil
	}
	return Header{name, Text(value)}, checkValue(name, value)
}

func notInName(r rune) bool {
	return r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
}

// ofConnection tells headers by which a client and a server, or what lies
// between them, agree on how to talk.
func ofConnection(name string) bool {
	switch name {
	case "Accept-Encoding", "Connection", "Content-Length", "Expect", "Host", "Keep-Alive", "Te", "Trailer",
		"Transfer-Encoding", "Upgrade":
		return true
	}
	return strings.HasPrefix(name, "Proxy-")
}

func checkValue(name, value string) error {
	if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
		return fmt.Errorf("%s: its value has control characters", name)
	}
	return nil
}
