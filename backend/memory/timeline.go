package memory

import (
	"cmp"
	"slices"
	"sort"
	"strings"
)

// timeline is all records by the time they were enqueued, for listings. They
// come nearly in order, so it collects them in buckets of some milliseconds
// and sorts a bucket only when a listing walks it.
type timeline struct {
	buckets map[int64]*bucket
	keys    []int64 // in order; those of buckets that are gone may remain
	last    *bucket // the one that got the newest record
}

// bucketBits is the binary logarithm of how many milliseconds a bucket spans.
const bucketBits = 7

type bucket struct {
	key     int64
	records []*record // some of them gone
	live    int
	sorted  bool
}

// older orders records by time, then id.
func older(a, b *record) int {
	return cmp.Or(cmp.Compare(a.at, b.at), strings.Compare(a.id, b.id))
}

func (t *timeline) add(r *record) {
	key := r.at >> bucketBits
	b := t.last
	if b == nil || b.key != key {
		b = t.bucket(key)
		t.last = b
	}
	if n := len(b.records); b.sorted && n > 0 && older(b.records[n-1], r) > 0 {
		b.sorted = false
	}
	b.records = append(b.records, r)
	b.live++
}

func (t *timeline) bucket(key int64) *bucket {
	b := t.buckets[key]
	if b != nil {
		return b
	}
	b = &bucket{key: key, sorted: true}
	t.buckets[key] = b
	if at, found := slices.BinarySearch(t.keys, key); !found {
		t.keys = slices.Insert(t.keys, at, key)
	}
	return b
}

// remove forgets a record that is in no place any more.
func (t *timeline) remove(r *record) {
	b := t.buckets[r.at>>bucketBits]
	r.removed = true
	b.live--
	switch {
	case b.live == 0:
		t.drop(b)
	case len(b.records) > 64 && b.live < len(b.records)/2:
		b.records = slices.DeleteFunc(b.records, func(r *record) bool { return r.removed })
	}
}

func (t *timeline) drop(b *bucket) {
	delete(t.buckets, b.key)
	if t.last == b {
		t.last = nil
	}
	if len(t.keys) > 64 && len(t.buckets) < len(t.keys)/2 {
		t.keys = slices.DeleteFunc(t.keys, func(k int64) bool { return t.buckets[k] == nil })
	}
}

// walk calls f for the records before (at, id), newest first, until it returns
// false.
func (t *timeline) walk(at int64, id string, f func(*record) bool) {
	i, found := slices.BinarySearch(t.keys, at>>bucketBits)
	if !found {
		i--
	}
	for ; i >= 0; i-- {
		b := t.buckets[t.keys[i]]
		if b == nil {
			continue
		}
		if !b.sorted {
			slices.SortFunc(b.records, older)
			b.sorted = true
		}
		j := sort.Search(len(b.records), func(j int) bool {
			return cmp.Or(cmp.Compare(b.records[j].at, at), strings.Compare(b.records[j].id, id)) >= 0
		})
		for j--; j >= 0; j-- {
			if r := b.records[j]; !r.removed && !f(r) {
				return
			}
		}
	}
}
