package redis

import (
	"context"
	"fmt"

	"github.com/redis/rueidis"
)

// DropNamespace removes every key of the namespace, for good. Nobody may use it
// meanwhile, and the DB can only be closed after it.
func (db *DB) DropNamespace(ctx context.Context) error {
	if err := db.check(ctx); err != nil {
		return err
	}
	nodes := map[string]rueidis.Client{"": db.client}
	if db.config.Cluster {
		nodes = db.client.Nodes()
	}
	for _, n := range nodes {
		if err := db.dropFrom(ctx, n); err != nil {
			return fmt.Errorf("remove namespace %s: %w", db.config.Namespace, unavailable(err))
		}
	}
	return nil
}

// dropFrom removes what one server has, by pages. A replica of a Cluster has
// what its master has, and loses it with that.
func (db *DB) dropFrom(ctx context.Context, n rueidis.Client) error {
	const page = 1000
	role, err := doAt(ctx, n, n.B().Role().Build()).ToArray()
	if err != nil {
		return err
	}
	if kind, err := role[0].ToString(); err != nil || kind != "master" {
		return err
	}
	for cursor := uint64(0); ; {
		found, err := doAt(ctx, n, n.B().Scan().Cursor(cursor).Match("{"+db.config.Namespace+":*}*").Count(page).Build()).AsScanEntry()
		if err != nil {
			return err
		}
		cmds := make(rueidis.Commands, len(found.Elements))
		for i, key := range found.Elements {
			cmds[i] = n.B().Unlink().Key(key).Build()
		}
		for _, r := range n.DoMulti(ctx, cmds...) {
			if err := r.Error(); err != nil {
				return err
			}
		}
		if cursor = found.Cursor; cursor == 0 {
			return nil
		}
	}
}
