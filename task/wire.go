package task

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
)

// wireEnvelope is the envelope as JSON.
type wireEnvelope struct {
	ID                string                     `json:"id"`
	Name              string                     `json:"name"`
	Args              json.RawMessage            `json:"args"`
	Headers           map[string]string          `json:"headers,omitempty"`
	EnqueuedAt        time.Time                  `json:"enqueuedAt"`
	NotBefore         *time.Time                 `json:"notBefore,omitempty"`
	ExpiresAt         *time.Time                 `json:"expiresAt,omitempty"`
	Priority          *int                       `json:"priority,omitempty"`
	Attempt           int                        `json:"attempt"`
	MaxRetries        int                        `json:"maxRetries"`
	VisibilityTimeout int64                      `json:"visibilityTimeout,omitempty"`
	Queue             string                     `json:"queue"`
	Meta              map[string]json.RawMessage `json:"meta,omitempty"`
}

// Encode returns the envelope's wire form. It does not validate.
func Encode(e *Envelope) ([]byte, error) {
	w := wireEnvelope{
		ID: e.ID, Name: e.Name, Args: e.Args, Headers: e.Headers, EnqueuedAt: e.EnqueuedAt.UTC().Truncate(time.Millisecond),
		Priority: &e.Priority, Attempt: e.Attempt, MaxRetries: e.MaxRetries,
		VisibilityTimeout: e.VisibilityTimeout.Milliseconds(), Queue: e.Queue, Meta: e.Meta,
	}
	if w.Args == nil {
		w.Args = json.RawMessage("null")
	}
	if !e.NotBefore.IsZero() {
		t := e.NotBefore.UTC().Truncate(time.Millisecond)
		w.NotBefore = &t
	}
	if !e.ExpiresAt.IsZero() {
		t := e.ExpiresAt.UTC().Truncate(time.Millisecond)
		w.ExpiresAt = &t
	}
	return json.Marshal(w)
}

// Decode reads an envelope from its wire form and validates it. The error
// wraps ErrInvalid. The envelope may share memory with data.
func Decode(data []byte) (*Envelope, error) {
	var w wireEnvelope
	if err := json.Unmarshal(data, &w); err != nil {
		return nil, fmt.Errorf("%w envelope: %w", ErrInvalid, err)
	}
	e := &Envelope{
		ID: w.ID, Name: w.Name, Args: w.Args, Headers: w.Headers, EnqueuedAt: w.EnqueuedAt,
		Attempt: w.Attempt, MaxRetries: w.MaxRetries, Priority: DefaultPriority,
		VisibilityTimeout: time.Duration(w.VisibilityTimeout) * time.Millisecond, Queue: w.Queue, Meta: w.Meta,
	}
	if w.Priority != nil {
		e.Priority = *w.Priority
	}
	if w.NotBefore != nil {
		e.NotBefore = *w.NotBefore
	}
	if w.ExpiresAt != nil {
		e.ExpiresAt = *w.ExpiresAt
	}
	return e, e.Validate()
}

// ValidateJSON checks that raw is one well-formed JSON value of valid UTF-8,
// nested at most MaxDepth deep. Nil is valid and stands for null.
func ValidateJSON(what string, raw json.RawMessage) error {
	if raw == nil {
		return nil
	}
	if !json.Valid(bytes.TrimSpace(raw)) {
		return invalid("%s: not JSON", what)
	}
	return nil
}

// EncodedSize is about how many bytes Encode makes of the envelope, never
// fewer.
func EncodedSize(e *Envelope) int {
	b, err := Encode(e)
	if err != nil {
		return 0
	}
	return len(b)
}

// CheckSize refuses what is larger than its limit, both in bytes. The error
// wraps ErrTooLarge and says what to do instead.
func CheckSize(size, limit int) error {
	if size <= limit {
		return nil
	}
	return fmt.Errorf("%w: %d bytes, at most %d: store the payload elsewhere and pass a reference to it", ErrTooLarge, size, limit)
}
