package stemcmd

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/internal/nearest"
)

// A stream is stored in batches of at most so much, and no more than that is
// read ahead.
const (
	streamBatch = 1000
	streamBytes = 4 << 20
	maxLine     = 16 << 20 // longer lines are skipped
)

// streamLine is one line of enqueue --stdin.
type streamLine struct {
	Task           string                     `json:"task"`
	Name           string                     `json:"name"` // as the HTTP API calls it: parseLine makes it Task
	Args           json.RawMessage            `json:"args"`
	Queue          *string                    `json:"queue"`
	Priority       *int                       `json:"priority"`
	ID             *string                    `json:"id"`
	In             *string                    `json:"in"`
	At             *string                    `json:"at"`
	MaxRetries     *int                       `json:"maxRetries"`
	Headers        map[string]string          `json:"headers"`
	Meta           map[string]json.RawMessage `json:"meta"`
	ExpiresIn      *string                    `json:"expiresIn"`
	ExpiresAt      *string                    `json:"expiresAt"`
	IdempotencyKey *string                    `json:"idempotencyKey"`
	IdempotencyTTL *string                    `json:"idempotencyTtl"`
}

// parseLine reads a line strictly: a field that nobody knows is a mistake.
func parseLine(raw []byte) (*streamLine, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	l := &streamLine{}
	if err := d.Decode(l); err != nil {
		return nil, fmt.Errorf("want one JSON object a line: %w", lineError[streamLine](err))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("want one JSON object a line: more follows it")
	}
	switch {
	case l.Name != "" && l.Task != "":
		return nil, errors.New(`"task" and "name" say the same: give one of them`)
	case l.Task == "":
		l.Task = l.Name
	}
	return l, nil
}

// lineError says what is wrong with a line in the words of a line, and not of
// the T that it is read into.
func lineError[T any](err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the line ends in the middle of the object")
	}
	var typed *json.UnmarshalTypeError
	if errors.As(err, &typed) {
		want := "an object"
		switch typed.Type.Kind() {
		case reflect.Int, reflect.Int64:
			want = "a whole number"
		case reflect.String:
			want = "a string"
		case reflect.Bool:
			want = "true or false"
		case reflect.Slice:
			want = "an array"
		}
		if typed.Field == "" {
			return fmt.Errorf("this is a JSON %s", typed.Value)
		}
		return fmt.Errorf("%s: want %s, got a JSON %s", typed.Field, want, typed.Value)
	}
	field, ok := strings.CutPrefix(err.Error(), "json: unknown field ")
	if !ok {
		return err
	}
	var known []string
	for _, f := range reflect.VisibleFields(reflect.TypeFor[T]()) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		known = append(known, name)
	}
	if n := nearest.Word(strings.Trim(field, `"`), known); n != "" {
		return fmt.Errorf("unknown field %s; did you mean %q?", field, n)
	}
	return fmt.Errorf("unknown field %s (known: %s)", field, strings.Join(known, ", "))
}

// options turns the fields of a line into options.
func (l *streamLine) options() (opts []stem.Option, err error) {
	span := func(field string, text *string, option func(time.Duration) stem.Option) {
		if text == nil || err != nil {
			return
		}
		d, parseErr := time.ParseDuration(*text)
		if parseErr != nil || d < 0 {
			err = fmt.Errorf("%s %q: want a duration of zero or more, such as 5m", field, *text)
			return
		}
		opts = append(opts, option(d))
	}
	at := func(field string, text *string, option func(time.Time) stem.Option) {
		if text == nil || err != nil {
			return
		}
		t, parseErr := parseInstant(*text)
		if parseErr != nil {
			err = fmt.Errorf("%s %q: %w", field, *text, parseErr)
			return
		}
		opts = append(opts, option(t))
	}
	if l.Queue != nil {
		opts = append(opts, stem.Queue(*l.Queue))
	}
	if l.Priority != nil {
		opts = append(opts, stem.Priority(*l.Priority))
	}
	if l.ID != nil {
		opts = append(opts, stem.ID(*l.ID))
	}
	if l.MaxRetries != nil {
		opts = append(opts, stem.MaxRetries(*l.MaxRetries))
	}
	span("in", l.In, stem.In)
	at("at", l.At, stem.At)
	span("expiresIn", l.ExpiresIn, stem.ExpiresIn)
	at("expiresAt", l.ExpiresAt, stem.ExpiresAt)
	for k, v := range l.Headers {
		opts = append(opts, stem.Header(k, v))
	}
	for k, v := range l.Meta {
		opts = append(opts, stem.Meta(k, v))
	}
	switch {
	case l.IdempotencyKey != nil && l.IdempotencyTTL != nil:
		span("idempotencyTtl", l.IdempotencyTTL, func(d time.Duration) stem.Option { return stem.Idempotency(*l.IdempotencyKey, d) })
	case l.IdempotencyKey != nil || l.IdempotencyTTL != nil:
		err = errors.Join(err, errors.New("idempotencyKey and idempotencyTtl go together"))
	}
	return opts, err
}

// streamItem is a line as an item, or what is wrong with it.
type streamItem struct {
	line  int
	item  stem.Item
	err   error
	bytes int
}

// stream reads lines ahead of who stores them: while one batch is on its way
// the next gathers, and a slow producer's lines wait for nobody.
type stream struct {
	mu      sync.Mutex
	waiting []streamItem
	bytes   int
	ended   bool
	err     error // of the reading

	more  chan struct{} // something came, or the end
	space chan struct{} // something was taken
}

func newStream() *stream {
	return &stream{more: make(chan struct{}, 1), space: make(chan struct{}, 1)}
}

func signalOn(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is signalled already
	}
}

// read turns lines into items until the end of the input or of ctx.
func (q *stream) read(ctx context.Context, in io.Reader, make func([]byte) (stem.Item, error)) {
	r := bufio.NewReaderSize(in, 256<<10)
	for n := 1; ; n++ {
		raw, tooLong, err := readLongLine(r, maxLine)
		if len(bytes.TrimSpace(raw)) > 0 || tooLong {
			x := streamItem{line: n, bytes: len(raw)}
			if tooLong {
				x.err = fmt.Errorf("the line is longer than %d bytes", maxLine)
			} else {
				x.item, x.err = make(raw)
			}
			if !q.put(ctx, x) {
				return
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			q.mu.Lock()
			q.ended, q.err = true, err
			q.mu.Unlock()
			signalOn(q.more)
			return
		}
	}
}

// readLongLine returns one line of at most limit bytes without its newline;
// the rest of a longer one is skipped.
func readLongLine(r *bufio.Reader, limit int) (line []byte, tooLong bool, err error) {
	for {
		part, err := r.ReadSlice('\n')
		if !tooLong && len(line)+len(part) > limit {
			line, tooLong = nil, true
		}
		if !tooLong {
			line = append(line, part...)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return bytes.TrimSuffix(line, []byte("\n")), tooLong, err
		}
	}
}

// put adds an item when there is space, and reports whether it did before ctx
// ended.
func (q *stream) put(ctx context.Context, x streamItem) bool {
	for {
		q.mu.Lock()
		if len(q.waiting) < streamBatch && q.bytes < streamBytes {
			q.waiting = append(q.waiting, x)
			q.bytes += x.bytes
			q.mu.Unlock()
			signalOn(q.more)
			return true
		}
		q.mu.Unlock()
		select {
		case <-q.space:
		case <-ctx.Done():
			return false
		}
	}
}

// take returns all that waits, at least one item; nil at the end.
func (q *stream) take(ctx context.Context) ([]streamItem, error) {
	for {
		q.mu.Lock()
		batch, ended, err := q.waiting, q.ended, q.err
		q.waiting, q.bytes = nil, 0
		q.mu.Unlock()
		signalOn(q.space)
		if len(batch) > 0 {
			return batch, nil
		}
		if ended {
			return nil, err
		}
		select {
		case <-q.more:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
