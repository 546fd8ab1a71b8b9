package redis

import (
	"bytes"
	"strconv"
	"strings"
	"time"

	"github.com/stemjobs/stem/task"
)

// An envelope is stored without what stands beside it anyway: its id in the key,
// its queue, priority, attempt and enqueuedAt in the value's line. That is a
// quarter of a small task, for the server to keep and for every script to hand
// on. What begins with a name was made lean so; an envelope of another order of
// fields stays as it is.

const (
	wholeStart = `{"id":"`
	leanStart  = `{"name":`
	leanTime   = "2006-01-02T15:04:05.000Z"
)

// appendMoments appends the moments that a value's line has, and appendNumbers the
// numbers: each with a comma before it, as they follow one another in an envelope.
func appendMoments(b []byte, enqueued, notBefore time.Time) []byte {
	b = append(enqueued.UTC().AppendFormat(append(b, `,"enqueuedAt":"`...), leanTime), '"')
	if notBefore.IsZero() {
		return b
	}
	return append(notBefore.UTC().AppendFormat(append(b, `,"notBefore":"`...), leanTime), '"')
}

func appendNumbers(b []byte, priority, attempt int) []byte {
	b = strconv.AppendInt(append(b, `,"priority":`...), int64(priority), 10)
	return strconv.AppendInt(append(b, `,"attempt":`...), int64(attempt), 10)
}

func appendQueue(b []byte, queue string) []byte {
	return append(append(append(b, `,"queue":"`...), queue...), '"')
}

// leanOf returns the parts that are stored of an encoded envelope, and by how much
// its args move to the front.
func leanOf(e *task.Envelope, data []byte) (parts [6][]byte, moved int) {
	head := len(wholeStart) + len(e.ID) + len(`",`)
	argsEnd := head + len(`"name":"","args":`) + len(e.Name) + len(e.Args)
	hidden := !e.NotBefore.IsZero() && millis(e.NotBefore) == 0 // 1970, which the line would take for none
	if hidden || len(data) < argsEnd || !bytes.HasPrefix(data[head:], []byte(leanStart[1:])) {
		return [6][]byte{data}, 0
	}
	var buf [192]byte
	before, rest, ok := bytes.Cut(data[argsEnd:], appendMoments(buf[:0], e.EnqueuedAt, e.NotBefore))
	parts[0], parts[1], parts[2] = []byte("{"), data[head:argsEnd], before
	if ok {
		parts[3], rest, ok = bytes.Cut(rest, appendNumbers(buf[:0], e.Priority, e.Attempt))
	}
	if ok {
		parts[4], parts[5], ok = bytes.Cut(rest, appendQueue(buf[:0], e.Queue))
	}
	if !ok {
		return [6][]byte{data}, 0
	}
	return parts, head - 1
}

// fatten gives a lean envelope back what it lacks.
func (p *value) fatten(id string) {
	if !strings.HasPrefix(p.envelope, leanStart) {
		return
	}
	b := make([]byte, 0, len(p.envelope)+len(id)+len(p.queue)+192)
	b = append(append(append(b, wholeStart...), id...), '"')
	b = appendQueue(b, p.queue)
	b = appendMoments(b, time.UnixMilli(p.enqueued), moment(p.notBefore))
	b = append(appendNumbers(b, p.priority, p.attempt), ',')
	p.argsAt += len(b) - 1
	p.envelope = string(append(b, p.envelope[1:]...))
}
