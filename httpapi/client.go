package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// ClientOptions shape a client. The zero value works against a server without
// tokens.
type ClientOptions struct {
	Token string
	HTTP  *http.Client // nil: http.DefaultClient; one with a Timeout of less than a minute breaks waits off
}

// Client speaks to the API. It is a stem.Conn: declared tasks are enqueued and
// awaited through it as through a stem.Client, with the parent and the root of
// what a handler enqueues. It is safe for concurrent use.
type Client struct {
	base  string
	token string
	http  *http.Client
}

var _ stem.Conn = (*Client)(nil)

// NewClient makes a client of the server at that URL, such as
// http://127.0.0.1:8080.
func NewClient(base string, o ClientOptions) (*Client, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%w URL of the API: want http://HOST[:PORT] or https://", task.ErrInvalid)
	}
	c := &Client{base: strings.TrimRight(u.String(), "/"), token: o.Token, http: o.HTTP}
	if c.http == nil {
		c.http = http.DefaultClient
	}
	return c, nil
}

// Bounds of one request of EnqueueMany.
const (
	chunkCount = 1000
	chunkBytes = 3 << 20
)

// EnqueueMany stores items; see stem.Client.EnqueueMany. Items without an id
// get one here, so that a repeat with the ids of the receipts stores them once.
func (c *Client) EnqueueMany(ctx context.Context, items []stem.Item) ([]stem.Receipt, error) {
	receipts := make([]stem.Receipt, len(items))
	bodies := make([][]byte, len(items))
	parent := stem.Current(ctx)
	for i := range items {
		n, err := taskOf(&items[i])
		if n.Parent == "" && parent.ID() != "" {
			n.Parent, n.Root = parent.ID(), parent.Root()
		}
		if n.ID == "" && err == nil {
			n.ID = task.NewID()
		}
		receipts[i].ID = n.ID
		if err == nil {
			bodies[i], err = json.Marshal(n)
		}
		receipts[i].Err = err
	}
	known, failure := false, error(nil)
	for at := 0; at < len(items); {
		body, index := []byte(`{"tasks":[`), []int(nil)
		for ; at < len(items) && len(index) < chunkCount; at++ {
			if receipts[at].Err != nil {
				continue
			}
			if len(index) > 0 && len(body)+len(bodies[at]) > chunkBytes {
				break
			}
			if len(index) > 0 {
				body = append(body, ',')
			}
			body, index = append(body, bodies[at]...), append(index, at)
		}
		if len(index) == 0 {
			continue
		}
		err := c.postChunk(ctx, append(body, "]}"...), receipts, index)
		known = known || err == nil
		if err != nil {
			failure = err
		}
	}
	if known {
		return receipts, nil
	}
	return receipts, failure
}

func (c *Client) postChunk(ctx context.Context, body []byte, receipts []stem.Receipt, index []int) error {
	var answer EnqueuedMany
	_, err := c.do(ctx, http.MethodPost, "/v1/tasks/batch", body, &answer)
	if err == nil && len(answer.Tasks) != len(index) {
		err = fmt.Errorf("%w: the API answered %d of %d tasks", stem.ErrOutcomeUnknown, len(answer.Tasks), len(index))
	}
	if err != nil {
		err = fmt.Errorf("enqueue %d tasks: %w", len(index), err)
		for _, i := range index {
			receipts[i].Err = err
		}
		return err
	}
	for k, i := range index {
		a := &answer.Tasks[k]
		receipts[i] = stem.Receipt{ID: a.ID, Duplicate: a.Duplicate}
		if a.Error != nil {
			receipts[i].Err = a.Error.err(a.ID)
		}
	}
	return nil
}

// Get returns a task's record, or stem.ErrNotFound.
func (c *Client) Get(ctx context.Context, id string) (stem.Status, error) {
	var s stem.Status
	if err := task.ValidateID(id); err != nil {
		return s, err
	}
	_, err := c.do(ctx, http.MethodGet, "/v1/tasks/"+id, nil, &s)
	if err != nil {
		return s, fmt.Errorf("read task %s: %w", id, err)
	}
	return s, nil
}

// Wait returns a task's record when it has ended. It goes on over a server
// that restarts, or cannot be reached, until ctx ends.
func (c *Client) Wait(ctx context.Context, id string) (stem.Status, error) {
	if err := task.ValidateID(id); err != nil {
		return stem.Status{}, err
	}
	for failures := 0; ; {
		var s stem.Status
		status, err := c.do(ctx, http.MethodGet, "/v1/tasks/"+id+"/wait?timeout=30s", nil, &s)
		switch {
		case ctx.Err() != nil:
			return s, fmt.Errorf("wait for task %s: %w", id, context.Cause(ctx))
		case err == nil && status == http.StatusOK:
			return s, nil
		case err == nil:
			failures = 0
			continue
		case !errors.Is(err, broker.ErrUnavailable) && !errors.Is(err, stem.ErrOutcomeUnknown):
			return s, fmt.Errorf("wait for task %s: %w", id, err)
		}
		failures++
		t := time.NewTimer(min(100*time.Millisecond<<min(failures, 6), 5*time.Second))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 20

// do sends one request and decodes its answer. An answer that never came is
// ErrOutcomeUnknown.
func (c *Client) do(ctx context.Context, method, path string, body []byte, into any) (int, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return 0, fmt.Errorf("make the request: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", stem.ErrOutcomeUnknown, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return 0, fmt.Errorf("%w: read the answer: %w", stem.ErrOutcomeUnknown, err)
	}
	if resp.StatusCode >= 300 {
		return resp.StatusCode, failure(resp, raw)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return 0, fmt.Errorf("%w: the answer is not the API's: %w", stem.ErrOutcomeUnknown, err)
	}
	return resp.StatusCode, nil
}

func failure(resp *http.Response, raw []byte) error {
	if media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err == nil && media == "application/problem+json" {
		p := &Problem{}
		if json.Unmarshal(raw, p) == nil && p.Type != "" {
			return p.err(p.ID)
		}
	}
	if resp.StatusCode >= 500 {
		return fmt.Errorf("%w: HTTP status %s, from something before the API", stem.ErrOutcomeUnknown, strconv.Itoa(resp.StatusCode))
	}
	return fmt.Errorf("HTTP status %d, and no answer of the API", resp.StatusCode)
}

// err is the error that a stem.Client would have given.
func (p *Problem) err(id string) error {
	switch strings.TrimPrefix(p.Type, problemPath) {
	case taskExists:
		return &stem.TaskExistsError{ID: id, Status: p.Task}
	case queueFull:
		return fmt.Errorf("%w: %w", stem.ErrQueueFull, p)
	case tooLarge:
		return fmt.Errorf("%w: %w", stem.ErrTooLarge, p)
	case invalidArgument, malformedJSON, unknownField, duplicateField, unknownParameter:
		return fmt.Errorf("%w: %w", stem.ErrInvalid, p)
	case notFound:
		return fmt.Errorf("%w: %w", stem.ErrNotFound, p)
	case unsupported:
		return fmt.Errorf("%w: %w", broker.ErrUnsupported, p)
	case conflict:
		return fmt.Errorf("%w: %w", store.ErrConflict, p)
	case leaseLost:
		return fmt.Errorf("%w: %w", broker.ErrLeaseLost, p)
	case outcomeUnknown, internalError:
		return fmt.Errorf("%w: %w", stem.ErrOutcomeUnknown, p)
	case unavailable, busy:
		return fmt.Errorf("%w: %w", broker.ErrUnavailable, p)
	}
	return p
}

// taskOf is an item as the API takes it.
func taskOf(i *stem.Item) (NewTask, error) {
	o, err := i.Options()
	n := NewTask{
		Name: i.Name(), Args: i.Args(), ID: o.ID, Queue: o.Queue, In: Duration(o.In), At: o.At,
		ExpiresIn: Duration(o.ExpiresIn), ExpiresAt: o.ExpiresAt, Priority: o.Priority, MaxRetries: o.MaxRetries,
		VisibilityTimeout: Duration(o.VisibilityTimeout), Retention: (*Retention)(o.Retention), IgnoreResult: o.IgnoreResult, KeepArgs: o.KeepArgs,
		Headers: o.Headers, Meta: o.Meta, Parent: o.Parent, Root: o.Root, IdempotencyKey: o.IdempotencyKey, IdempotencyTTL: Duration(o.IdempotencyTTL),
		Encoders: o.Encoders,
	}
	for _, links := range []struct {
		from []stem.Item
		to   *[]NewTask
	}{{o.Links, &n.OnSuccess}, {o.ErrorLinks, &n.OnFailure}} {
		for k := range links.from {
			link, lerr := taskOf(&links.from[k])
			*links.to = append(*links.to, link)
			err = errors.Join(err, lerr)
		}
	}
	return n, err
}
