package stemcmd

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The flag values of this file say in their errors what they accept.

// duration is a flag value: a Go duration, zero or more.
type duration time.Duration

func (d *duration) String() string {
	if *d == 0 {
		return "" // help then names no default
	}
	return time.Duration(*d).String()
}
func (d *duration) Type() string { return "duration" }
func (d *duration) Set(text string) error {
	v, err := time.ParseDuration(text)
	if err != nil || v < 0 {
		return errors.New("want a duration of zero or more, such as 30s, 5m or 1h30m")
	}
	*d = duration(v)
	return nil
}

// instant is a flag value: a moment in RFC 3339.
type instant time.Time

func (i *instant) String() string {
	if time.Time(*i).IsZero() {
		return ""
	}
	return time.Time(*i).Format(time.RFC3339)
}
func (i *instant) Type() string { return "moment" }
func (i *instant) Set(text string) error {
	t, err := parseInstant(text)
	*i = instant(t)
	return err
}

func parseInstant(text string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil || t.UTC().Year() < 1970 || t.UTC().Year() > 9999 {
		return time.Time{}, errors.New("want RFC 3339 from 1970 to 9999, such as 2026-01-02T15:04:05Z")
	}
	return t, nil
}

// whole is a flag value: a whole number in a range.
type whole struct {
	value       int
	least, most int
	set         bool
}

func (w *whole) String() string { return strconv.Itoa(w.value) }
func (w *whole) Type() string   { return "number" }
func (w *whole) Set(text string) error {
	n, err := strconv.Atoi(text)
	if err != nil || n < w.least || n > w.most {
		return fmt.Errorf("want a whole number from %d to %d", w.least, w.most)
	}
	w.value, w.set = n, true
	return nil
}

// pairs is a flag value that may be given again: KEY=VALUE.
type pairs [][2]string

func (p *pairs) String() string {
	text := make([]string, len(*p))
	for i, kv := range *p {
		text[i] = kv[0] + "=" + kv[1]
	}
	return strings.Join(text, ",")
}
func (p *pairs) Type() string { return "key=value" }
func (p *pairs) Set(text string) error {
	key, value, ok := strings.Cut(text, "=")
	if !ok || key == "" {
		return errors.New("want KEY=VALUE")
	}
	*p = append(*p, [2]string{key, value})
	return nil
}
