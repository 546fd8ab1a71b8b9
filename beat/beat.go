package beat

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/measure"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// Options shape a beat. The zero value works.
type Options struct {
	ID string // "": host-pid-xxxx

	// Lease is how long this beat leads without saying so again, which it does at
	// least twice in that time: how soon another takes over. 0: 3 s; at least 1 s.
	Lease time.Duration
	// Grace bounds how long a stop waits for the store: 0: 5 s.
	Grace time.Duration

	// Tasks are declared tasks: what an entry leaves open, such as the queue or
	// the retries, is for them as declared. Others are enqueued too. Every beat of
	// a deployment should know the same.
	Tasks []stem.Registration

	Logger *slog.Logger  // one line for each firing at info; nil: discards
	Meter  measure.Meter // nil: measures nothing
}

// Store is a backend that can keep schedules: what memory.New and sqlite.Open
// return.
type Store interface {
	Schedules() store.Schedules
	Locks() store.Locks
}

// Beat fires the schedules of one store. Its methods are safe for concurrent
// use.
type Beat struct {
	client    *stem.Client
	schedules store.Schedules
	locks     store.Locks
	opts      Options
	tasks     map[string]stem.Registration
	atomic    bool         // a claim and its task are stored in one step
	claims    bool         // the broker remembers publications beyond their tasks
	owner     broker.Owner // nil: the broker cannot say which tasks it holds
	ran       atomic.Bool

	// Of the goroutine that runs Run.
	lock    store.Lock // Token 0: another leads, or nobody
	renewed time.Time  // when lock was asked for, by the monotonic clock
	look    time.Time  // when the schedules are to be looked at again; zero: at once
	changes int64      // of the last look, for Wait
	aims    []aim      // what is made ready, the earliest first
	waiting int        // entries whose moment has come, and waits for the task before it
	known   definitions
	refused refusals

	turned atomic.Int64 // when Run last went round, in Unix ms; 0: it does not run

	mu      sync.Mutex
	leading bool
	since   time.Time // that it leads, or stands by
	leader  string    // another, as far as it is known
	heard   time.Time // of the store
	lastErr error
}

// New makes a beat that fires the schedules of one store into a client's
// broker. Client and store stay the caller's.
func New(client *stem.Client, schedules store.Schedules, locks store.Locks, o Options) (*Beat, error) {
	if client == nil {
		return nil, errors.New("beat: no client")
	}
	if schedules == nil || locks == nil {
		return nil, fmt.Errorf("beat: this store keeps no schedules: %w", broker.ErrUnsupported)
	}
	if o.ID == "" {
		o.ID = newID()
	}
	if err := task.ValidateID(o.ID); err != nil {
		return nil, fmt.Errorf("beat: %w", err)
	}
	if o.Lease == 0 {
		o.Lease = defaultLease
	}
	if o.Grace == 0 {
		o.Grace = defaultStop
	}
	if o.Lease < time.Second || o.Grace < 0 {
		return nil, fmt.Errorf("beat: lease %s, grace %s: %w: want a lease of 1s or more, and a grace of more than none", o.Lease, o.Grace, stem.ErrInvalid)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Meter == nil {
		o.Meter = measure.None
	}
	b := &Beat{client: client, schedules: schedules, locks: locks, opts: o, tasks: map[string]stem.Registration{}, since: time.Now()}
	for _, r := range o.Tasks {
		b.tasks[r.Name()] = r
		for _, alias := range r.Info().Aliases {
			b.tasks[alias] = r
		}
	}
	if f, ok := schedules.(store.FiresInto); ok {
		b.atomic = f.FiresInto(client.Broker())
	}
	b.claims = broker.CapabilitiesOf(client.Broker()).Has(broker.PowerClaims)
	b.owner, _ = broker.As[broker.Owner](client.Broker())
	return b, nil
}

// Times of a beat.
const (
	defaultLease = 3 * time.Second
	defaultStop  = 5 * time.Second
	callTimeout  = 10 * time.Second // of one call to a store
	maxSleep     = 10 * time.Second // between two looks of a beat that leads, at most
	standBy      = time.Second      // between two looks of a beat that does not lead, at most
	waitLook     = time.Second / 2  // between two looks whether tasks have ended that moments wait for
	maxPause     = time.Second      // after a store failed
	memory       = 24 * time.Hour   // how long a broker remembers a publication's id
)

// newID is the id of a beat without one.
func newID() string {
	host, err := os.Hostname()
	if err != nil || task.ValidateID(host) != nil || len(host) > 64 {
		host = "beat"
	}
	id := task.NewID()
	return fmt.Sprintf("%s-%d-%s", host, os.Getpid(), id[len(id)-4:])
}

// renewal is how old the lead may be until it is renewed: of half that age when the
// beat looks at the schedules anyway, since to wake costs more than to renew. To do
// it more often would be most of what an idle beat costs; when it fails there is
// time to try again.
func (b *Beat) renewal() time.Duration { return b.opts.Lease / 2 }

// ID is the beat's id.
func (b *Beat) ID() string { return b.opts.ID }

// Run fires what is due until ctx ends, and gives the lead away then. It returns
// nil after a clean stop, and an error when the store was closed or does not keep
// schedules; a store that cannot be reached is waited for. A beat runs once.
func (b *Beat) Run(ctx context.Context) error {
	if !b.ran.CompareAndSwap(false, true) {
		return errors.New("beat: it has run already")
	}
	work, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	undo := context.AfterFunc(ctx, func() {
		select {
		case <-time.After(b.opts.Grace):
			end()
		case <-work.Done():
		}
	})
	defer undo()
	b.opts.Logger.Info("beat started", "beat", b.opts.ID, "atomic", b.atomic)
	defer b.turned.Store(0)
	for ctx.Err() == nil {
		b.turned.Store(time.Now().UnixMilli())
		pause, err := b.step(ctx, work)
		switch {
		case err == nil:
			b.note(nil)
		case ctx.Err() != nil:
		case errors.Is(err, broker.ErrClosed), errors.Is(err, broker.ErrUnsupported):
			b.lead(work, false, "beat stopped")
			return fmt.Errorf("beat: %w", err)
		default:
			pause = b.failed(work, err)
		}
		if pause > 0 {
			sleep(ctx, pause)
		}
	}
	return b.resign(work)
}

// step leads or stands by for a moment. It says how long to pause, apart from
// what it waited itself.
func (b *Beat) step(ctx, work context.Context) (time.Duration, error) {
	now := time.Now()
	since, n := now.Sub(b.renewed), b.ready(now)
	if n > 0 && since < b.opts.Lease*2/3 {
		return 0, b.shootReady(work, n)
	}
	// Rather before a moment than at it.
	soon := len(b.aims) > 0 && since >= b.renewal()-2*lookAhead
	looks := !now.Before(b.look) && since >= b.renewal()/2
	if soon || looks || since >= b.renewal() {
		left, err := b.acquire(work)
		if err != nil || b.lock.Token == 0 {
			return min(left+time.Millisecond, standBy), err
		}
	}
	if n > 0 {
		return 0, b.shootReady(work, n)
	}
	if !now.Before(b.look) {
		b.look = time.Time{}
		next, more, err := b.fire(work)
		switch {
		case errors.Is(err, broker.ErrLeaseLost):
			b.lost(work)
			return 0, nil
		case err != nil:
			return 0, err
		case more:
			return 0, nil
		}
		b.look = now.Add(maxSleep)
		if next > 0 {
			b.look = now.Add(min(next, maxSleep))
		}
		if len(b.aims) > 0 {
			return 0, nil // to renew the lead meanwhile
		}
	}
	return 0, b.sleep(ctx)
}

// sleep waits until something is due, something changes, or the lead is to be
// renewed.
func (b *Beat) sleep(ctx context.Context) error {
	began := time.Now()
	atMost := min(b.renewal()-began.Sub(b.renewed), b.look.Sub(began))
	if len(b.aims) > 0 {
		atMost = min(b.aims[0].at.Sub(began), b.look.Sub(began))
	}
	if atMost <= 0 {
		return nil
	}
	if err := b.schedules.Wait(ctx, b.changes, atMost); err != nil && ctx.Err() == nil {
		b.lookAgain()
		return fmt.Errorf("wait for schedules: %w", err)
	}
	if time.Since(began) < atMost { // it was woken: something has changed
		b.lookAgain()
	}
	return nil
}

// acquire takes or renews the lead; without success it says how long another
// has it still.
func (b *Beat) acquire(work context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(work, b.opts.Lease)
	defer cancel()
	asked := time.Now()
	lock, err := b.locks.Acquire(ctx, store.LeadLock, b.opts.ID, b.opts.Lease)
	var held *store.HeldError
	switch {
	case errors.As(err, &held):
		if b.lock.Token != 0 {
			b.lost(work)
		}
		b.opts.Meter.Counter(measure.BeatLockContended, b.opts.ID).Add(1)
		b.mu.Lock()
		b.leader = held.Holder
		b.mu.Unlock()
		b.note(nil)
		return held.Left, nil
	case err != nil:
		if time.Since(b.renewed) >= b.opts.Lease && b.lock.Token != 0 {
			b.lost(work)
		}
		return 0, fmt.Errorf("lead the schedules: %w", err)
	}
	b.lock, b.renewed = lock, asked
	b.mu.Lock()
	b.leader = b.opts.ID
	b.mu.Unlock()
	b.lead(work, true, "beat leads")
	return 0, nil
}

// lost notes that another leads by now.
func (b *Beat) lost(ctx context.Context) {
	b.opts.Meter.Counter(measure.BeatLockLost, b.opts.ID).Add(1)
	b.lead(ctx, false, "beat lost the lead")
	b.lock, b.renewed = store.Lock{}, time.Time{}
	b.lookAgain()
}

// resign gives the lead away, so that another takes over at once.
func (b *Beat) resign(work context.Context) error {
	if b.lock.Token == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(work, b.opts.Lease)
	defer cancel()
	err := b.locks.Release(ctx, b.lock)
	b.lead(work, false, "beat stopped")
	if err != nil && !errors.Is(err, broker.ErrLeaseLost) {
		b.opts.Logger.LogAttrs(ctx, slog.LevelWarn, "the lead could not be given back: it ends by itself",
			slog.String("beat", b.opts.ID), slog.Any("error", err))
	}
	return nil
}

// refusals counts the failures of the store in a row.
type refusals struct {
	n     uint
	pause time.Duration
}

// failed logs failures at 1, 2, 4 …, and says how long to pause.
func (b *Beat) failed(ctx context.Context, err error) time.Duration {
	b.note(err)
	b.refused.n++
	b.refused.pause = min(max(2*b.refused.pause, 50*time.Millisecond), maxPause)
	if bits.OnesCount(b.refused.n) == 1 {
		b.opts.Logger.LogAttrs(ctx, slog.LevelWarn, "beat cannot go on for now",
			slog.String("beat", b.opts.ID), slog.Uint64("failures", uint64(b.refused.n)), slog.Any("error", err))
	}
	return b.refused.pause
}

// note keeps how it went with the store.
func (b *Beat) note(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lastErr = err
	if err == nil {
		b.heard, b.refused = time.Now(), refusals{}
	}
}

// State is what a beat does at this moment.
type State struct {
	ID      string
	Leading bool
	Since   time.Time // that it leads, or stands by
	Leader  string    // its id, as far as it is known
	Heard   time.Time // when the store last answered; zero: never
	Err     error     // why the store cannot be used just now
}

// State says what the beat does.
func (b *Beat) State() State {
	b.mu.Lock()
	defer b.mu.Unlock()
	return State{ID: b.opts.ID, Leading: b.leading, Since: b.since, Leader: b.leader, Heard: b.heard, Err: b.lastErr}
}

// Ready says why the beat neither leads nor stands by: for a readiness probe. The
// store must have answered within that time.
func (b *Beat) Ready(within time.Duration) error {
	s := b.State()
	switch {
	case s.Err != nil && time.Since(s.Heard) > within:
		return fmt.Errorf("beat %s: %w", s.ID, s.Err)
	case s.Heard.IsZero():
		return fmt.Errorf("beat %s: has not heard of its store yet", s.ID)
	case time.Since(s.Heard) > within:
		return fmt.Errorf("beat %s: has heard nothing of its store for %s", s.ID, time.Since(s.Heard).Round(time.Second))
	}
	return nil
}

// Live says why the beat is beyond help, or nil: its loop has not gone round
// within that time. A store that is away does not matter to it; give it a minute.
func (b *Beat) Live(within time.Duration) error {
	turned := b.turned.Load()
	if ago := time.Since(time.UnixMilli(turned)); turned != 0 && ago > within {
		return fmt.Errorf("beat %s: its loop has hung for %s", b.opts.ID, ago.Round(time.Second))
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
