package pair

// What tests need to see.
var (
	Mark   = mark
	Unmark = unmark
)

// Held is how many deliveries j remembers.
func (j *Joined) Held() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.held)
}
