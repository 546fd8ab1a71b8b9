// Package encode turns the arguments and results of tasks into other bytes and
// back: smaller ones, or ones that only those with the key can read.
//
// Each way is an [Encoder] with an id. They compose: the ids "gzip", "aes-gcm"
// compress first and encrypt then, and travel as the header
//
//	stem-encoder: gzip+aes-gcm
//
// with the encoded bytes as a JSON string of standard base64. The id "json"
// changes nothing and is always there. docs/wire.md says the same for other
// languages.
//
// This package imports the standard library and package task; each encoder is
// a package of its own, so that a program has only those it names.
package encode

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/stemjobs/stem/task"
)

// Encoder changes bytes and changes them back. Its methods are safe for
// concurrent use, and neither keep nor write the slices that they are given.
type Encoder interface {
	// ID names the encoder on the wire: 1–32 of a-z 0-9 . _ -. Workers find
	// their encoder by it, so an id must mean the same format for ever.
	ID() string
	// Encode returns what stands for plain.
	Encode(plain []byte) ([]byte, error)
	// Decode returns the plain bytes of what Encode made. It is given what
	// came over the wire, and bounds what it returns.
	Decode(encoded []byte) ([]byte, error)
}

// JSON is the id of the encoding that changes nothing.
const JSON = "json"

// MaxComposed is how many encoders one payload goes through at most.
const MaxComposed = 8

const maxIDLength = 32

// ErrUnknown is wrapped by the error for an encoder that a set does not have.
// The error is an [*UnknownError].
var ErrUnknown = errors.New("unknown encoder")

// UnknownError names an encoder that a set does not have, and those it has.
type UnknownError struct {
	ID    string
	Known []string
}

func (e *UnknownError) Error() string {
	return fmt.Sprintf("unknown encoder %.40q: known here: %s", e.ID, strings.Join(e.Known, ", "))
}

// Unwrap makes errors.Is(err, ErrUnknown) true.
func (e *UnknownError) Unwrap() error { return ErrUnknown }

// Set finds encoders by their ids. It never changes; a nil Set knows "json"
// alone.
type Set struct{ byID map[string]Encoder }

// NewSet makes a set of encoders. It refuses an id that breaks the form, that
// is there twice, or that is "json".
func NewSet(encoders ...Encoder) (*Set, error) {
	s := &Set{byID: make(map[string]Encoder, len(encoders))}
	for _, e := range encoders {
		id := e.ID()
		if err := validateID(id); err != nil {
			return nil, err
		}
		if _, dup := s.byID[id]; dup || id == JSON {
			return nil, fmt.Errorf("%w encoder id %q: there are two of it", task.ErrInvalid, id)
		}
		s.byID[id] = e
	}
	return s, nil
}

func validateID(id string) error {
	bad := func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-'
	}
	if id == "" || len(id) > maxIDLength || strings.ContainsFunc(id, bad) {
		return fmt.Errorf("%w encoder id %.40q: want 1–%d of a-z 0-9 . _ -", task.ErrInvalid, id, maxIDLength)
	}
	return nil
}

// IDs lists what the set knows, in order, "json" included.
func (s *Set) IDs() []string {
	ids := []string{JSON}
	if s != nil {
		for id := range s.byID {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// Check reports the first of the ids that the set does not know, as an error
// that wraps ErrUnknown.
func (s *Set) Check(ids ...string) error {
	_, err := s.find(ids)
	return err
}

// find returns the encoders of the ids without "json".
func (s *Set) find(ids []string) ([]Encoder, error) {
	var found []Encoder
	for _, id := range ids {
		if id == JSON {
			continue
		}
		var e Encoder
		if s != nil {
			e = s.byID[id]
		}
		if e == nil {
			return nil, &UnknownError{ID: id, Known: s.IDs()}
		}
		found = append(found, e)
	}
	if len(found) > MaxComposed {
		return nil, fmt.Errorf("%w encoders %s: %d of them, at most %d",
			task.ErrInvalid, strings.Join(ids, "+"), len(found), MaxComposed)
	}
	return found, nil
}

// Pack encodes plain, which is JSON, with the encoders from first to last, and
// returns what goes in its place with the header that names them. The header
// is "", and the value plain itself, where the ids say no more than "json".
func (s *Set) Pack(ids []string, plain json.RawMessage) (json.RawMessage, string, error) {
	encoders, err := s.find(ids)
	if err != nil {
		return nil, "", err
	}
	if len(encoders) == 0 {
		return plain, "", nil
	}
	data := []byte(plain)
	if plain == nil {
		data = []byte("null")
	}
	names := make([]string, len(encoders))
	for i, e := range encoders {
		if data, err = e.Encode(data); err != nil {
			return nil, "", fmt.Errorf("encode with %s: %w", e.ID(), err)
		}
		names[i] = e.ID()
	}
	packed := make([]byte, 0, base64.StdEncoding.EncodedLen(len(data))+2)
	packed = append(packed, '"')
	packed = base64.StdEncoding.AppendEncode(packed, data)
	return append(packed, '"'), strings.Join(names, "+"), nil
}

// PackAs encodes plain with the encoders that a header names.
func (s *Set) PackAs(header string, plain json.RawMessage) (json.RawMessage, error) {
	packed, _, err := s.Pack(split(header), plain)
	return packed, err
}

// Unpack gives back what Pack was given. It needs the encoders that the header
// names, from the last to the first; "" names none. The error wraps ErrUnknown
// for one that the set does not have, and task.ErrInvalid for a payload that
// is not what the header says.
func (s *Set) Unpack(header string, packed json.RawMessage) (json.RawMessage, error) {
	encoders, err := s.find(split(header))
	if err != nil {
		return nil, err
	}
	if len(encoders) == 0 {
		return packed, nil
	}
	var text string
	if err := json.Unmarshal(packed, &text); err != nil {
		return nil, fmt.Errorf("%w payload: encoded as %.80q, but no JSON string", task.ErrInvalid, header)
	}
	data, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("%w payload: encoded as %.80q: %w", task.ErrInvalid, header, err)
	}
	for _, e := range slices.Backward(encoders) {
		if data, err = e.Decode(data); err != nil {
			return nil, fmt.Errorf("%w payload: decode with %s: %w", task.ErrInvalid, e.ID(), err)
		}
	}
	if len(data) == 0 {
		return nil, fmt.Errorf("%w payload: encoded as %.80q, and empty", task.ErrInvalid, header)
	}
	if err := task.ValidateJSON("payload", data); err != nil {
		return nil, err
	}
	return data, nil
}

func split(header string) []string {
	if header == "" {
		return nil
	}
	return strings.Split(header, "+")
}
