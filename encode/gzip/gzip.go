// Package gzip is the payload encoder "gzip" (RFC 1952).
package gzip

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/stemjobs/stem/task"
)

// ID is the encoder's id on the wire.
const ID = "gzip"

// DefaultMaxDecoded is how many bytes Decode returns at most, unless told.
const DefaultMaxDecoded = 32 << 20

// Encoder compresses payloads. Make it with New; it is safe for concurrent use.
type Encoder struct {
	minSize    int
	maxDecoded int
	writers    sync.Pool // of *gzip.Writer at the default level
	stored     sync.Pool // of *gzip.Writer that does not compress
	readers    sync.Pool // of *gzip.Reader
}

// Option shapes an encoder.
type Option func(*Encoder)

// MaxDecoded bounds what Decode returns, in bytes: a few hundred bytes of
// gzip can stand for gigabytes. What is larger is an error that wraps
// task.ErrTooLarge.
func MaxDecoded(bytes int) Option { return func(e *Encoder) { e.maxDecoded = bytes } }

// New makes an encoder. Payloads of fewer than minSize bytes are framed and
// not compressed, which takes less time than it would save; every gzip reader
// reads both.
func New(minSize int, options ...Option) *Encoder {
	e := &Encoder{minSize: minSize, maxDecoded: DefaultMaxDecoded}
	for _, o := range options {
		o(e)
	}
	return e
}

// ID implements encode.Encoder.
func (e *Encoder) ID() string { return ID }

// Encode implements encode.Encoder.
func (e *Encoder) Encode(plain []byte) ([]byte, error) {
	pool, level := &e.writers, gzip.DefaultCompression
	if len(plain) < e.minSize {
		pool, level = &e.stored, gzip.NoCompression
	}
	var out bytes.Buffer
	w, ok := pool.Get().(*gzip.Writer)
	if ok {
		w.Reset(&out)
	} else {
		var err error
		if w, err = gzip.NewWriterLevel(&out, level); err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
	}
	defer pool.Put(w)
	if _, err := w.Write(plain); err != nil {
		return nil, fmt.Errorf("gzip: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("gzip: %w", err)
	}
	return out.Bytes(), nil
}

// Decode implements encode.Encoder. It reads one gzip member and refuses
// anything after it.
func (e *Encoder) Decode(encoded []byte) ([]byte, error) {
	in := bytes.NewReader(encoded)
	r, ok := e.readers.Get().(*gzip.Reader)
	if !ok {
		r = new(gzip.Reader)
	}
	if err := r.Reset(in); err != nil {
		return nil, fmt.Errorf("gunzip: %w", err)
	}
	defer e.readers.Put(r)
	r.Multistream(false)
	plain, err := io.ReadAll(io.LimitReader(r, int64(e.maxDecoded)+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("gunzip: %w", err)
	case len(plain) > e.maxDecoded:
		return nil, fmt.Errorf("gunzip %d bytes: %w: they stand for more than %d", len(encoded), task.ErrTooLarge, e.maxDecoded)
	case in.Len() > 0:
		return nil, errors.New("gunzip: there are bytes after its end")
	}
	return plain, nil
}
