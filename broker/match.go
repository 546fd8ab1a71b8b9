package broker

import "strings"

// IsPattern reports whether a queue or task selector has a "*".
func IsPattern(s string) bool { return strings.Contains(s, "*") }

// Match reports whether name fits the pattern, in which "*" stands for any
// run of characters, also none.
func Match(pattern, name string) bool {
	head, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == name
	}
	if !strings.HasPrefix(name, head) {
		return false
	}
	name = name[len(head):]
	for {
		part, after, more := strings.Cut(rest, "*")
		if !more {
			return strings.HasSuffix(name, part)
		}
		i := strings.Index(name, part)
		if i < 0 {
			return false
		}
		name, rest = name[i+len(part):], after
	}
}
