package redis

import (
	"cmp"
	"context"
	"fmt"
	"strconv"

	"github.com/redis/rueidis"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// prepare returns the wire form of a publication's envelope, or why it is
// refused.
func prepare(p *broker.Publication) ([]byte, error) { return appendPrepared(nil, p) }

func appendPrepared(b []byte, p *broker.Publication) ([]byte, error) {
	switch {
	case p.Envelope == nil:
		return b, fmt.Errorf("%w publication: it has no envelope", task.ErrInvalid)
	case len(p.Limits) > 0:
		return b, fmt.Errorf("limits: %w", broker.ErrUnsupported)
	case p.Hold != "":
		return b, fmt.Errorf("hold: %w", broker.ErrUnsupported)
	case p.Group != nil:
		return b, fmt.Errorf("group: %w", broker.ErrUnsupported)
	}
	for _, c := range p.Claims {
		if c.Key == "" || c.For < 0 {
			return b, fmt.Errorf("%w claim %q for %s: want a key, and a time that is not negative", task.ErrInvalid, c.Key, c.For)
		}
	}
	return appendWire(b, p.Envelope)
}

func encode(e *task.Envelope) ([]byte, error) { return appendWire(nil, e) }

func appendWire(b []byte, e *task.Envelope) ([]byte, error) {
	if err := e.Validate(); err != nil {
		return b, err
	}
	if b == nil {
		b = make([]byte, 0, task.EncodedSize(e))
	}
	out, err := task.AppendEncode(b, e)
	if err != nil {
		return b, fmt.Errorf("%w envelope %s: %w", task.ErrInvalid, e.ID, err)
	}
	if n := len(out) - len(b); n > task.DefaultMaxSize {
		return b, fmt.Errorf("%w: envelope %s has %d bytes, at most %d: store the payload elsewhere and pass a reference",
			task.ErrTooLarge, e.ID, n, task.DefaultMaxSize)
	}
	return out, nil
}

// appendPublication appends the arguments of one publication, which takes its
// claims in its own partition; see publish in lua/common.lua.
func appendPublication(args []string, e *task.Envelope, data []byte, claims []broker.Claim, now int64) []string {
	args = append(args, e.ID, lineOf(e), rueidis.BinaryString(newValue(e, data, now)))
	flag := 0
	if e.VisibilityTimeout > 0 || e.Attempt > 0 {
		flag = flagUnusual
	}
	if flag == 0 && e.NotBefore.IsZero() && len(claims) == 0 {
		return append(args, "")
	}
	args = append(args, fmt.Sprintf("%d %d %d", flag+bare(e), millis(e.NotBefore), len(claims)))
	for _, c := range claims {
		args = append(args, c.Key, strconv.FormatInt(ceilMillis(c.For), 10))
	}
	return args
}

// appendItem is appendPublication in whatever partition. Where there are several,
// the claims are taken already.
func (db *DB) appendItem(args []string, e *task.Envelope, data []byte, claims []broker.Claim, far []farClaim, now int64) []string {
	args = appendPublication(args, e, data, claims, now)
	for i, f := range far {
		args[len(args)-2*(len(far)-i)+1] = fmt.Sprintf("r%d %s %d", db.partition(f.key), f.timed(), f.by)
	}
	return args
}

// lineOf is the line in which a task waits.
func lineOf(e *task.Envelope) string { return e.Queue + ":" + strconv.Itoa(e.Priority) }

// Publish implements broker.Broker.
func (b *redisBroker) Publish(ctx context.Context, batch []broker.Publication) ([]broker.Outcome, error) {
	if err := b.check(ctx); err != nil {
		return nil, err
	}
	return b.db.publish(ctx, batch, false)
}

// publish stores a batch. What comes from an outbox may come again; it is stored
// once, also when nothing is known of the task any more.
func (db *DB) publish(ctx context.Context, batch []broker.Publication, fromOutbox bool) ([]broker.Outcome, error) {
	if len(db.tags) > 1 && len(batch) > 1 && rivals(batch) {
		return db.publishEach(ctx, batch, fromOutbox)
	}
	out := make([]broker.Outcome, len(batch))
	data := make([][]byte, len(batch))
	wires := db.borrow()
	defer db.giveBack(wires)
	for i := range batch {
		var err error
		from := len(*wires)
		if *wires, err = appendPrepared(*wires, &batch[i]); err != nil {
			out[i] = broker.Outcome{State: broker.Refused, Err: err}
		}
		data[i] = (*wires)[from:]
	}
	far := db.farClaims(batch, out)
	if len(far) > 0 {
		if err := db.takeFar(ctx, far, out); err != nil {
			return nil, fmt.Errorf("publish: %w", err)
		}
		db.preferExisting(ctx, batch, out)
	}
	if err := db.store(ctx, batch, data, far, out, fromOutbox); err != nil {
		return nil, fmt.Errorf("publish: %w", err)
	}
	if len(far) > 0 {
		if err := db.finishFar(ctx, far, out); err != nil {
			return nil, fmt.Errorf("publish: %w", err)
		}
	}
	return out, nil
}

// borrow returns an empty buffer, to be given back.
func (db *DB) borrow() *[]byte {
	if b, ok := db.buffers.Get().(*[]byte); ok {
		return b
	}
	return new([]byte)
}

func (db *DB) giveBack(b *[]byte) {
	const most = 1 << 20 // what more is needed rarely is not kept
	if cap(*b) <= most {
		*b = (*b)[:0]
		db.buffers.Put(b)
	}
}

// rivals reports whether two items of a batch ask for the same claim. What
// becomes of the second then depends on what became of the first.
func rivals(batch []broker.Publication) bool {
	seen := make(map[string]bool)
	for i := range batch {
		for _, c := range batch[i].Claims {
			if seen[c.Key] {
				return true
			}
			seen[c.Key] = true
		}
	}
	return false
}

// publishEach publishes one item after the other.
func (db *DB) publishEach(ctx context.Context, batch []broker.Publication, fromOutbox bool) ([]broker.Outcome, error) {
	var out []broker.Outcome
	for i := range batch {
		o, err := db.publish(ctx, batch[i:i+1], fromOutbox)
		if err != nil {
			return nil, err
		}
		out = append(out, o...)
	}
	return out, nil
}

// preferExisting corrects what was found a duplicate and is there already.
func (db *DB) preferExisting(ctx context.Context, batch []broker.Publication, out []broker.Outcome) {
	for i := range out {
		if out[i].State == broker.Duplicate && db.known(ctx, batch[i].Envelope.ID) {
			out[i] = broker.Outcome{State: broker.Exists, ExistingID: batch[i].Envelope.ID}
		}
	}
}

// store publishes the items that are not decided yet.
func (db *DB) store(ctx context.Context, batch []broker.Publication, data [][]byte, far []farClaim, out []broker.Outcome, fromOutbox bool) error {
	now, farOf := db.clock(), make(map[int][]farClaim)
	for _, f := range far {
		farOf[f.item] = append(farOf[f.item], f)
	}
	parts := make([][]int, len(db.tags))
	for i := range batch {
		if out[i].State == 0 {
			p := db.partition(batch[i].Envelope.ID)
			parts[p] = append(parts[p], i)
		}
	}
	var calls []call
	for p, items := range parts {
		if len(items) == 0 {
			continue
		}
		if !fromOutbox && plain(batch, items) {
			parts[p], calls = db.appendPlain(calls, p, batch, items, data, now)
			continue
		}
		args := make([]string, 0, 4*len(items))
		for _, i := range items {
			extra := len(args) + 3
			args = db.appendItem(args, batch[i].Envelope, data[i], batch[i].Claims, farOf[i], now)
			if fromOutbox {
				args[extra] = cmp.Or(args[extra], "0 0 0") + " o"
			}
		}
		calls = append(calls, call{db.scripts.publish, p, args})
	}
	if len(calls) == 0 {
		return nil
	}
	if len(calls) > 1 {
		ctx = context.WithoutCancel(ctx) // once begun, it is done whole
	}
	msgs, errs := db.runAll(ctx, calls)
	for k := range calls {
		if errs[k] != nil {
			return errs[k]
		}
		read := published
		if calls[k].script == db.scripts.plain {
			read = db.publishedPlain
		}
		if err := read(msgs[k], calls[k].partition, parts[calls[k].partition], batch, out); err != nil {
			return err
		}
	}
	return nil
}

// published reads what became of the items of one partition.
func published(m rueidis.RedisMessage, _ int, items []int, batch []broker.Publication, out []broker.Outcome) error {
	reply, err := m.AsStrSlice()
	if err != nil || len(reply) == 0 || len(reply[0]) != len(items) {
		return fmt.Errorf("%w: the server's answer is of another form (%w)", broker.ErrUnavailable, err)
	}
	holders := reply[1:]
	for k, i := range items {
		switch letter := reply[0][k]; letter {
		case 's':
			out[i] = broker.Outcome{State: broker.Stored}
		case 'd', 'f':
			if len(holders) == 0 {
				return fmt.Errorf("%w: the server's answer lacks who holds a claim", broker.ErrUnavailable)
			}
			out[i] = broker.Outcome{State: broker.Duplicate, ExistingID: holders[0]}
			if letter == 'f' {
				out[i] = broker.Outcome{State: broker.Refused, Err: wrongType(holders[0], nil)}
			}
			holders = holders[1:]
		case 't':
			out[i] = broker.Outcome{State: broker.Refused, Err: fmt.Errorf("%w: its claims were taken too long ago: try again", broker.ErrUnavailable)}
		default:
			out[i] = broker.Outcome{State: broker.Exists, ExistingID: batch[i].Envelope.ID}
		}
	}
	return nil
}
