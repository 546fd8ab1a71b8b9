package brokertest

import (
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/internal/pair"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// withPowers declares more than the reference does.
func withPowers(more ...broker.Power) func(broker.Capabilities) broker.Capabilities {
	return func(c broker.Capabilities) broker.Capabilities {
		c.Powers = append(slices.Clone(c.Powers), more...)
		return c
	}
}

// openShared opens the reference as a store that several handles share, which
// in one process it is.
func openShared(d bend) func(t testing.TB) Backend {
	d.caps = withPowers(broker.PowerShared, broker.PowerDurable)
	return func(t testing.TB) Backend {
		db := memory.New()
		t.Cleanup(func() { _ = db.Close() })
		return d.apply(Backend{Broker: db.Broker(), Results: db.Results(), Handle: db})
	}
}

func reopenShared(_ testing.TB, b Backend) Backend {
	db, _ := b.Handle.(*memory.DB)
	d := bend{caps: withPowers(broker.PowerShared, broker.PowerDurable)}
	return d.apply(Backend{Broker: db.Broker(), Results: db.Results(), Handle: db})
}

// openJoined joins two stores.
func openJoined(d bend) func(t testing.TB) Backend {
	return func(t testing.TB) Backend {
		b, r := openMemory(t), openMemory(t)
		return d.apply(Backend{Broker: pair.Join(b.Broker, r.Results, pair.Options{}), Results: r.Results})
	}
}

const rawHeader = "raw-entry"

// injectMalformed stores what showMalformed shows as no envelope.
func injectMalformed(t testing.TB, b Backend, queue, id string, raw []byte) {
	v := envelope(id, onQueue(queue), func(v *task.Envelope) { v.Headers = map[string]string{rawHeader: hex.EncodeToString(raw)} })
	if out, err := b.Broker.Publish(t.Context(), []broker.Publication{{Envelope: v}}); err != nil || out[0].State != broker.Stored {
		t.Fatalf("injecting: %+v, error %v", out, err)
	}
}

// showMalformed gives the reference what its store cannot hold.
var showMalformed = bend{
	batch: func(_ *bent, _ *bentConsumer, got *broker.Batch) {
		for i, d := range got.Deliveries {
			if _, raw := d.Envelope.Headers[rawHeader]; raw {
				got.Deliveries[i].Envelope = &task.Envelope{ID: d.Envelope.ID, Queue: d.Queue}
				got.Deliveries[i].Malformed = errors.New("no envelope")
			}
		}
	},
	listed: func(_ *bent, _ broker.DeadFilter, list []broker.DeadLetter) []broker.DeadLetter {
		for i, l := range list {
			if text, ok := l.Envelope.Headers[rawHeader]; ok {
				list[i].Raw, _ = hex.DecodeString(text)
				list[i].Envelope = &task.Envelope{ID: l.Envelope.ID}
			}
		}
		return list
	},
}

// lagging shows each status one look too late.
type lagging struct {
	store.Results
	mu   sync.Mutex
	last map[string]store.Found
}

func (l *lagging) Get(ctx context.Context, ids ...string) ([]store.Found, error) {
	found, err := l.Results.Get(ctx, ids...)
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, f := range found {
		before, known := l.last[ids[i]]
		l.last[ids[i]] = f
		if found[i] = before; !known {
			found[i] = store.Found{Err: store.ErrNotFound}
		}
	}
	return found, err
}

// silent tells of no change.
type silent struct{ store.Results }

func (silent) Subscribe(string) (<-chan struct{}, func()) { return nil, func() {} }

// owning claims that the statuses of a lagging or silent store are its own.
type owning struct{ *bent }

func (owning) AtomicWith(r any) bool {
	switch r.(type) {
	case *lagging, silent:
		return true
	}
	return false
}

// openOwning opens a correct broker with a store that is bent.
func openOwning(bent func(store.Results) store.Results) func(bend) func(t testing.TB) Backend {
	return func(d bend) func(t testing.TB) Backend {
		return func(t testing.TB) Backend {
			b := openBent(d)(t)
			return Backend{Broker: asOwning(b.Broker), Results: bent(b.Results)}
		}
	}
}

func asOwning(b broker.Broker) broker.Broker {
	inner, _ := b.(*bent)
	return owning{inner}
}

// brokenStores are broken in how they use their store.
func brokenStores() []broken {
	malformed := func(name string, batch func(*bent, *bentConsumer, *broker.Batch)) broken {
		d := showMalformed
		d.batch = func(b *bent, c *bentConsumer, got *broker.Batch) {
			showMalformed.batch(b, c, got)
			batch(b, c, got)
		}
		return broken{name: name, rule: "B24", bend: d, inject: injectMalformed}
	}
	isMalformed := func(d broker.Delivery) bool { return d.Malformed != nil }
	return []broken{
		malformed("swallows what is no envelope", func(_ *bent, _ *bentConsumer, got *broker.Batch) {
			got.Deliveries = slices.DeleteFunc(got.Deliveries, isMalformed)
		}),
		malformed("stops at what is no envelope", func(_ *bent, _ *bentConsumer, got *broker.Batch) {
			if i := slices.IndexFunc(got.Deliveries, isMalformed); i >= 0 {
				got.Deliveries = got.Deliveries[:i]
			}
		}),
		malformed("delivers what is no envelope as if it were", func(_ *bent, _ *bentConsumer, got *broker.Batch) {
			for i := range got.Deliveries {
				got.Deliveries[i].Malformed = nil
			}
		}),
		{name: "starts empty when it is opened again", rule: "B1", also: "B7 B13 B16 B30 P1 P5", open: openShared,
			reopen: func(t testing.TB, _ Backend) Backend { return openShared(bend{})(t) }},
		{name: "executes what has an outcome in the other store", rule: "B22", open: openJoined, bend: bend{
			renewed: func(_ *bent, _ broker.Renewal, err error) error {
				if errors.Is(err, broker.ErrSettled) {
					return nil
				}
				return err
			},
		}},
		{name: "writes its statuses a moment later", rule: "P2", also: "*", open: openOwning(func(r store.Results) store.Results {
			return &lagging{Results: r, last: make(map[string]store.Found)}
		})},
		{name: "tells nobody of its moves", rule: "P2", open: openOwning(func(r store.Results) store.Results { return silent{r} })},
		{name: "declares powers that it hides", rule: "P0", also: "B22", open: func(bend) func(t testing.TB) Backend {
			return func(t testing.TB) Backend {
				b := openMemory(t)
				return Backend{Broker: onlyBroker{b.Broker}, Results: b.Results}
			}
		}},
	}
}

// onlyBroker hides every power of a broker, and declares them all the same.
type onlyBroker struct{ broker.Broker }

func (b onlyBroker) Capabilities() broker.Capabilities { return broker.CapabilitiesOf(b.Broker) }
