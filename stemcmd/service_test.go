package stemcmd_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/connect"
	"github.com/stemjobs/stem/stemcmd"
)

// service is a command that runs until it is told to stop: in this process, or
// in one of its own.
type service struct {
	t      *testing.T
	signal func(os.Signal)
	wait   func() int // returns the exit code
	stdout *lines
	log    *lines
	http   *http.Client
}

// lines are what a stream has said so far.
type lines struct {
	mu    sync.Mutex
	said  []string
	news  chan struct{} // closed when there is more
	ended bool
}

// read reads a stream to its end.
func (l *lines) read(r io.Reader) {
	in := bufio.NewScanner(r)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		l.add(in.Text(), false)
	}
	l.add("", true)
}

func (l *lines) add(line string, end bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !end {
		l.said = append(l.said, line)
	}
	l.ended = l.ended || end
	if l.news != nil {
		close(l.news)
		l.news = nil
	}
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.said, "\n")
}

// find returns the first line, from now or before, that has that text.
func (l *lines) find(t *testing.T, text string) string {
	t.Helper()
	late := time.After(time.Minute)
	for {
		l.mu.Lock()
		for _, line := range l.said {
			if strings.Contains(line, text) {
				l.mu.Unlock()
				return line
			}
		}
		ended, news := l.ended, l.news
		if news == nil {
			news = make(chan struct{})
			l.news = news
		}
		l.mu.Unlock()
		if ended {
			t.Fatalf("the stream ended without %q:\n%s", text, l)
		}
		select {
		case <-news:
		case <-late:
			t.Fatalf("not in time: %q in\n%s", text, l)
		}
	}
}

// here runs a service in this process.
func here(t *testing.T, app stemcmd.App, env []string, args ...string) *service {
	t.Helper()
	out, stdout := io.Pipe()
	log, stderr := io.Pipe()
	signals := make(chan os.Signal, 4)
	s := newService(t)
	var wg sync.WaitGroup
	wg.Go(func() { s.stdout.read(out) })
	wg.Go(func() { s.log.read(log) })
	code := 0
	wg.Go(func() {
		code = stemcmd.Run(context.Background(), app, stemcmd.Process{
			Args: args, Env: env, Stdin: strings.NewReader(""), Stdout: stdout, Stderr: stderr, Signals: signals,
		})
		_, _ = stdout.Close(), stderr.Close() // these return no errors
	})
	s.signal = func(x os.Signal) { signals <- x }
	s.wait = sync.OnceValue(func() int { wg.Wait(); return code })
	t.Cleanup(func() { s.signal(syscall.SIGQUIT); s.wait() })
	return s
}

// process runs a service in a process of its own, in that directory.
func process(t *testing.T, dir string, env []string, program string, args ...string) *service {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "GORACE=atexit_sleep_ms=0"), env...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := newService(t)
	var wg sync.WaitGroup
	wg.Go(func() { s.stdout.read(stdout) })
	wg.Go(func() { s.log.read(stderr) })
	s.signal = func(x os.Signal) {
		if err := cmd.Process.Signal(x); err != nil {
			t.Error(err)
		}
	}
	s.wait = sync.OnceValue(func() int {
		wg.Wait()
		_ = cmd.Wait() // its exit code is what is asked for
		return cmd.ProcessState.ExitCode()
	})
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		s.wait()
	})
	return s
}

func newService(t *testing.T) *service {
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	t.Cleanup(transport.CloseIdleConnections)
	return &service{t: t, stdout: &lines{}, log: &lines{}, http: &http.Client{Transport: transport}}
}

// url returns the address that a line of the log tells.
func (s *service) url(message string) string {
	s.t.Helper()
	var record struct{ Addr string }
	if err := json.Unmarshal([]byte(s.log.find(s.t, `"msg":"`+message+`"`)), &record); err != nil || record.Addr == "" {
		s.t.Fatalf("the log tells no address: %v\n%s", err, s.log)
	}
	return "http://" + record.Addr
}

// ends stops the service and checks its exit code.
func (s *service) ends(want int) {
	s.t.Helper()
	if got := s.wait(); got != want {
		s.t.Errorf("exit code %d, want %d\n%s", got, want, s.log)
	}
}

// ask sends a request; its headers are pairs. A body is JSON.
func (s *service) ask(method, url, body string, headers ...string) (int, string, error) {
	r, err := http.NewRequestWithContext(s.t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := s.http.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	var b bytes.Buffer
	_, err = io.Copy(&b, response.Body)
	return response.StatusCode, b.String(), err
}

// must sends a request whose answer has that status, and returns its body.
func (s *service) must(status int, method, url, body string, headers ...string) string {
	s.t.Helper()
	got, answer, err := s.ask(method, url, body, headers...)
	if err != nil || got != status {
		s.t.Fatalf("%s %s: status %d, want %d: %v\n%s\n%s", method, url, got, status, err, answer, s.log)
	}
	return answer
}

// storeIn opens a file as the library does.
func storeIn(t *testing.T, dir string) *stem.Client {
	t.Helper()
	backend, err := connect.Open(t.Context(), connect.Options{Broker: "sqlite:" + filepath.Join(dir, "stem.db"), MustExist: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := backend.Close(); err != nil {
			t.Error(err)
		}
	})
	client, err := stem.NewClient(backend, stem.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return client
}
