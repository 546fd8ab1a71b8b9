package redis

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/rueidis"
)

// What was in the place of a key of another type is lost. Of the marks that say which
// lines hold something, of the moments at which queues have something due, and of
// leases nothing is lost that is not said elsewhere: it is written again when the
// other key is gone. That it has to be stands in the deployment's own record, since
// who removes the key may start all processes anew.

// mendField is that record's field for a partition.
func mendField(partition int) string { return "mend:" + strconv.Itoa(partition) }

// mendLater notes that a partition is to be mended.
func (db *DB) mendLater(ctx context.Context, partition int) {
	b := db.client.B().Hset().Key(db.tag(0)+":meta").FieldValue().FieldValue(mendField(partition), "1").Build()
	if r := db.do(ctx, b); r.err != nil {
		db.log.Debug("note that a partition is to be mended", "partition", partition, "error", r.err)
	}
}

// mendAll mends the partitions of which the deployment's record says so.
func (db *DB) mendAll(ctx context.Context, meta map[string]string) {
	for p := range db.tags {
		if meta[mendField(p)] != "" {
			db.mend(ctx, p)
		}
	}
}

// mendPage is how many keys one script looks at.
const mendPage = 500

// mend writes again what a key of another type had replaced. What cannot be done now
// is done when the store is opened the next time.
func (db *DB) mend(ctx context.Context, partition int) {
	err := db.mendLines(ctx, partition)
	if err == nil {
		err = db.mendLeases(ctx, partition)
	}
	if err == nil {
		err = db.do(ctx, db.client.B().Hdel().Key(db.tag(0)+":meta").Field(mendField(partition)).Build()).err
	}
	if err != nil {
		db.log.Error("a partition in which a key was of another type is not mended yet", "partition", partition, "error", err)
		return
	}
	db.log.Warn("a key of another type is gone, and what it replaced was written again", "partition", partition)
}

func (db *DB) mendLines(ctx context.Context, partition int) error {
	tag := db.tags[partition] + ":"
	for _, node := range db.client.Nodes() {
		for cursor := uint64(0); ; {
			page, err := doAt(ctx, node, node.B().Scan().Cursor(cursor).Match(escapeGlob(tag)+"[qbd]:*").Count(10*mendPage).Build()).AsScanEntry()
			if err != nil {
				return fmt.Errorf("look for lines: %w", err)
			}
			var args []string
			for _, key := range page.Elements {
				kind, name, _ := strings.Cut(key[len(tag):], ":")
				args = append(args, kind, name)
			}
			if err := db.mendPart(ctx, partition, args); err != nil {
				return err
			}
			if cursor = page.Cursor; cursor == 0 {
				break
			}
		}
	}
	return nil
}

func (db *DB) mendLeases(ctx context.Context, partition int) error {
	for cursor := uint64(0); ; {
		page, err := db.do(ctx, db.client.B().Hscan().Key(db.tags[partition]+":run").Cursor(cursor).Count(mendPage).Build()).AsScanEntry()
		if err != nil {
			return fmt.Errorf("look for leases: %w", err)
		}
		var args []string
		for i := 0; i < len(page.Elements); i += 2 {
			args = append(args, "r", page.Elements[i])
		}
		if err := db.mendPart(ctx, partition, args); err != nil {
			return err
		}
		if cursor = page.Cursor; cursor == 0 {
			return nil
		}
	}
}

func (db *DB) mendPart(ctx context.Context, partition int, args []string) error {
	if len(args) == 0 {
		return nil
	}
	m, err := db.evaluate(ctx, &call{db.scripts.mend, partition, args})
	if err == nil {
		_, err = m.ToInt64()
	}
	if err != nil && !errors.Is(err, rueidis.Nil) {
		return fmt.Errorf("mend partition %d: %w", partition, unavailable(err))
	}
	return nil
}
