package task_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stemjobs/stem/task"
)

func TestDecodeRest(t *testing.T) {
	at := time.Date(2026, 3, 4, 5, 6, 7, 89e6, time.UTC)
	known := task.Envelope{ID: "a", Queue: "q", EnqueuedAt: at, NotBefore: at.Add(time.Hour), Priority: 7, Attempt: 2}
	long := `"` + strings.Repeat("x", 3000) + `"`
	for _, args := range []string{`{"n":1}`, long} {
		got, err := task.DecodeRest(`{"name":"n","args":`+args+`,"maxRetries":3,"headers":{"h":"v"},"meta":{"m":1},"new":true}`, known)
		want := known
		want.Name, want.Args, want.MaxRetries = "n", json.RawMessage(args), 3
		want.Headers = map[string]string{"h": "v"}
		want.Meta, want.Unknown = map[string]json.RawMessage{"m": json.RawMessage("1")}, map[string]json.RawMessage{"new": json.RawMessage("true")}
		if diff := cmp.Diff(&want, got); err != nil || diff != "" {
			t.Errorf("%v\n%s", err, diff)
		}
	}
	if got, err := task.DecodeRest(`{"name":"n"}`, known); err != nil || string(got.Args) != "null" {
		t.Errorf("without args: %+v, %v", got, err)
	}
}

func TestDecodeRestRefuses(t *testing.T) {
	known := task.Envelope{ID: "a", Queue: "q", EnqueuedAt: time.Now(), Priority: 5}
	without := known
	without.Queue = "../x"
	for name, c := range map[string]struct {
		text  string
		known task.Envelope
	}{
		"a field that is known": {`{"name":"n","queue":"other"}`, known},
		"no JSON":               {`{"name":"n"`, known},
		"no name":               {`{}`, known},
		"no UTF-8":              {"{\"name\":\"\xff\"}", known},
		"an unfit known field":  {`{"name":"n"}`, without},
	} {
		if got, err := task.DecodeRest(c.text, c.known); !errors.Is(err, task.ErrInvalid) {
			t.Errorf("%s: got %+v, %v; want it refused", name, got, err)
		}
	}
}
