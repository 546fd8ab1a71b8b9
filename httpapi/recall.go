package httpapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/stemjobs/stem/store"
)

// recalled is an answer as the store keeps it for the other servers, where the
// store has memos.
type recalled struct {
	Hash   []byte          `json:"hash"`  // of the request
	Until  int64           `json:"until"` // ms: as long as it may be repeated
	Answer json.RawMessage `json:"answer"`
}

// again is what has to be remembered of a request for other servers.
type again struct {
	memos store.Memos // nil: the request has no requestId, or the store no memos
	key   string
	hash  []byte
}

// again is how a request with that requestId is remembered.
func (s *Server) again(c *call, id string) again {
	memos := s.client.Memos()
	if id == "" || memos == nil {
		return again{}
	}
	hash, key := sha256.Sum256(c.raw), sha256.Sum256([]byte(memoKey(c, id)))
	return again{memos: memos, key: "request:" + hex.EncodeToString(key[:]), hash: hash[:]}
}

// look is the answer that a server gave to the request already; nil: none did.
func (a *again) look(ctx context.Context) (json.RawMessage, time.Time, error) {
	if a.memos == nil {
		return nil, time.Time{}, nil
	}
	raw, err := a.memos.Look(ctx, a.key)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("look for an earlier answer: %w", err)
	}
	return a.read(raw)
}

func (a *again) read(raw []byte) (json.RawMessage, time.Time, error) {
	var r recalled
	switch {
	case raw == nil:
		return nil, time.Time{}, nil
	case json.Unmarshal(raw, &r) != nil:
		return nil, time.Time{}, nil // of another version
	case !bytes.Equal(r.Hash, a.hash):
		return nil, time.Time{}, requestReused()
	}
	return r.Answer, time.UnixMilli(r.Until), nil
}

// keep remembers an answer, unless another server was first: then it returns
// that one's. When the store does not take it, the other servers do not know
// it, and all else stands.
func (a *again) keep(ctx context.Context, s *Server, answer any, until time.Time) (json.RawMessage, time.Time, error) {
	if a.memos == nil {
		return nil, time.Time{}, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), brokerTime)
	defer cancel()
	raw, err := json.Marshal(answer)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("encode the answer: %w", err)
	}
	value, err := json.Marshal(recalled{Hash: a.hash, Until: until.UnixMilli(), Answer: raw})
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("encode the answer: %w", err)
	}
	if len(value) > store.MaxMemo {
		s.opts.Logger.WarnContext(ctx, "an answer is too large to be remembered for other servers", "bytes", len(value))
		return nil, time.Time{}, nil
	}
	there, err := a.memos.Swap(ctx, a.key, nil, value, max(time.Until(until), time.Millisecond))
	if err != nil {
		s.opts.Logger.WarnContext(ctx, "an answer could not be remembered for other servers", "error", err)
		return nil, time.Time{}, nil
	}
	if bytes.Equal(there, value) {
		return nil, time.Time{}, nil
	}
	return a.read(there)
}
