package redis

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// redisBroker is the store as a broker.
type redisBroker struct {
	db     *DB
	closed atomic.Bool
}

// Capabilities implements broker.Declarer.
func (b *redisBroker) Capabilities() broker.Capabilities { return Capabilities() }

// Capabilities is what every broker of this package declares.
func Capabilities() broker.Capabilities {
	return broker.Capabilities{
		Backend: "redis",
		Summary: "Redis 6.2+ or Valkey, also with Sentinel and as a Cluster; durable as far as the server is.",
		Powers: []broker.Power{
			broker.PowerDurable, broker.PowerShared, broker.PowerPush, broker.PowerPriorities, broker.PowerDelays,
			broker.PowerClaims, broker.PowerFollowups, broker.PowerRevoke, broker.PowerStatuses, broker.PowerImport, broker.PowerEdit,
			broker.PowerOwner, broker.PowerPause, broker.PowerRates,
		},
		MaxSize: task.DefaultMaxSize,
	}
}

// AtomicWith implements broker.Atomic: true for the results of the same servers,
// logical database and namespace, also when they were opened apart.
func (b *redisBroker) AtomicWith(resultStore any) bool {
	r, ok := resultStore.(*results)
	if !ok {
		return false
	}
	x, y := &r.db.config, &b.db.config
	return r.db == b.db || slices.Equal(x.Addrs, y.Addrs) && x.DB == y.DB && x.Namespace == y.Namespace && x.Sentinel == y.Sentinel
}

// Close implements broker.Broker. The DB stays open for its other roles.
func (b *redisBroker) Close() error {
	if b.closed.CompareAndSwap(false, true) {
		b.db.hub.closeConsumers(b)
	}
	return nil
}

func (b *redisBroker) check(ctx context.Context) error {
	if b.closed.Load() {
		return broker.ErrClosed
	}
	return b.db.check(ctx)
}

// Settle implements broker.Broker.
func (b *redisBroker) Settle(ctx context.Context, batch []broker.Settlement) ([]error, error) {
	if err := b.check(ctx); err != nil {
		return nil, err
	}
	settled, _, err := b.db.settleAndRenew(ctx, batch, nil)
	if err != nil {
		return nil, fmt.Errorf("settle: %w", err)
	}
	b.db.hub.forget(batch)
	return settled, nil
}

// Renew implements broker.Broker.
func (b *redisBroker) Renew(ctx context.Context, batch []broker.Renewal) ([]error, error) {
	if err := b.check(ctx); err != nil {
		return nil, err
	}
	_, renewed, err := b.db.settleAndRenew(ctx, nil, batch)
	if err != nil {
		return nil, fmt.Errorf("renew: %w", err)
	}
	for _, c := range b.db.hub.list() {
		c.extend(batch, renewed)
	}
	return renewed, nil
}

// queuesPage is how many queues one script describes.
const queuesPage = 200

// Queues implements broker.Broker. It reads lengths and counters, never lists.
func (b *redisBroker) Queues(ctx context.Context, names ...string) ([]broker.QueueInfo, error) {
	if err := b.check(ctx); err != nil {
		return nil, err
	}
	found := make(map[string]broker.QueueInfo)
	for _, name := range names {
		found[name] = broker.QueueInfo{Name: name}
	}
	for p := range b.db.tags {
		if err := b.describe(ctx, p, names, found); err != nil {
			return nil, fmt.Errorf("describe queues: %w", err)
		}
	}
	list := make([]broker.QueueInfo, 0, len(found))
	for _, q := range found {
		if len(names) > 0 || q.Ready+q.Delayed+q.Leased+q.Dead > 0 {
			list = append(list, q)
		}
	}
	slices.SortFunc(list, func(a, b broker.QueueInfo) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// describe adds what a partition has of queues; without names, of all.
func (b *redisBroker) describe(ctx context.Context, partition int, names []string, found map[string]broker.QueueInfo) error {
	if len(names) == 0 {
		m, err := b.db.run(ctx, b.db.scripts.queues, partition, []string{"names"})
		if err != nil {
			return err
		}
		if names, err = m.AsStrSlice(); err != nil {
			return err
		}
	}
	for page := range slices.Chunk(names, queuesPage) {
		m, err := b.db.run(ctx, b.db.scripts.queues, partition, append([]string{"info"}, page...))
		if err != nil {
			return err
		}
		infos, err := m.ToArray()
		if err != nil {
			return err
		}
		for i := range infos {
			if err := addInfo(infos[i], found); err != nil {
				return err
			}
		}
	}
	return nil
}

func addInfo(m rueidis.RedisMessage, found map[string]broker.QueueInfo) error {
	list, err := m.ToArray()
	if err != nil || len(list) != 7 {
		return fmt.Errorf("%w (%w)", errForeign, err)
	}
	name, err := list[0].ToString()
	if err != nil {
		return err
	}
	var n [6]int
	for i := range n {
		v, err := list[1+i].AsInt64()
		if err != nil {
			return err
		}
		n[i] = int(v)
	}
	q := found[name]
	q.Name = name
	q.Ready, q.Delayed, q.Leased, q.Dead, q.Due = q.Ready+n[0], q.Delayed+n[1], q.Leased+n[2], q.Dead+n[3], q.Due+n[5]
	q.Oldest = max(q.Oldest, time.Duration(n[4])*time.Millisecond)
	found[name] = q
	return nil
}

// Purge implements broker.Broker.
func (b *redisBroker) Purge(ctx context.Context, p broker.Purge) ([]string, error) {
	if err := b.check(ctx); err != nil {
		return nil, err
	}
	limit := min(p.Limit, 1000)
	if limit <= 0 {
		limit = 1000
	}
	var ids []string
	for part := 0; part < len(b.db.tags) && len(ids) < limit; {
		m, err := b.db.run(ctx, b.db.scripts.purge, part, []string{
			p.Queue, strconv.Itoa(limit - len(ids)), strconv.FormatInt(keepMillis(p.Keep), 10), string(quote(task.ReasonPurged)),
		})
		if err != nil {
			return nil, fmt.Errorf("purge queue %s: %w", p.Queue, err)
		}
		reply, err := m.AsStrSlice()
		if err != nil || len(reply) == 0 {
			return nil, fmt.Errorf("purge queue %s: %w (%w)", p.Queue, errForeign, err)
		}
		ids = append(ids, reply[1:]...)
		if reply[0] == "0" {
			part++
		}
	}
	b.db.collectNow(ctx)
	return ids, nil
}

// Revoke implements broker.Revoker.
func (b *redisBroker) Revoke(ctx context.Context, batch []broker.Revocation) ([]broker.RevokeAnswer, error) {
	if err := b.check(ctx); err != nil {
		return nil, err
	}
	answers := make([]broker.RevokeAnswer, len(batch))
	shares := b.db.shares(len(batch), 0, func(i int) string { return batch[i].ID })
	args := flat(func(i int) []string { return revocationArgs(&batch[i]) })
	err := b.db.spread(ctx, b.db.scripts.revoke, shares, args, func(m *rueidis.RedisMessage, items []int) error {
		said, err := words(m, items)
		for at := range said {
			answers[items[at]] = revokeAnswer(said[at])
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("revoke: %w", err)
	}
	b.db.collectNow(ctx)
	return answers, nil
}

func revocationArgs(v *broker.Revocation) []string {
	reason, terminate := v.Reason, "0"
	if reason == "" {
		reason = task.ReasonRevoked
	}
	if v.Terminate {
		terminate = "1"
	}
	text, err := json.Marshal(reason)
	if err != nil {
		text = quote(task.ReasonRevoked)
	}
	return []string{v.ID, terminate, string(text), strconv.FormatInt(keepMillis(v.Keep), 10)}
}

func revokeAnswer(word string) broker.RevokeAnswer {
	switch word[0] {
	case 'c':
		return broker.RevokeAnswer{State: broker.RevokeCancelled}
	case 'l':
		return broker.RevokeAnswer{State: broker.RevokeTooLate}
	case 'a':
		return broker.RevokeAnswer{State: broker.RevokeAsked, Worker: unescape(strings.TrimPrefix(word, "a "))}
	default:
		return broker.RevokeAnswer{State: broker.RevokeUnknown}
	}
}
