package redis

import (
	"bytes"
	"encoding/json"
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

// lean reports whether an envelope is kept without what the key and the line say.
func (p *value) lean() bool { return strings.HasPrefix(p.envelope, leanStart) }

// whole is an envelope with all that belongs to it, as it was published.
func (p *value) whole(id string) []byte {
	if !p.lean() {
		return []byte(p.envelope)
	}
	return append(p.appendKnown(make([]byte, 0, p.size(id)), id), p.envelope[1:]...)
}

// appendKnown appends what a lean envelope lacks.
func (p *value) appendKnown(b []byte, id string) []byte {
	b = append(append(append(b, wholeStart...), id...), '"')
	b = appendQueue(b, p.queue)
	b = appendMoments(b, time.UnixMilli(p.enqueued), moment(p.notBefore))
	return append(appendNumbers(b, p.priority, p.attempt), ',')
}

// size is how many bytes the whole envelope has.
func (p *value) size(id string) int {
	if !p.lean() {
		return len(p.envelope)
	}
	const moments, numbers = len(`,"enqueuedAt":"","notBefore":""`) + 2*len(leanTime), len(`,"priority":0,"attempt":0,`)
	n := len(p.envelope) - 1 + len(wholeStart) + len(id) + 1 + len(`,"queue":""`) + len(p.queue) + moments + numbers
	if p.notBefore == 0 {
		n -= len(`,"notBefore":""`) + len(leanTime)
	}
	return n + digits(p.attempt) - 1
}

// digits is how many a number has that is not below 0.
func digits(n int) int {
	count := 1
	for ; n >= 10; n /= 10 {
		count++
	}
	return count
}

// known are the fields that a lean envelope lacks.
func (p *value) known(id string) task.Envelope {
	return task.Envelope{
		ID: id, Queue: p.queue, EnqueuedAt: time.UnixMilli(p.enqueued).UTC(), NotBefore: moment(p.notBefore),
		Priority: p.priority, Attempt: p.attempt,
	}
}

// decode reads the envelope, of which an ended task may have a part of the args
// alone.
func (p *value) decode(id string) (*task.Envelope, error) {
	text, args := p.envelope, json.RawMessage(nil)
	if p.flag&flagCut != 0 {
		kept, at := 1024, p.argsAt
		if p.flag&flagBare != 0 {
			kept = 0
		}
		if at+kept > len(text) {
			return nil, errForeign
		}
		if kept > 0 {
			args = task.KeepArgs(json.RawMessage(text[at:at+kept] + strings.Repeat(" ", max(0, p.argsLen-kept))))
		}
		text = text[:at] + "null" + text[at+kept:]
	}
	var e *task.Envelope
	var err error
	if p.lean() {
		e, err = task.DecodeRest(text, p.known(id))
	} else {
		e, err = task.Decode([]byte(text))
	}
	if err == nil && p.flag&flagCut != 0 {
		e.Args = args
	}
	return e, err
}
