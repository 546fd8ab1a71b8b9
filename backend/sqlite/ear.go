package sqlite

// Ears are woken by topics: that there is a command, a reply, a heartbeat. They
// have a socket of their own, apart from those who watch tasks, so that the
// changes of tasks, which are many, are not told to every worker that listens
// to commands:
//
//	ID.ear    a process in which somebody waits for a topic

// hearTopic adds a channel that is signalled when the topic is told, by this
// process or another, and about once a second besides while the file changes.
func (h *hub) hearTopic(topic string) (<-chan struct{}, func()) { return h.addEar(topic, true) }

// hearTold is hearTopic for who looks now and then by himself: for him alone nobody
// looks at the file.
func (h *hub) hearTold(topic string) (<-chan struct{}, func()) { return h.addEar(topic, false) }

func (h *hub) addEar(topic string, poll bool) (<-chan struct{}, func()) {
	ch := make(chan struct{}, 1)
	key := hash(topic)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ears == nil {
		h.ears = make(map[uint32]map[chan struct{}]struct{})
	}
	if h.ears[key] == nil {
		h.ears[key] = make(map[chan struct{}]struct{})
	}
	h.ears[key][ch] = struct{}{}
	if !h.db.isClosed() {
		if h.earing == nil {
			h.earing = h.dir.add(".ear", nil, h.heardTopics)
		}
		if poll {
			h.dir.poll()
		}
	}
	return ch, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.ears[key], ch)
		if len(h.ears[key]) == 0 {
			delete(h.ears, key)
		}
	}
}

// tellTopics tells who waits for topics, here and in other processes.
func (h *hub) tellTopics(topics []string) {
	h.mu.Lock()
	for _, t := range topics {
		for ch := range h.ears[hash(t)] {
			signal(ch)
		}
	}
	h.mu.Unlock()
	h.dir.tellTopics(topics)
}

// heardTopics is called with what another process told.
func (h *hub) heardTopics(message []byte) {
	hashes, all := decodeHashes(message)
	h.mu.Lock()
	defer h.mu.Unlock()
	if all {
		h.stirEars()
		return
	}
	for _, key := range hashes {
		for ch := range h.ears[key] {
			signal(ch)
		}
	}
}

// stirEars has everybody read: something may have been told unheard. It is
// called under mu.
func (h *hub) stirEars() {
	for _, set := range h.ears {
		for ch := range set {
			signal(ch)
		}
	}
}

// tellTopics sends topics to the ears of other processes.
func (d *wakeDir) tellTopics(topics []string) {
	message := encodeHashes(topics)
	for _, e := range d.list() {
		if e.suffix == ".ear" && !d.isOwn(e.id) {
			d.send(e.id, e.path(d), message)
		}
	}
}
