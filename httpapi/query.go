package httpapi

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// maxParameter is how many bytes a query parameter may have.
const maxParameter = 4096

func parseQuery(raw string) (url.Values, error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, fmt.Errorf("not as a query should be: %w", err)
	}
	for _, vs := range values {
		for _, v := range vs {
			if len(v) > maxParameter || !utf8.ValidString(v) || strings.ContainsRune(v, 0) {
				return nil, errors.New("a value is too long, or not UTF-8")
			}
		}
	}
	return values, nil
}

// duration is a query parameter, at most most.
func (c *call) duration(name string, other, most time.Duration) (time.Duration, *Problem) {
	text, ok := c.query[name]
	if !ok {
		return other, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 || d > most {
		return 0, wrong(name, "want a duration of at most %s, such as 10s", most)
	}
	return d, nil
}

// page reads the parameters of paging.
func (c *call) page() (limit int, cursor string, p *Problem) {
	if text, ok := c.query["limit"]; ok {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 1000 {
			return 0, "", wrong("limit", "want a number from 1 to 1000")
		}
		limit = n
	}
	return limit, c.query["cursor"], nil // whose form is the store's own
}

// moment is a query parameter: RFC 3339, or a duration ago.
func (c *call) moment(name string, now time.Time) (time.Time, *Problem) {
	text, ok := c.query[name]
	if !ok {
		return time.Time{}, nil
	}
	t, err := store.ParseMoment(text, now)
	if err == nil {
		err = task.ValidateTime(name, t)
	}
	if err != nil || t.IsZero() {
		return t, wrong(name, "want RFC 3339, or a duration ago such as 2h")
	}
	return t, nil
}

// taskQuery reads a query for tasks: either q, or single words.
func (c *call) taskQuery(now time.Time) (q store.Query, p *Problem) {
	text, whole := c.query["q"]
	if whole {
		var err error
		if q, err = store.ParseQuery(text, now); err != nil {
			return q, wrong("q", "%s", err)
		}
	}
	for name := range c.query {
		if whole && name != "q" && name != "limit" && name != "cursor" {
			return q, wrong(name, "give it within q")
		}
	}
	if states := c.query["state"]; states != "" {
		for word := range strings.SplitSeq(states, ",") {
			state, err := task.ParseState(word)
			if err != nil {
				return q, wrong("state", "%s", err)
			}
			q.States = append(q.States, state)
		}
	}
	for name, field := range map[string]*string{
		"name": &q.Name, "queue": &q.Queue, "worker": &q.Worker, "reason": &q.Reason, "error": &q.Error, "args": &q.Args,
	} {
		if v, ok := c.query[name]; ok {
			*field = v
		}
	}
	for name, field := range map[string]*time.Time{"since": &q.Since, "until": &q.Until} {
		t, p := c.moment(name, now)
		if p != nil {
			return q, p
		}
		if !t.IsZero() {
			*field = t
		}
	}
	q.Limit, q.Cursor, p = c.page()
	return q, p
}

// deadQuery reads a filter of dead letters and its page.
func (c *call) deadQuery(now time.Time) (f broker.DeadFilter, page broker.Page, p *Problem) {
	f = broker.DeadFilter{Queue: c.query["queue"], Task: c.query["task"], Reason: c.query["reason"]}
	if f.Before, p = c.moment("before", now); p != nil {
		return f, page, p
	}
	page.Limit, page.Cursor, p = c.page()
	return f, page, p
}
