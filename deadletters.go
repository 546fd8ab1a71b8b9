package stem

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/encode"
	"github.com/stemjobs/stem/internal/fingerprint"
	"github.com/stemjobs/stem/measure"
	"github.com/stemjobs/stem/task"
)

// ReplayEdited replays one dead letter with other arguments, in one step: edit
// is given the arguments as plain JSON, whatever they are encoded with, and
// returns those that the task has from now on. The first arguments are kept, as
// they are stored and up to one KiB, in the task's meta (task.MetaEdited) and so
// in its status. Nothing changes when it fails: ErrNotFound when there is no
// such dead letter; ErrInvalid when its entry is no envelope, or edit made what
// is no JSON; encode.ErrUnknown when this client lacks an encoder of the
// arguments; broker.ErrUnsupported when the broker lacks broker.PowerEdit.
// Of the options, Limit and Edited are not used.
func (c *Client) ReplayEdited(ctx context.Context, id string, edit func(args json.RawMessage) (json.RawMessage, error), o broker.ReplayOptions) (broker.Replayed, error) {
	if err := task.ValidateID(id); err != nil {
		return broker.Replayed{}, err
	}
	if !broker.CapabilitiesOf(c.broker).Has(broker.PowerEdit) {
		return broker.Replayed{}, fmt.Errorf("edit dead letter %s: %w", id, broker.ErrUnsupported)
	}
	found, _, err := c.DeadLetters(ctx, broker.DeadFilter{IDs: []string{id}}, broker.Page{Limit: 1})
	if err != nil {
		return broker.Replayed{}, err
	}
	if len(found) == 0 {
		return broker.Replayed{}, fmt.Errorf("dead letter %s: %w", id, ErrNotFound)
	}
	d := &found[0]
	edited, err := c.edited(d, edit)
	if err != nil {
		return broker.Replayed{}, fmt.Errorf("edit dead letter %s: %w", id, err)
	}
	o.Edited, o.Limit = edited, 0
	// The edit is of this death: should the task have lived and died again
	// meanwhile, it is not replayed.
	r, err := c.ReplayDeadLetters(ctx, broker.DeadFilter{IDs: []string{id}, Before: d.DeadAt.Add(time.Millisecond)}, o)
	if err == nil && r.Count == 0 {
		err = fmt.Errorf("dead letter %s: %w: somebody replayed or purged it meanwhile", id, ErrNotFound)
	}
	return r, err
}

// edited makes the envelope that a dead letter has after an edit.
func (c *Client) edited(d *broker.DeadLetter, edit func(json.RawMessage) (json.RawMessage, error)) (*task.Envelope, error) {
	if d.Raw != nil {
		return nil, fmt.Errorf("%w entry: it is no envelope", task.ErrInvalid)
	}
	e := *d.Envelope
	header := e.Headers[task.HeaderEncoder]
	args, err := c.codecs.Unpack(header, e.Args)
	if errors.Is(err, encode.ErrUnknown) {
		return nil, fmt.Errorf("its arguments are encoded as %q, which this program cannot read: %w", header, err)
	}
	if err != nil {
		return nil, fmt.Errorf("read its arguments: %w", err)
	}
	if args, err = edit(bytes.Clone(args)); err != nil {
		return nil, err
	}
	if err := task.ValidateJSON("args", args); err != nil {
		return nil, err
	}
	if e.Args, err = c.codecs.PackAs(header, args); err != nil {
		return nil, fmt.Errorf("encode its arguments: %w", err)
	}
	if e.Meta, err = markEdit(&e, d.Envelope.Args, time.Now()); err != nil {
		return nil, err
	}
	if n := task.EncodedSize(&e); n > c.opts.MaxSize {
		return nil, fmt.Errorf("envelope of %d bytes: %w: at most %d", n, task.ErrTooLarge, c.opts.MaxSize)
	}
	return &e, nil
}

// edits is the annotation of an edited task.
type edits struct {
	Args  json.RawMessage `json:"args"` // the first ones, as task.KeepArgs
	At    time.Time       `json:"at"`   // of the last edit
	Count int             `json:"count"`
}

// markEdit returns an envelope's meta with the note of one more edit.
func markEdit(e *task.Envelope, args json.RawMessage, now time.Time) (map[string]json.RawMessage, error) {
	mark := edits{}
	if raw, ok := e.Meta[task.MetaEdited]; !ok || json.Unmarshal(raw, &mark) != nil || mark.Count < 1 {
		mark = edits{Args: task.KeepArgs(args)}
	}
	mark.At, mark.Count = now.UTC().Truncate(time.Millisecond), mark.Count+1
	raw, err := json.Marshal(mark)
	if err != nil {
		return nil, fmt.Errorf("note the edit: %w", err)
	}
	meta := maps.Clone(e.Meta)
	if meta == nil {
		meta = map[string]json.RawMessage{}
	}
	meta[task.MetaEdited] = raw
	return meta, nil
}

// ImportDeadLetters puts dead letters back that were exported and purged, or
// that come from another store. The slice has nil for each that is stored, or
// why it is not, such as broker.ErrExists; see broker.DeadImporter. The error is
// for all of them: broker.ErrUnsupported when the broker takes none back.
func (c *Client) ImportDeadLetters(ctx context.Context, batch []broker.DeadLetter) ([]error, error) {
	i, ok := broker.As[broker.DeadImporter](c.broker)
	if !ok {
		return nil, fmt.Errorf("this broker takes no dead letters back: %w", broker.ErrUnsupported)
	}
	errs, err := i.ImportDeadLetters(ctx, batch)
	if err != nil {
		return nil, fmt.Errorf("import dead letters: %w", err)
	}
	for k, err := range errs {
		if err == nil {
			c.opts.Meter.Counter(measure.DLQAdded, batch[k].Queue, batch[k].Reason).Add(1)
		}
	}
	return errs, nil
}

// DeadGroup is dead letters that failed in the same way: the same type of
// error, and the same message but for its details.
type DeadGroup struct {
	Fingerprint string         `json:"fingerprint"`
	Type        string         `json:"type"`    // of the error; the reason where there is none
	Message     string         `json:"message"` // without numbers, ids, paths and quoted texts
	Count       int            `json:"count"`
	FirstSeen   time.Time      `json:"firstSeen"` // when the oldest of them died
	LastSeen    time.Time      `json:"lastSeen"`
	Example     string         `json:"example"` // id of the newest
	Tasks       map[string]int `json:"tasks"`   // how many of each name; of the first twenty names
}

// DeadGroups is what a scan of dead letters found.
type DeadGroups struct {
	Groups    []DeadGroup // the largest first
	Looked    int         // dead letters looked at
	Truncated bool        // there are more, older ones
}

const (
	deadScan  = 100_000 // how many dead letters a scan looks at, unless told otherwise
	deadNames = 20      // task names that a group tells
)

// GroupDeadLetters groups the newest dead letters that f selects, at most scan
// of them (0: 100,000), by the fingerprints of their errors.
func (c *Client) GroupDeadLetters(ctx context.Context, f broker.DeadFilter, scan int) (DeadGroups, error) {
	groups := map[string]*DeadGroup{}
	looked, more, err := c.scanDead(ctx, f, scan, func(d *broker.DeadLetter) {
		kind, message := kindOf(d)
		id, text := fingerprint.Of(kind, message)
		g := groups[id]
		if g == nil { // the newest comes first
			g = &DeadGroup{
				Fingerprint: id, Type: kind, Message: text, FirstSeen: d.DeadAt, LastSeen: d.DeadAt,
				Example: d.Envelope.ID, Tasks: map[string]int{},
			}
			groups[id] = g
		}
		g.add(d)
	})
	out := DeadGroups{Looked: looked, Truncated: more}
	for _, g := range groups {
		out.Groups = append(out.Groups, *g)
	}
	slices.SortFunc(out.Groups, func(a, b DeadGroup) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), b.LastSeen.Compare(a.LastSeen), cmp.Compare(a.Fingerprint, b.Fingerprint))
	})
	return out, err
}

func (g *DeadGroup) add(d *broker.DeadLetter) {
	g.Count++
	if d.DeadAt.Before(g.FirstSeen) {
		g.FirstSeen = d.DeadAt
	}
	if d.DeadAt.After(g.LastSeen) {
		g.LastSeen = d.DeadAt
	}
	name := d.Envelope.Name
	if _, known := g.Tasks[name]; known || len(g.Tasks) < deadNames {
		g.Tasks[name]++
	}
}

// kindOf is what makes a dead letter like others.
func kindOf(d *broker.DeadLetter) (kind, message string) {
	if d.Error == nil {
		return d.Reason, ""
	}
	return d.Error.Type, d.Error.Message
}

// DeadLettersLike returns the ids of the dead letters that f selects and whose
// error has that fingerprint, oldest first. It looks at the newest, at most scan
// of them (0: 100,000), and more says that there are older ones.
func (c *Client) DeadLettersLike(ctx context.Context, f broker.DeadFilter, mark string, scan int) (ids []string, more bool, err error) {
	if !fingerprint.Valid(mark) {
		return nil, false, fmt.Errorf("%w fingerprint %.40q: want twelve hex digits", task.ErrInvalid, mark)
	}
	_, more, err = c.scanDead(ctx, f, scan, func(d *broker.DeadLetter) {
		if id, _ := fingerprint.Of(kindOf(d)); id == mark {
			ids = append(ids, d.Envelope.ID)
		}
	})
	slices.Reverse(ids)
	return ids, more, err
}

// scanDead calls look for the newest dead letters.
func (c *Client) scanDead(ctx context.Context, f broker.DeadFilter, scan int, look func(d *broker.DeadLetter)) (looked int, more bool, err error) {
	if scan <= 0 {
		scan = deadScan
	}
	cursor := ""
	for looked < scan {
		page, next, err := c.DeadLetters(ctx, f, broker.Page{Limit: min(1000, scan-looked), Cursor: cursor})
		if err != nil {
			return looked, true, err
		}
		for i := range page {
			look(&page[i])
		}
		looked += len(page)
		if cursor = next; cursor == "" {
			return looked, false, nil
		}
	}
	// A page that is full may be the last one.
	rest, _, err := c.DeadLetters(ctx, f, broker.Page{Limit: 1, Cursor: cursor})
	return looked, err != nil || len(rest) > 0, err
}
