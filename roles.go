package stem

import (
	"github.com/stemjobs/stem/store"
)

// controlled is a backend with a channel to workers.
type controlled interface{ Control() store.Control }

// wrapped is a backend inside another, which has its roles.
type wrapped interface{ Unwrap() Backend }

// role finds an optional role in a backend, or in what it wraps.
func role[T any](b Backend) (T, bool) {
	for b != nil {
		if r, ok := b.(T); ok {
			return r, true
		}
		w, ok := b.(wrapped)
		if !ok {
			break
		}
		b = w.Unwrap()
	}
	var none T
	return none, false
}

// controlOf is the backend's channel to workers; nil: it has none.
func controlOf(b Backend) store.Control {
	if r, ok := role[controlled](b); ok {
		return r.Control()
	}
	return nil
}

// Control is the channel to workers of the store that has the heartbeats, so
// that who should reply is known by the same store; else of the other one.
func (p pairBackend) Control() store.Control {
	if c := controlOf(p.results); c != nil {
		return c
	}
	return controlOf(p.envelopes)
}

// remembering is a backend that keeps memos.
type remembering interface{ Memos() store.Memos }

// memosOf is what a backend keeps memos in; nil: it keeps none.
func memosOf(b Backend) store.Memos {
	if r, ok := role[remembering](b); ok {
		return r.Memos()
	}
	return nil
}

// Memos are those of the store of envelopes; else of the other one.
func (p pairBackend) Memos() store.Memos {
	if m := memosOf(p.envelopes); m != nil {
		return m
	}
	return memosOf(p.results)
}

// Memos is where the client's store keeps what all its processes may have to
// say again; nil: it keeps none.
func (c *Client) Memos() store.Memos { return c.memos }

// audited is a backend that keeps what people changed.
type audited interface{ Audit() store.Audit }

// auditOf is the audit of a backend; nil: it keeps none.
func auditOf(b Backend) store.Audit {
	if r, ok := role[audited](b); ok {
		return r.Audit()
	}
	return nil
}

// Audit is that of the store of envelopes; else of the other one.
func (p pairBackend) Audit() store.Audit {
	if a := auditOf(p.envelopes); a != nil {
		return a
	}
	return auditOf(p.results)
}

// Audit is where the client's store keeps what people changed, by the command
// line and the API; nil: it keeps none. A program that changes tasks on
// somebody's behalf may note it there too.
func (c *Client) Audit() store.Audit { return c.audit }
