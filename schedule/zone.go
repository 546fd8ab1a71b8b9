package schedule

import (
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // a spec must mean the same on every machine: see the package's comment
)

// Loader makes specs that share what they can, the time zones above all: whoever
// holds many keeps one. The zero value is ready, and may be used by many
// goroutines at once. What it keeps is bounded by the number of zones there are.
type Loader struct {
	mu    sync.Mutex
	zones map[string]*time.Location
}

// Parse is [Parse] with the loader's zones.
func (l *Loader) Parse(text string) (Spec, error) {
	d, err := ParseDefinition(text)
	if err != nil {
		return nil, err
	}
	return l.Spec(d)
}

const wantZone = "the name of a time zone, as in Europe/Berlin, or UTC"

// zone finds a time zone by its name. "Local" is none: it is another one on
// another machine. Neither is "right/…", which counts leap seconds.
func (l *Loader) zone(name string) (*time.Location, error) {
	if name == "" || name == "UTC" {
		return time.UTC, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if loc := l.zones[name]; loc != nil {
		return loc, nil
	}
	if name == "Local" || strings.HasPrefix(name, "right/") || len(name) > longestValue {
		return nil, wrong("timezone", name, wantZone)
	}
	loc, err := time.LoadLocation(name)
	if err != nil {
		return nil, wrong("timezone", name, wantZone)
	}
	if l.zones == nil {
		l.zones = make(map[string]*time.Location)
	}
	l.zones[name] = loc
	return loc, nil
}
