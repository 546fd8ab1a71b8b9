package redis

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/redis/rueidis"

	"github.com/stemjobs/stem/broker"
)

// A key of another type where ours should be was written by another program, or by
// hand. Of a queue, a task or a claim, it hinders nothing else: see attempt in
// lua/common.lua. One that everything in the partition needs makes a script fail,
// maybe in the middle of what it does. That happens once: the partition is suspect
// then, and while such a key is there, nothing is done in it.

// suspects are the partitions in which a script met a key of another type.
type suspects [maxPartitions]atomic.Bool

// sound returns why nothing can be done in a partition that is suspect.
func (db *DB) sound(ctx context.Context, partition int) error {
	if !db.suspect[partition].Load() {
		return nil
	}
	if err := db.foreignKey(ctx, partition); err != nil {
		return err
	}
	if db.suspect[partition].CompareAndSwap(true, false) {
		db.mend(ctx, partition)
	}
	return nil
}

// foreignKey looks for a key of another type, and returns an error that names it.
func (db *DB) foreignKey(ctx context.Context, partition int) error {
	m, err := db.evaluate(ctx, &call{db.scripts.types, partition, nil})
	if err == nil {
		err = readForeign(&m)
	}
	if err != nil {
		return fmt.Errorf("look for keys of another type: %w", err)
	}
	return nil
}

func readForeign(m *rueidis.RedisMessage) error {
	key, err := m.ToString()
	if err == nil && key != "" {
		err = wrongType(key, nil)
	}
	return err
}

// allOurs looks in every partition.
func (db *DB) allOurs(ctx context.Context) error {
	calls := make([]call, len(db.tags))
	for p := range calls {
		calls[p] = call{db.scripts.types, p, nil}
	}
	msgs, errs := db.runAll(ctx, calls)
	for p, err := range errs {
		if err == nil {
			errs[p] = readForeign(&msgs[p])
		}
		if isWrongType(errs[p]) {
			db.mendLater(ctx, p)
		}
	}
	return cmp.Or(errs...)
}

// met makes a partition suspect if a script failed for a key of another type, and
// says which it is, if that can be found out.
func (db *DB) met(ctx context.Context, partition int, err error) error {
	if !isWrongType(err) {
		return err
	}
	db.suspect[partition].Store(true)
	if named := db.foreignKey(ctx, partition); isWrongType(named) {
		db.mendLater(ctx, partition)
		return named
	}
	return err
}

// naming adds the key to the error of a script that needs no other of its kind.
func naming(err error, key string) error {
	if isWrongType(err) && !errors.Is(err, errWrongType) { // else it is named already
		return wrongType(key, err)
	}
	return err
}

// errWrongType is what a server says of a key of another type.
var errWrongType = errors.New("WRONGTYPE")

// isWrongType reports whether a server refused since a key is of another type. Before
// Redis 7 what a command in a script says stands behind words of the script's.
func isWrongType(err error) bool {
	said := new(rueidis.RedisError)
	return errors.Is(err, errWrongType) || errors.As(err, &said) && strings.Contains(said.Error(), errWrongType.Error()+" ")
}

// wrongType explains that a key is there and is not what Stem makes of it. err is
// what the server said, if it did.
func wrongType(key string, err error) error {
	if err == nil {
		err = fmt.Errorf("%w: %w", broker.ErrUnavailable, errWrongType)
	}
	return fmt.Errorf("the key %s is another program's, or damaged: choose another namespace (STEM_NAMESPACE), or remove the key: %w",
		key, unavailable(err))
}
