package task_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stemjobs/stem/task"
)

var update = flag.Bool("update", false, "write what the code does into the golden files")

var vectorDir = filepath.Join("..", "testdata", "wire")

// vector is one entry of testdata/wire/valid.json.
type vector struct {
	Name      string  `json:"name"`
	About     string  `json:"about"`
	Wire      string  `json:"wire"`
	Canonical string  `json:"canonical,omitempty"` // as it is written again; absent: as wire
	Fields    *fields `json:"fields"`
}

// fields is an envelope in words that every language has: raw JSON as strings,
// moments and durations as milliseconds.
type fields struct {
	ID                string            `json:"id"`
	Name              string            `json:"name"`
	Args              string            `json:"args"`
	Headers           map[string]string `json:"headers,omitempty"`
	EnqueuedAt        int64             `json:"enqueuedAtMs"`
	NotBefore         *int64            `json:"notBeforeMs,omitempty"`
	ExpiresAt         *int64            `json:"expiresAtMs,omitempty"`
	Priority          int               `json:"priority"`
	Attempt           int               `json:"attempt"`
	MaxRetries        int               `json:"maxRetries"`
	VisibilityTimeout int64             `json:"visibilityTimeoutMs,omitempty"`
	Queue             string            `json:"queue"`
	Meta              map[string]string `json:"meta,omitempty"`
	Unknown           map[string]string `json:"unknown,omitempty"`
}

func fieldsOf(e *task.Envelope) *fields {
	f := &fields{
		ID: e.ID, Name: e.Name, Args: "null", Headers: e.Headers, EnqueuedAt: e.EnqueuedAt.UnixMilli(),
		NotBefore: unixMilli(e.NotBefore), ExpiresAt: unixMilli(e.ExpiresAt),
		Priority: e.Priority, Attempt: e.Attempt, MaxRetries: e.MaxRetries,
		VisibilityTimeout: e.VisibilityTimeout.Milliseconds(), Queue: e.Queue,
		Meta: texts(e.Meta), Unknown: texts(e.Unknown),
	}
	if e.Args != nil {
		f.Args = string(e.Args)
	}
	return f
}

func unixMilli(t time.Time) *int64 {
	if t.IsZero() {
		return nil
	}
	ms := t.UnixMilli()
	return &ms
}

func texts(m map[string]json.RawMessage) map[string]string {
	if m == nil {
		return nil
	}
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[k] = string(v)
	}
	return out
}

func readGolden(t testing.TB, file string, into any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(vectorDir, file))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

func writeGolden(t testing.TB, file string, from any) {
	t.Helper()
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(from); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(vectorDir, file), buf.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestValidVectors(t *testing.T) {
	var vectors []vector
	readGolden(t, "valid.json", &vectors)
	for i := range vectors {
		v := &vectors[i]
		t.Run(v.Name, func(t *testing.T) {
			e, err := task.Decode([]byte(v.Wire))
			if err != nil {
				t.Fatalf("Decode: %v", err)
			}
			written, err := task.Encode(e)
			if err != nil {
				t.Fatalf("Encode: %v", err)
			}
			if n := task.EncodedSize(e); n != len(written) {
				t.Errorf("EncodedSize = %d, want %d", n, len(written))
			}
			if !json.Valid(written) {
				t.Errorf("what is written is no JSON: %s", written)
			}
			if *update {
				v.Canonical, v.Fields = "", fieldsOf(e)
				if string(written) != v.Wire {
					v.Canonical = string(written)
				}
				return
			}
			want := v.Canonical
			if want == "" {
				want = v.Wire
			}
			if diff := cmp.Diff(want, string(written)); diff != "" {
				t.Errorf("written again (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(v.Fields, fieldsOf(e)); diff != "" {
				t.Errorf("fields (-want +got):\n%s", diff)
			}
		})
	}
	if *update {
		writeGolden(t, "valid.json", vectors)
	}
}

// invalidVector is one entry of testdata/wire/invalid.json.
type invalidVector struct {
	Name       string  `json:"name"`
	Wire       *string `json:"wire,omitempty"`
	WireBase64 []byte  `json:"wireBase64,omitempty"` // where it is not UTF-8
	Reason     string  `json:"reason"`               // part of the error's message
}

func (v *invalidVector) bytes() []byte {
	if v.Wire != nil {
		return []byte(*v.Wire)
	}
	return v.WireBase64
}

func TestInvalidVectors(t *testing.T) {
	var vectors []invalidVector
	readGolden(t, "invalid.json", &vectors)
	for _, v := range vectors {
		t.Run(v.Name, func(t *testing.T) {
			e, err := task.Decode(v.bytes())
			if err == nil || e != nil {
				t.Fatalf("Decode = %+v, %v; want nil and an error", e, err)
			}
			if !errors.Is(err, task.ErrInvalid) {
				t.Errorf("%v does not wrap ErrInvalid", err)
			}
			if !strings.Contains(err.Error(), v.Reason) {
				t.Errorf("error is\n%v\nwant it to say\n%s", err, v.Reason)
			}
		})
	}
	if *update {
		writeGolden(t, "invalid.json", vectors)
	}
}

// TestStatusJSON holds the form that the command line and the HTTP API show.
func TestStatusJSON(t *testing.T) {
	zone := time.FixedZone("elsewhere", 2*3600)
	at := func(s int) time.Time { return time.Date(2026, 3, 1, 14, 30, s, 250_999_999, zone) }
	failure := task.Error{
		Type: "panic", Message: "boom", Stack: "goroutine 1", Retryable: true, Attempt: 1, At: at(4), Worker: "w1",
	}
	statuses := map[string]task.Status{
		"queued": {ID: "a", Name: "n", State: task.Queued, Queue: "q", Priority: 5, MaxRetries: 3, EnqueuedAt: at(0)},
		"succeeded": {
			ID: "a", Name: "n", State: task.Succeeded, Queue: "q", Priority: 9, Attempt: 1, MaxRetries: 3, Epoch: 2, Starts: 1,
			Worker: "w1", EnqueuedAt: at(0), NotBefore: at(1), StartedAt: at(2), FinishedAt: at(3), ExpiresAt: at(59),
			Args: json.RawMessage(`{"n":9007199254740993}`), Result: json.RawMessage(`[]`),
			Progress: &task.Progress{Percent: 50, Data: json.RawMessage(`"half"`), At: at(2)},
			Meta:     map[string]json.RawMessage{task.MetaRetention: json.RawMessage("-1")},
		},
		"failed": {
			ID: "a", Name: "n", State: task.Failed, Queue: "q", Attempt: 2, Epoch: 3, EnqueuedAt: at(0), FinishedAt: at(5),
			Reason: task.ReasonRetriesExhausted, Error: &failure, Errors: []task.Error{failure},
			ReplayCount: 1, LastReplayAt: at(3),
		},
	}
	if *update {
		writeGolden(t, "status.json", statuses)
	}
	var golden map[string]json.RawMessage
	readGolden(t, "status.json", &golden)
	for name, s := range statuses {
		got, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var want bytes.Buffer
		if err := json.Compact(&want, golden[name]); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want.String(), string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		var back task.Status
		if err := json.Unmarshal(got, &back); err != nil {
			t.Fatal(err)
		}
		again, err := json.Marshal(back)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, again) {
			t.Errorf("%s changes on its way there and back:\n%s\n%s", name, got, again)
		}
	}
}
