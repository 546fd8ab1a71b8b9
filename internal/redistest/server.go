//go:build unix

package redistest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Options shape a server. The zero value is one in memory that persists
// nothing.
type Options struct {
	// AOF is "always", "everysec" or "no", for an append-only file with that
	// appendfsync; "": no such file.
	AOF string
	// TLS adds a port that speaks TLS, with a certificate of this authority for
	// 127.0.0.1 and localhost; nil: none.
	TLS *Authority
	// TLSClients requires client certificates of the same authority.
	TLSClients bool
	// Password is what the default user needs; "": nothing.
	Password string
	// Config has more lines of redis.conf.
	Config []string

	certificate *Certificate // in place of one that TLS issues
	cluster     bool
	sentinel    bool
	known       []string // Sentinel's own lines
}

// Server is one redis-server process. Its methods fail the test when they
// cannot do what they say; of a server that Launch started they panic.
type Server struct {
	Addr    string // host:port, without TLS
	TLSAddr string // host:port, with TLS; "": none
	Socket  string // path of the unix socket
	Dir     string // where it persists

	options Options
	fail    func(error)
	cmd     *exec.Cmd
	watcher *exec.Cmd
	watched io.Closer
	ended   chan struct{} // closed when the process has ended; nil before the first start

	mu   sync.Mutex // one command at a time: parallel tests share a server
	conn *Conn
}

// Program is what the tests need.
const Program = "redis-server"

// errMissing says how to get the program.
var errMissing = errors.New("redis-server is missing; on Debian: apt-get install redis-server")

// Start starts a server that ends with the test.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	s, err := Launch(o)
	if err != nil {
		t.Fatal(err)
	}
	s.fail = func(err error) { t.Helper(); t.Fatal(err) }
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("redis-server %s said:\n%s", s.Addr, s.lastWords())
		}
		s.Close()
	})
	return s
}

// Launch starts a server that ends with Close, or with this process.
func Launch(o Options) (*Server, error) {
	if _, err := exec.LookPath(Program); err != nil {
		return nil, errMissing
	}
	dir, err := os.MkdirTemp("", "stemredis") // short: a socket's path is 104 bytes at most
	if err != nil {
		return nil, err
	}
	s := &Server{Dir: dir, Socket: filepath.Join(dir, "s"), options: o, fail: func(err error) { panic(err) }}
	const tries = 5 // somebody else may take a port in between
	for range tries {
		if err = s.configure(); err == nil {
			err = s.start()
		}
		if err == nil {
			return s, nil
		}
	}
	return nil, errors.Join(err, os.RemoveAll(dir))
}

// configure chooses ports and writes redis.conf.
func (s *Server) configure() error {
	port, err := freePort()
	if err != nil {
		return err
	}
	s.Addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	lines := []string{
		"bind 127.0.0.1", "port " + strconv.Itoa(port), "unixsocket " + s.Socket,
		"dir " + s.Dir, "logfile " + filepath.Join(s.Dir, "log"), "daemonize no",
	}
	if !s.options.sentinel {
		lines = append(lines, `save ""`, "repl-diskless-sync-delay 0", "repl-ping-replica-period 1")
	}
	if s.options.AOF != "" {
		lines = append(lines, "appendonly yes", "appendfsync "+s.options.AOF)
	}
	if s.options.Password != "" {
		lines = append(lines, "requirepass "+s.options.Password, "masterauth "+s.options.Password)
	}
	if s.options.cluster {
		lines = append(lines, "cluster-enabled yes", "cluster-node-timeout 1000", "cluster-replica-validity-factor 0")
	}
	if s.options.TLS != nil {
		more, err := s.configureTLS()
		if err != nil {
			return err
		}
		lines = append(lines, more...)
	}
	lines = append(append(lines, s.options.known...), s.options.Config...)
	return os.WriteFile(filepath.Join(s.Dir, "redis.conf"), []byte(strings.Join(lines, "\n")+"\n"), 0o600)
}

func (s *Server) configureTLS() ([]string, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	s.TLSAddr = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	c := s.options.certificate
	if c == nil {
		issued, err := s.options.TLS.Issue(Subject{Hosts: []string{"127.0.0.1", "localhost"}})
		if err != nil {
			return nil, err
		}
		c = &issued
	}
	clients := "no"
	if s.options.TLSClients {
		clients = "yes"
	}
	return []string{
		"tls-port " + strconv.Itoa(port), "tls-cert-file " + c.CertFile, "tls-key-file " + c.KeyFile,
		"tls-ca-cert-file " + s.options.TLS.CertFile, "tls-auth-clients " + clients,
	}, nil
}

// start starts the process and returns when it answers.
func (s *Server) start() error {
	args := []string{filepath.Join(s.Dir, "redis.conf")}
	if s.options.sentinel {
		args = append(args, "--sentinel")
	}
	var said bytes.Buffer
	s.cmd = exec.Command(Program, args...)
	s.cmd.Stdout, s.cmd.Stderr = &said, &said
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's ^C is the test's business
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("start redis-server: %w", err)
	}
	ended := make(chan struct{})
	s.ended = ended
	go func(cmd *exec.Cmd) {
		defer close(ended)
		_ = cmd.Wait() // how it ended is asked of the log
	}(s.cmd)
	if err := s.watch(); err != nil {
		s.signal(syscall.SIGKILL)
		<-ended
		return err
	}
	deadline := time.Now().Add(20 * time.Second)
	for time.Now().Before(deadline) {
		if s.answers() {
			return nil
		}
		select {
		case <-ended:
			s.unwatch()
			return fmt.Errorf("redis-server ended at once: %s%s", said.String(), s.lastWords())
		case <-time.After(time.Millisecond):
		}
	}
	s.Kill()
	return fmt.Errorf("redis-server does not answer: %s", s.lastWords())
}

// watch starts a process that kills the server when this process dies without
// having ended it.
func (s *Server) watch() error {
	s.watcher = exec.Command("/bin/sh", "-c", `read -r _; kill -KILL "$0"`, strconv.Itoa(s.cmd.Process.Pid))
	s.watcher.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := s.watcher.StdinPipe()
	if err != nil {
		return err
	}
	s.watched = in
	return s.watcher.Start()
}

func (s *Server) unwatch() {
	if s.watcher == nil || s.watcher.Process == nil {
		return
	}
	_ = s.watcher.Process.Kill() // before its input ends, so that it kills nobody
	_ = s.watcher.Wait()
	_ = s.watched.Close()
	s.watcher = nil
}

// answers reports whether the server serves commands; it may be loading.
func (s *Server) answers() bool {
	c, err := Dial("unix", s.Socket)
	if err != nil {
		return false
	}
	defer c.Close()
	if s.options.Password != "" {
		if _, err := c.Do("AUTH", s.options.Password); err != nil {
			return false
		}
	}
	pong, err := c.Do("PING")
	return err == nil && pong == "PONG"
}

// Port is the port of Addr.
func (s *Server) Port() int {
	_, port, _ := net.SplitHostPort(s.Addr)
	n, _ := strconv.Atoi(port) // it was written by this package
	return n
}

// URL is the redis:// URL of a logical database.
func (s *Server) URL(db int) string {
	who := ""
	if s.options.Password != "" {
		who = ":" + s.options.Password + "@"
	}
	return fmt.Sprintf("redis://%s%s/%d", who, s.Addr, db)
}

// PID is the process id.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Running reports whether the process has not ended.
func (s *Server) Running() bool {
	select {
	case <-s.ended:
		return false
	default:
		return true
	}
}

func (s *Server) signal(sig syscall.Signal) {
	if err := s.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.fail(fmt.Errorf("send %s to redis-server: %w", sig, err))
	}
}

func (s *Server) end(sig syscall.Signal) {
	s.signal(syscall.SIGCONT) // it may be paused
	s.signal(sig)
	select {
	case <-s.ended:
	case <-time.After(20 * time.Second):
		s.signal(syscall.SIGKILL)
		<-s.ended
		s.fail(fmt.Errorf("redis-server did not end within 20s of %s", sig))
	}
	s.disconnect() // now, so that a command under way has ended
	s.unwatch()
}

// Kill ends the process by SIGKILL and returns when it has ended.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

// Stop ends the process by SIGTERM, as a service manager does: it writes what
// it has to write.
func (s *Server) Stop() { s.end(syscall.SIGTERM) }

// Restart starts the process again, on the same ports and directory, and
// returns when it has loaded.
func (s *Server) Restart() {
	if s.Running() {
		s.Stop()
	}
	if err := s.start(); err != nil {
		s.fail(err)
	}
}

// Pause stops the process in its tracks (SIGSTOP): connections stay open, and
// nothing answers.
func (s *Server) Pause() { s.signal(syscall.SIGSTOP) }

// Cont lets a paused process go on.
func (s *Server) Cont() { s.signal(syscall.SIGCONT) }

// Close ends the process and removes its directory.
func (s *Server) Close() {
	if s.Running() {
		s.Kill()
	}
	s.unwatch()
	s.disconnect()
	_ = os.RemoveAll(s.Dir) // a temporary one
}

// Do runs a command on a connection of its own and returns the reply: a string,
// an int64, nil, or []any of these. An error reply fails the test. Do and Try are
// safe for concurrent use.
func (s *Server) Do(args ...any) any {
	reply, err := s.Try(args...)
	if err != nil {
		s.fail(fmt.Errorf("%v: %w", args, err))
	}
	return reply
}

// Try is Do that returns the error, of type Error when the server said it.
func (s *Server) Try(args ...any) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	cached := s.conn != nil
	reply, err := s.try(args...)
	if said := Error(""); err != nil && cached && !errors.As(err, &said) {
		return s.try(args...) // the server ended the connection, as when it becomes a master
	}
	return reply, err
}

func (s *Server) try(args ...any) (any, error) {
	if s.conn == nil {
		c, err := Dial("unix", s.Socket)
		if err != nil {
			return nil, err
		}
		if s.options.Password != "" {
			if _, err := c.Do("AUTH", s.options.Password); err != nil {
				return nil, errors.Join(err, c.Close())
			}
		}
		s.conn = c
	}
	reply, err := s.conn.Do(args...)
	if said := Error(""); err != nil && !errors.As(err, &said) {
		s.drop()
	}
	return reply, err
}

func (s *Server) disconnect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop()
}

func (s *Server) drop() {
	if s.conn != nil {
		_ = s.conn.Close() // nothing is lost with it
		s.conn = nil
	}
}

// Info returns one field of INFO; "": there is none of that name.
func (s *Server) Info(field string) string {
	text, _ := s.Do("INFO", "everything").(string)
	for line := range strings.SplitSeq(text, "\r\n") {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			return value
		}
	}
	return ""
}

// lastWords is the end of the server's log.
func (s *Server) lastWords() string {
	log, err := os.ReadFile(filepath.Join(s.Dir, "log"))
	if err != nil {
		return ""
	}
	const most = 4 << 10
	return string(log[max(0, len(log)-most):])
}

// freePort finds a port that is free, as is the one 10,000 above it, where a
// Cluster's node listens too. It keeps below the ports that the system gives to
// clients.
func freePort() (int, error) {
	const lowest, span, bus = 11_000, 11_000, 10_000
	for range 200 {
		port := lowest + rand.IntN(span)
		if free(port) && free(port+bus) {
			return port, nil
		}
	}
	return 0, errors.New("found no free port")
}

func free(port int) bool {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return false
	}
	return l.Close() == nil
}
