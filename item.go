package stem

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/stemjobs/stem/task"
)

// ItemOptions are the options of an item, for those who carry it elsewhere: a
// Conn that speaks to a client over a network, or middleware that looks at
// what is enqueued. A nil pointer is an option that was not given.
type ItemOptions struct {
	ID                string
	Queue             string
	In                time.Duration // or
	At                time.Time
	ExpiresIn         time.Duration // or
	ExpiresAt         time.Time
	Priority          *int
	MaxRetries        *int
	VisibilityTimeout time.Duration
	Retention         *time.Duration
	IgnoreResult      bool
	KeepArgs          *bool
	Headers           map[string]string
	Meta              map[string]json.RawMessage
	Parent, Root      string // of ChildOf
	IdempotencyKey    string
	IdempotencyTTL    time.Duration
	Links             []Item
	ErrorLinks        []Item
	Encoders          []string // nil: the client's
}

// Options returns a copy of the item's options. The error says why the item
// can never be enqueued.
func (i Item) Options() (ItemOptions, error) {
	o := cmp.Or(i.opts, &call{})
	return ItemOptions{
		ID: i.ID(), Queue: o.queue, In: o.in, At: o.at, ExpiresIn: o.expiresIn, ExpiresAt: o.expiresAt,
		Priority: o.priority, MaxRetries: o.maxRetries, VisibilityTimeout: o.lease,
		Retention: o.retention, IgnoreResult: o.ignoreResult, KeepArgs: o.keepArgs,
		Headers: maps.Clone(o.headers), Meta: maps.Clone(o.meta), Parent: o.parent, Root: o.root,
		IdempotencyKey: o.claimKey, IdempotencyTTL: o.claimFor,
		Links: slices.Clone(o.links), ErrorLinks: slices.Clone(o.errorLinks), Encoders: slices.Clone(o.encoders),
	}, errors.Join(i.err, o.err)
}

// DecodeArgs returns an envelope's arguments as plain JSON, also where encoders
// were used. The error wraps encode.ErrUnknown when the client lacks one.
func (c *Client) DecodeArgs(e *Envelope) (json.RawMessage, error) {
	args, err := c.codecs.Unpack(e.Headers[task.HeaderEncoder], e.Args)
	if err != nil {
		return nil, fmt.Errorf("decode the arguments of task %s: %w", e.ID, err)
	}
	return args, nil
}

// EncodeResult encodes a result as the task's envelope asks for it.
func (c *Client) EncodeResult(e *Envelope, result json.RawMessage) (json.RawMessage, error) {
	out, err := c.codecs.PackAs(e.Headers[task.HeaderEncoder], result)
	if err != nil {
		return nil, fmt.Errorf("encode the result of task %s: %w", e.ID, err)
	}
	return out, nil
}
