package stemcmd

import (
	"bufio"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"unicode"
	"unicode/utf8"
)

// pipe is an output stream that may be closed by its reader, as in
// "stem tasks ls | head -1": what is written after that is dropped, in silence.
// It is safe for concurrent use.
type pipe struct {
	mu   sync.Mutex
	w    io.Writer
	gone atomic.Bool // the reader went away
}

func newPipe(w io.Writer) *pipe {
	if w == nil {
		w = io.Discard
	}
	return &pipe{w: w}
}

func (p *pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone.Load() {
		return len(b), nil
	}
	n, err := p.w.Write(b)
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrClosedPipe) {
		p.gone.Store(true)
		return len(b), nil
	}
	return n, err
}

// clean returns text without what a terminal would obey: task names, errors
// and arguments are written by others.
func clean(text string) string {
	if !strings.ContainsFunc(text, isControl) && utf8.ValidString(text) {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		switch {
		case !isControl(r):
			b.WriteRune(r)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\x1b':
			b.WriteString(`\e`)
		default:
			b.WriteRune(unicode.ReplacementChar)
		}
	}
	return b.String()
}

// isControl reports whether a rune moves the cursor, hides or reorders text.
func isControl(r rune) bool {
	return r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r))
}

// oneLine is clean for a cell of a table, cut to so many runes.
func oneLine(text string, limit int) string {
	text = strings.Join(strings.Fields(clean(text)), " ")
	if utf8.RuneCountInString(text) <= limit {
		return text
	}
	runes := []rune(text)
	return string(runes[:limit-1]) + "…"
}

// readAll reads a stream to its end, at most limit bytes. It returns early
// when ctx ends; the reading goroutine then ends with the process, or with the
// stream.
func readAll(ctx context.Context, r io.Reader, limit int64) ([]byte, error) {
	type result struct {
		data []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		data, err := io.ReadAll(io.LimitReader(r, limit))
		done <- result{data, err}
	}()
	select {
	case x := <-done:
		return x.data, x.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// readLine reads one line, as readAll reads all.
func readLine(ctx context.Context, r io.Reader) (string, error) {
	done := make(chan string, 1)
	failed := make(chan error, 1)
	go func() {
		line, err := bufio.NewReader(io.LimitReader(r, 4096)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			failed <- err
			return
		}
		done <- line
	}()
	select {
	case line := <-done:
		return line, nil
	case err := <-failed:
		return "", err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}
