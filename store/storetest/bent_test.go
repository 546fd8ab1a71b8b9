package storetest

import (
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// bent is a store that is correct but for the methods that a fake replaces.
// Its hooks, where they are set, bend what goes in or comes out.
type bent struct {
	store.Results
	watcher store.Watcher
	bend    bend

	mu   sync.Mutex
	last map[string]task.Status // as an update or outcome left it
}

// bend says what is bent.
type bend struct {
	create    func(s task.Status) task.Status
	created   func(s task.Status, err error) error
	update    func(b *bent, u store.Update) store.Update
	updated   func(u store.Update, a store.Answer) store.Answer
	record    func(b *bent, r store.Record) store.Record
	recorded  func(b *bent, r store.Record, err error) error
	clear     func(b *bent, k store.Key) store.Key
	requeue   func(b *bent, t broker.ReplayedTask) broker.ReplayedTask
	got       func(found []store.Found) []store.Found
	query     func(q store.Query) store.Query
	listed    func(l store.List) store.List
	deletes   func(b *bent, ids []string)
	subscribe func(w store.Watcher, id string) (<-chan struct{}, func())
	ctx       func(ctx context.Context) context.Context
	end       func() error
}

func (b *bent) context(ctx context.Context) context.Context {
	if b.bend.ctx != nil {
		return b.bend.ctx(ctx)
	}
	return ctx
}

func mapped[T any](items []T, change func(T) T) []T {
	items = slices.Clone(items)
	for i := range items {
		items[i] = change(items[i])
	}
	return items
}

func (b *bent) Create(ctx context.Context, batch []task.Status) ([]error, error) {
	if b.bend.create != nil {
		batch = mapped(batch, b.bend.create)
	}
	errs, err := b.Results.Create(b.context(ctx), batch)
	for i := range errs {
		if b.bend.created != nil {
			errs[i] = b.bend.created(batch[i], errs[i])
		}
	}
	return errs, err
}

func (b *bent) Update(ctx context.Context, batch []store.Update) ([]store.Answer, error) {
	bentBatch := batch
	if b.bend.update != nil {
		bentBatch = mapped(batch, func(u store.Update) store.Update { return b.bend.update(b, u) })
	}
	out, err := b.Results.Update(b.context(ctx), bentBatch)
	for i := range out {
		if b.bend.updated != nil {
			out[i] = b.bend.updated(batch[i], out[i])
		}
	}
	return out, err
}

func (b *bent) Record(ctx context.Context, batch []store.Record) ([]error, error) {
	bentBatch := batch
	if b.bend.record != nil {
		bentBatch = mapped(batch, func(r store.Record) store.Record { return b.bend.record(b, r) })
	}
	errs, err := b.Results.Record(b.context(ctx), bentBatch)
	for i := range errs {
		if b.bend.recorded != nil {
			errs[i] = b.bend.recorded(b, batch[i], errs[i])
		}
	}
	return errs, err
}

func (b *bent) Clear(ctx context.Context, batch []store.Key) error {
	if b.bend.clear != nil {
		batch = mapped(batch, func(k store.Key) store.Key { return b.bend.clear(b, k) })
	}
	return b.Results.Clear(b.context(ctx), batch)
}

func (b *bent) Requeue(ctx context.Context, batch []broker.ReplayedTask) ([]error, error) {
	if b.bend.requeue != nil {
		batch = mapped(batch, func(t broker.ReplayedTask) broker.ReplayedTask { return b.bend.requeue(b, t) })
	}
	return b.Results.Requeue(b.context(ctx), batch)
}

func (b *bent) Get(ctx context.Context, ids ...string) ([]store.Found, error) {
	found, err := b.Results.Get(b.context(ctx), ids...)
	if b.bend.got != nil && err == nil {
		found = b.bend.got(found)
	}
	return found, err
}

func (b *bent) List(ctx context.Context, q store.Query) (store.List, error) {
	if b.bend.query != nil {
		q = b.bend.query(q)
	}
	l, err := b.Results.List(b.context(ctx), q)
	if b.bend.listed != nil && err == nil {
		l = b.bend.listed(l)
	}
	return l, err
}

func (b *bent) Delete(ctx context.Context, ids ...string) ([]error, error) {
	if b.bend.deletes != nil {
		b.bend.deletes(b, ids)
	}
	return b.Results.Delete(b.context(ctx), ids...)
}

func (b *bent) Close() error {
	if b.bend.end != nil {
		return b.bend.end()
	}
	return b.Results.Close()
}

func (b *bent) Subscribe(id string) (<-chan struct{}, func()) {
	if b.bend.subscribe != nil {
		return b.bend.subscribe(b.watcher, id)
	}
	return b.watcher.Subscribe(id)
}

// status is what the store has of id.
func (b *bent) status(id string) (task.Status, bool) {
	found, err := b.Results.Get(context.Background(), id)
	if err != nil || found[0].Err != nil {
		return task.Status{}, false
	}
	return found[0].Status, true
}

// raise gives the epoch, or the record's where that is higher: what ignores
// epochs does so.
func (b *bent) raise(id string, epoch int64) int64 {
	s, _ := b.status(id)
	return max(epoch, s.Epoch)
}

// openBent opens a correct store and bends it.
func openBent(d bend) func(t testing.TB) Backend {
	return func(t testing.TB) Backend {
		b := openMemory(t)
		x := &bent{Results: b.Results, watcher: b.Watcher, bend: d, last: make(map[string]task.Status)}
		b.Results, b.Watcher = x, x
		return b
	}
}
