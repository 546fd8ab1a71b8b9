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
	// The wire forms are joined as they are: encoding them once more as JSON
	// would rewrite the bytes of their arguments.
	out := []byte{'['}
	for i, e := range links {
		if err := e.Validate(); err != nil {
			return nil, fmt.Errorf("link %d: %w", i+1, err)
		}
		if i > 0 {
			out = append(out, ',')
		}
		var err error
		if out, err = task.AppendEncode(out, e); err != nil {
			return nil, fmt.Errorf("encoding link %d: %w", i+1, err)
		}
	}
	return append(out, ']'), nil
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
		return decodeLinks(parent, task.MetaLinks, o.Result, parent.Headers[task.HeaderEncoder], o.EndedAt)
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
		return decodeLinks(parent, task.MetaErrorLinks, args, "", o.EndedAt)
	default:
		return nil, nil
	}
}

// decodeLinks reads the linked envelopes and gives args, which the named
// encoders have made, to those that have none of their own.
func decodeLinks(parent *task.Envelope, key string, args json.RawMessage, encoder string, now time.Time) ([]broker.Publication, error) {
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
		e.EnqueuedAt = now.UTC().Truncate(time.Millisecond)
		e.Meta = descend(parent, e.Meta)
		if e.Args == nil || string(e.Args) == null {
			inherit(e, args, encoder)
		}
		out[i] = broker.Publication{Envelope: e}
	}
	return out, nil
}

// inherit makes args the argument of a linked task, encoded as the parent's
// result is. Its own result is encoded the same way.
func inherit(e *task.Envelope, args json.RawMessage, encoder string) {
	e.Args = args
	if encoder == "" {
		return
	}
	headers := make(map[string]string, len(e.Headers)+1)
	maps.Copy(headers, e.Headers)
	headers[task.HeaderEncoder] = encoder
	e.Headers = headers
	e.Meta[task.MetaEncoder] = json.RawMessage(`"` + encoder + `"`) // ids need no escapes
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
