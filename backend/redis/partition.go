package redis

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/redis/rueidis"
)

// partition is where the task of that id lies.
func (db *DB) partition(id string) int {
	if len(db.tags) == 1 {
		return 0
	}
	return int(crc16(id)) % len(db.tags)
}

// crc16 is the one of Redis Cluster's slots (CCITT, XMODEM).
func crc16(s string) uint16 {
	var crc uint16
	for i := range len(s) {
		crc ^= uint16(s[i]) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return crc
}

// share is the part of a batch that one script takes: items by their indexes, all
// in one partition.
type share struct {
	partition int
	items     []int
}

// shares splits n items by the partitions of their ids, at most so many to a share
// (0: all).
func (db *DB) shares(n, most int, id func(i int) string) []share {
	items := make([]int, n)
	for i := range items {
		items[i] = i
	}
	return db.sharesOf(items, most, id)
}

// sharesOf is shares for some of the items.
func (db *DB) sharesOf(items []int, most int, id func(i int) string) (list []share) {
	parts := make([][]int, len(db.tags))
	for _, i := range items {
		p := db.partition(id(i))
		parts[p] = append(parts[p], i)
	}
	for p, items := range parts {
		for page := range slices.Chunk(items, max(cmp.Or(most, len(items)), 1)) {
			list = append(list, share{p, page})
		}
	}
	return list
}

// spread runs a script for each share, side by side. args makes its arguments,
// read takes its answer; a share whose script failed has none, and the first of
// the errors is returned.
func (db *DB) spread(ctx context.Context, s *script, shares []share, args func(items []int) []string, read func(m *rueidis.RedisMessage, items []int) error) error {
	calls := make([]call, len(shares))
	for k, part := range shares {
		calls[k] = call{s, part.partition, args(part.items)}
	}
	msgs, errs := db.runAll(ctx, calls)
	var first error
	for k, err := range errs {
		if err == nil {
			err = read(&msgs[k], shares[k].items)
		}
		first = cmp.Or(first, err)
	}
	return first
}

// flat makes the arguments of a share of what is said of each of its items.
func flat(of func(i int) []string) func(items []int) []string {
	return func(items []int) (args []string) {
		for _, i := range items {
			args = append(args, of(i)...)
		}
		return args
	}
}

// letters reads an answer that is a letter for each item.
func letters(m *rueidis.RedisMessage, items []int) (string, error) {
	text, err := m.ToString()
	if err != nil || len(text) != len(items) {
		return "", fmt.Errorf("%w (%w)", errForeign, err)
	}
	return text, nil
}

// words reads an answer that is a word for each item.
func words(m *rueidis.RedisMessage, items []int) ([]string, error) {
	list, err := m.AsStrSlice()
	if err != nil || len(list) != len(items) {
		return nil, fmt.Errorf("%w (%w)", errForeign, err)
	}
	return list, nil
}

// timed reads an answer that is the server's time in ms, and then one element for
// each item.
func timed(m *rueidis.RedisMessage, items []int) (now int64, list []rueidis.RedisMessage, err error) {
	if list, err = m.ToArray(); err != nil || len(list) != len(items)+1 {
		return 0, nil, fmt.Errorf("%w (%w)", errForeign, err)
	}
	now, err = list[0].AsInt64()
	return now, list[1:], err
}
