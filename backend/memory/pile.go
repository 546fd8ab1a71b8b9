package memory

// pile is a binary heap whose items know their index, so that any of them can
// be taken out. The keys lie beside the pointers: comparing touches no item.
type pile[T interface {
	comparable
	setIndex(i int32)
}] struct {
	entries []entry[T]
}

type entry[T any] struct {
	key  int64
	item T
}

// top is the item with the least key, or T's zero.
func (p *pile[T]) top() (item T, key int64) {
	if len(p.entries) == 0 {
		return item, 0
	}
	return p.entries[0].item, p.entries[0].key
}

func (p *pile[T]) len() int { return len(p.entries) }

// until counts the items with keys of at most key, as far as limit.
func (p *pile[T]) until(key int64, limit int) int {
	n := 0
	for open := []int{0}; len(open) > 0 && n < limit; {
		i := open[len(open)-1]
		open = open[:len(open)-1]
		if i < len(p.entries) && p.entries[i].key <= key { // else no child's key is less either
			n++
			open = append(open, 2*i+1, 2*i+2)
		}
	}
	return n
}

func (p *pile[T]) push(item T, key int64) {
	p.entries = append(p.entries, entry[T]{})
	p.up(len(p.entries)-1, entry[T]{key, item})
}

// remove takes out the item at index i.
func (p *pile[T]) remove(i int32) {
	last := int32(len(p.entries) - 1)
	p.entries[i].item.setIndex(-1)
	moved := p.entries[last]
	p.entries[last] = entry[T]{}
	p.entries = p.entries[:last]
	if i < last {
		p.settle(int(i), moved)
	}
	if c := cap(p.entries); c > 1024 && int(last) < c/4 {
		p.entries = append(make([]entry[T], 0, c/2), p.entries...)
	}
}

// change gives the item at index i another key.
func (p *pile[T]) change(i int32, key int64) {
	p.settle(int(i), entry[T]{key, p.entries[i].item})
}

// settle puts e into the hole at i, or to where it belongs from there.
func (p *pile[T]) settle(i int, e entry[T]) {
	if i > 0 && e.key < p.entries[(i-1)/2].key {
		p.up(i, e)
	} else {
		p.down(i, e)
	}
}

func (p *pile[T]) up(i int, e entry[T]) {
	for i > 0 {
		parent := (i - 1) / 2
		if p.entries[parent].key <= e.key {
			break
		}
		p.put(i, p.entries[parent])
		i = parent
	}
	p.put(i, e)
}

func (p *pile[T]) down(i int, e entry[T]) {
	for {
		child := 2*i + 1
		if child >= len(p.entries) {
			break
		}
		if next := child + 1; next < len(p.entries) && p.entries[next].key < p.entries[child].key {
			child = next
		}
		if e.key <= p.entries[child].key {
			break
		}
		p.put(i, p.entries[child])
		i = child
	}
	p.put(i, e)
}

func (p *pile[T]) put(i int, e entry[T]) {
	p.entries[i] = e
	e.item.setIndex(int32(i))
}
