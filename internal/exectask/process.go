package exectask

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/stemjobs/stem/internal/foreign"
)

// process is a running command with its pipes. It owns four goroutines, which
// have ended when supervise returns: one a pipe, and one that waits. It waits
// for the process itself and not with cmd.Wait, which would close the pipes
// before they are read to their end.
type process struct {
	cmd   *exec.Cmd
	group group

	stdin  io.WriteCloser
	pipes  []io.Closer // our ends of standard output and error
	stdout capture
	stderr tail
	copies sync.WaitGroup

	ended chan struct{} // closed when state and err are set
	state *os.ProcessState
	err   error
}

// start starts a command and gives it its input.
func start(cmd *exec.Cmd, input []byte, logger *slog.Logger) (*process, error) {
	p := &process{cmd: cmd, ended: make(chan struct{}), stdout: capture{full: make(chan struct{})}, stderr: tail{logger: logger}}
	prepare(cmd)
	var err error
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	errs, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err // Start has closed the pipes
	}
	p.group.lead(cmd.Process)
	p.pipes = []io.Closer{out, errs}
	p.copies.Go(func() {
		// Not every command reads all of its input, or any: that is its right.
		_, _ = p.stdin.Write(input)
		_ = p.stdin.Close()
	})
	p.copies.Go(func() { p.stdout.read(out) })
	p.copies.Go(func() { p.stderr.read(errs) })
	go p.wait()
	return p, nil
}

// wait waits for the command, and ends what it left behind in its group.
func (p *process) wait() {
	p.state, p.err = p.group.wait()
	close(p.ended)
}

// supervise returns when the command has ended, by itself or because ctx did
// or its output became too large, and its pipes are closed. grace is asked
// once how long the command has between SIGTERM and SIGKILL.
func (p *process) supervise(ctx context.Context, grace func() time.Duration) error {
	stop, full := ctx.Done(), p.stdout.full
	var kill <-chan time.Time
	for running := true; running; {
		select {
		case <-p.ended:
			running = false
			continue
		case <-kill:
			p.group.kill()
			kill = nil
			continue
		case <-stop:
		case <-full:
		}
		stop, full = nil, nil
		p.group.terminate()
		kill = time.After(grace())
	}
	p.drain()
	return p.err
}

// drain waits until the pipes are read to their end, which they are unless a
// process that left the group holds them.
func (p *process) drain() {
	done := make(chan struct{})
	go func() {
		p.copies.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(drainGrace):
	}
	_ = p.stdin.Close() // the goroutine that writes may have closed it
	for _, pipe := range p.pipes {
		_ = pipe.Close()
	}
	<-done
}

// capture keeps the beginning of standard output.
type capture struct {
	kept []byte
	over bool          // there was more
	full chan struct{} // closed when there is more
}

func (c *capture) read(r io.Reader) {
	var buf bytes.Buffer
	// A broken pipe ends the output like its end does: how the command ended
	// says the rest.
	_, _ = io.Copy(&buf, io.LimitReader(r, foreign.MaxResult+1))
	if c.kept = buf.Bytes(); len(c.kept) > foreign.MaxResult {
		c.over = true
		close(c.full)
		_, _ = io.Copy(io.Discard, r)
	}
}

// maxLine is how much of a line of standard error goes into one log record.
const maxLine = 8 << 10

// tail logs standard error line by line, and keeps its end.
type tail struct {
	logger *slog.Logger
	end    []byte // at least the last MaxMessage bytes, at most twice as many
	line   []byte
}

func (t *tail) read(r io.Reader) {
	buf := make([]byte, 4<<10)
	for {
		n, err := r.Read(buf)
		t.keep(buf[:n])
		t.log(buf[:n])
		if err != nil {
			break
		}
	}
	if len(t.line) > 0 {
		t.emit()
	}
}

func (t *tail) keep(b []byte) {
	t.end = append(t.end, b...)
	if extra := len(t.end) - MaxMessage; extra > MaxMessage {
		t.end = append(t.end[:0], t.end[extra:]...)
	}
}

func (t *tail) log(b []byte) {
	for len(b) > 0 {
		line, rest, ended := bytes.Cut(b, []byte{'\n'})
		room := maxLine - len(t.line)
		if len(line) > room {
			line, rest, ended = line[:room], b[room:], true
		}
		t.line = append(t.line, line...)
		if ended {
			t.emit()
		}
		b = rest
	}
}

func (t *tail) emit() {
	line := strings.TrimRight(string(t.line), "\r")
	t.line = t.line[:0]
	t.logger.Info("task wrote to standard error", "line", strings.ToValidUTF8(line, "\uFFFD"))
}

// text is the end of standard error without white space around it.
func (t *tail) text() string { return strings.TrimSpace(string(t.end)) }

// group is a command's process group, led by the command itself.
type group struct {
	leader *os.Process
	mu     sync.Mutex
	gone   bool // the leader was waited for, and its id may be another's
}

func (g *group) lead(p *os.Process) { g.leader = p }

func (g *group) whileThere(do func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.gone {
		do()
	}
}

// terminate asks all processes of the group to end.
func (g *group) terminate() { g.whileThere(func() { terminateGroup(g.leader) }) }

// kill ends all processes of the group.
func (g *group) kill() { g.whileThere(func() { killGroup(g.leader) }) }

// wait waits for the leader and then ends the rest of the group.
func (g *group) wait() (*os.ProcessState, error) {
	if awaitExit(g.leader) {
		// It has ended and nobody collected it: the group's id is still its own.
		g.mu.Lock()
		defer g.mu.Unlock()
		killGroup(g.leader)
		state, err := g.leader.Wait()
		g.gone = true
		return state, err
	}
	state, err := g.leader.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gone = true
	if err != nil {
		return nil, fmt.Errorf("wait for process %d: %w", g.leader.Pid, err)
	}
	killGroup(g.leader)
	return state, nil
}
