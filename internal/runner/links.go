package runner

import (
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// EncodeLinks makes the value of task.MetaLinks or task.MetaErrorLinks: the
// envelopes that follow a task's success, or its end as a dead letter. One
// whose Args are null gets the result as its argument; of an error link, an
// object of the error's type and message and the failed task's id.
func EncodeLinks(links ...*task.Envelope) (json.RawMessage, error) {
	wires := make([]json.RawMessage, len(links))
	for i, e := range links {
		if err := e.Validate(); err != nil {
			return nil, fmt.Errorf("link %d: %w", i+1, err)
		}
		wire, err := task.Encode(e)
		if err != nil {
			return nil, fmt.Errorf("encoding link %d: %w", i+1, err)
		}
		wires[i] = wire
	}
	return json.Marshal(wires)
}

// linkedError is the argument of an error link.
type linkedError struct {
	Type    string `json:"type"`
	Message string `json:"message"`
	ID      string `json:"id"`
}

// links are the follow-ups that an outcome of parent calls for.
func links(parent *task.Envelope, o *task.Outcome) ([]broker.Publication, error) {
	if parent.Meta == nil {
		return nil, nil
	}
	switch o.State {
	case task.Succeeded:
		return decodeLinks(parent, task.MetaLinks, o.Result, o.EndedAt)
	case task.Failed:
		if parent.Meta[task.MetaErrorLinks] == nil {
			return nil, nil
		}
		le := linkedError{ID: parent.ID, Type: o.Reason}
		if o.Error != nil {
			le.Type, le.Message = o.Error.Type, o.Error.Message
		}
		args, err := json.Marshal(le)
		if err != nil {
			return nil, fmt.Errorf("encoding the error for its links: %w", err)
		}
		return decodeLinks(parent, task.MetaErrorLinks, args, o.EndedAt)
	default:
		return nil, nil
	}
}

func decodeLinks(parent *task.Envelope, key string, args json.RawMessage, now time.Time) ([]broker.Publication, error) {
	raw := parent.Meta[key]
	if raw == nil {
		return nil, nil
	}
	var wires []json.RawMessage
	if err := json.Unmarshal(raw, &wires); err != nil {
		return nil, fmt.Errorf("reading meta.%s: %w", key, err)
	}
	out := make([]broker.Publication, len(wires))
	for i, wire := range wires {
		e, err := task.Decode(wire)
		if err != nil {
			return nil, fmt.Errorf("reading meta.%s, link %d: %w", key, i+1, err)
		}
		if e.Args == nil || string(e.Args) == null {
			e.Args = args
		}
		e.EnqueuedAt = now.UTC().Truncate(time.Millisecond)
		e.Meta = descend(parent, e.Meta)
		out[i] = broker.Publication{Envelope: e}
	}
	return out, nil
}

// descend returns meta with the line of descent from parent in it.
func descend(parent *task.Envelope, meta map[string]json.RawMessage) map[string]json.RawMessage {
	out := make(map[string]json.RawMessage, len(meta)+2)
	maps.Copy(out, meta)
	id := json.RawMessage(`"` + parent.ID + `"`) // ids need no escapes
	out[task.MetaParent] = id
	if root := parent.Meta[task.MetaRoot]; root != nil {
		out[task.MetaRoot] = root
	} else {
		out[task.MetaRoot] = id
	}
	return out
}
