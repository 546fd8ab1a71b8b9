package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/redis/rueidis"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
)

// Config says which servers to use, and how. It is copied by Open.
type Config struct {
	Addrs    []string // host:port, or the path of a Unix socket; of Sentinels or of a Cluster's nodes, several
	Username string   // of an ACL user; empty: the default user
	Password string   //
	DB       int      // the logical database; a Cluster has none but 0
	TLS      *tls.Config

	Sentinel         string // the name of the master that the Sentinels at Addrs watch
	SentinelUsername string //
	SentinelPassword string //

	Cluster bool // Addrs are nodes of a Cluster

	// Partitions is how many hash tags the keys are spread over: fixed when the
	// deployment is created, and refused when it differs. 0: what it was created
	// with; 1 for a new one, 16 on a Cluster.
	Partitions int

	// WaitReplicas is how many replicas must have what is stored before a call
	// returns. 0: none.
	WaitReplicas int

	Namespace string       // 1–32 of a-z 0-9 _, a letter first; "stem" when empty
	Logger    *slog.Logger // nil: discards
}

// Partitions of a new deployment on a Cluster, and the most there can be.
const (
	clusterPartitions = 16
	maxPartitions     = 256
)

// DB is a deployment's keys in Redis. Its methods are safe for concurrent use.
type DB struct {
	config  Config
	log     *slog.Logger
	client  rueidis.Client
	scripts scripts
	tags    []string   // of the partitions: "{stem:0}"
	keys    [][]string // that their scripts are called with; see keysOf
	hub     *hub
	sweeper sweeper
	ahead   atomic.Pointer[lead] // of the server's clock
	suspect suspects
	crowd   crowd
	buffers sync.Pool // of *[]byte

	lanes  chan struct{} // has an element for each that is taken; see alone
	rested atomic.Int32  // connections that lanes have left for the next call

	closing sync.Once
	closed  chan struct{}
}

var namespacePattern = regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}$`)

// Open connects, checks the server, and creates what a new deployment needs.
// ctx bounds the opening alone.
func Open(ctx context.Context, c Config) (*DB, error) {
	if c.Namespace == "" {
		c.Namespace = "stem"
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if !namespacePattern.MatchString(c.Namespace) {
		return nil, fmt.Errorf("open Redis: namespace %q: want 1–32 of a-z 0-9 _, a letter first", c.Namespace)
	}
	if c.Partitions < 0 || c.Partitions > maxPartitions {
		return nil, fmt.Errorf("open Redis: %d partitions: want 1 to %d", c.Partitions, maxPartitions)
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	scripts, err := loadScripts()
	if err != nil {
		return nil, err
	}
	client, err := dial(ctx, c)
	if err != nil {
		return nil, err
	}
	db := &DB{config: c, log: c.Logger, client: client, scripts: scripts, lanes: make(chan struct{}, laneCount), closed: make(chan struct{})}
	if err := db.create(ctx); err != nil {
		client.Close()
		return nil, err
	}
	db.hub = newHub(db)
	return db, nil
}

// schema is the version of the keys. A change that older programs cannot live
// with raises it.
const schema = "2"

// create makes the deployment's own record, or reads what it says.
func (db *DB) create(ctx context.Context) error {
	key := db.tag(0) + ":meta"
	want := db.config.Partitions
	if want == 0 {
		want = 1
		if db.config.Cluster {
			want = clusterPartitions
		}
	}
	if err := db.askTime(ctx); err != nil {
		return fmt.Errorf("open Redis: %w", explain(ctx, db.config, err))
	}
	meta, err := db.meta(ctx, key, want)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(meta["partitions"])
	switch {
	case err != nil || n < 1 || n > maxPartitions:
		return fmt.Errorf("open Redis: %s says %q partitions: it is damaged, or not Stem's", key, meta["partitions"])
	case db.config.Partitions != 0 && db.config.Partitions != n:
		return fmt.Errorf("open Redis: namespace %s was created with %d partitions and is opened with %d: the number cannot change; leave it out, or use another namespace",
			db.config.Namespace, n, db.config.Partitions)
	case meta["schema"] != schema:
		return fmt.Errorf("open Redis: namespace %s has schema %s and this program knows %s: use the program that wrote it, or another namespace",
			db.config.Namespace, meta["schema"], schema)
	}
	db.tags, db.keys, db.crowd = make([]string, n), make([][]string, n), make(crowd, n)
	for i := range db.tags {
		db.tags[i] = db.tag(i)
		db.keys[i] = db.keysOf(db.tags[i])
	}
	if err := db.allOurs(ctx); err != nil {
		return fmt.Errorf("open Redis: namespace %s: %w", db.config.Namespace, err)
	}
	if err := db.guard(ctx); err != nil {
		return fmt.Errorf("open Redis: create namespace %s: %w", db.config.Namespace, explain(ctx, db.config, err))
	}
	db.mendAll(ctx, meta)
	return nil
}

// meta reads the deployment's own record, and makes it if there is none. What is
// there is not written again: a server without memory left refuses to write, and is
// to be looked at all the same.
func (db *DB) meta(ctx context.Context, key string, partitions int) (map[string]string, error) {
	b := db.client.B()
	read := func() (map[string]string, error) {
		meta, err := db.do(ctx, b.Hgetall().Key(key).Build()).AsStrMap()
		if err != nil {
			return nil, fmt.Errorf("open Redis: read %s: %w", key, explain(ctx, db.config, err))
		}
		return meta, nil
	}
	meta, err := read()
	if err != nil || meta["partitions"] != "" && meta["schema"] != "" {
		return meta, err
	}
	err = failed(db.multi(ctx,
		b.Hsetnx().Key(key).Field("partitions").Value(strconv.Itoa(partitions)).Build(),
		b.Hsetnx().Key(key).Field("schema").Value(schema).Build(),
	)...)
	if err != nil {
		return nil, fmt.Errorf("open Redis: create namespace %s: %w", db.config.Namespace, explain(ctx, db.config, err))
	}
	return read()
}

// guard puts a member of more than 64 bytes into each partition's set of leases,
// where it is not: that keeps a small sorted set from becoming a list, in which
// each change costs the length of all.
func (db *DB) guard(ctx context.Context) error {
	b := db.client.B()
	looks := make(rueidis.Commands, len(db.tags))
	for i, tag := range db.tags {
		looks[i] = b.Zscore().Key(tag + ":lease").Member(guard).Build()
	}
	var puts rueidis.Commands
	for i, r := range db.multi(ctx, looks...) {
		switch {
		case rueidis.IsRedisNil(r.err):
			puts = append(puts, b.Zadd().Key(db.tags[i]+":lease").Nx().ScoreMember().ScoreMember(math.Inf(1), guard).Build())
		case r.err != nil:
			return r.err
		}
	}
	if len(puts) == 0 {
		return nil
	}
	return failed(db.multi(ctx, puts...)...)
}

const guard = "never-due:this-member-is-longer-than-64-bytes-so-that-the-set-is-no-list"

// tag is the hash tag that begins every key of a partition.
func (db *DB) tag(partition int) string {
	return "{" + db.config.Namespace + ":" + strconv.Itoa(partition) + "}"
}

// topic is the name of a channel. Channels span the logical databases of a
// server, unlike keys, so all but those of database 0 name theirs.
func (db *DB) topic(name string) string {
	topic := db.config.Namespace + ":" + name
	if db.config.DB != 0 {
		topic += "@" + strconv.Itoa(db.config.DB)
	}
	return topic
}

// Broker returns the store as a broker that keeps its own statuses.
func (db *DB) Broker() broker.Broker { return &redisBroker{db: db} }

// Results returns the store as a result store; it is a store.Watcher too.
func (db *DB) Results() store.Results { return &results{db: db} }

// Close ends all that waits, and the connections. Leases stay until they end. It
// waits for calls that are under way.
// It is safe to call it twice.
func (db *DB) Close() error {
	db.closing.Do(func() {
		close(db.closed)
		db.hub.close()
		db.client.Close()
		for range laneCount { // until the last calls and dials have ended: answerTimeout bounds them
			db.lanes <- struct{}{}
		}
	})
	return nil
}

func (db *DB) isClosed() bool {
	select {
	case <-db.closed:
		return true
	default:
		return false
	}
}

func (db *DB) check(ctx context.Context) error {
	if db.isClosed() {
		return broker.ErrClosed
	}
	return ctx.Err()
}

// unavailable marks an error of the store or of the way to it. A cancelled
// context stays what it is.
func unavailable(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, rueidis.ErrClosing):
		return broker.ErrClosed
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, broker.ErrUnavailable):
		return err
	default:
		return fmt.Errorf("%w: %w", broker.ErrUnavailable, err)
	}
}
