package task_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/stemjobs/stem/task"
)

// jsonValue draws JSON text of any shape, white space included.
func jsonValue() *rapid.Generator[json.RawMessage] {
	text := rapid.Map(rapid.String(), func(s string) string {
		raw, err := json.Marshal(s)
		if err != nil {
			panic(err)
		}
		return string(raw)
	})
	space := rapid.SampledFrom([]string{"", "", "", " ", "\n\t"})
	scalar := rapid.OneOf(
		rapid.SampledFrom([]string{"null", "true", "false", "0", "-0", "1e9", "-1.5E-3", "9007199254740993", `"\ud83d\ude00"`, `""`}),
		text,
	)
	var value func(depth int) *rapid.Generator[string]
	value = func(depth int) *rapid.Generator[string] {
		if depth == 0 {
			return scalar
		}
		return rapid.Custom(func(t *rapid.T) string {
			var parts []string
			open, end := "[", "]"
			switch rapid.IntRange(0, 3).Draw(t, "shape") {
			case 0:
				parts = rapid.SliceOfN(value(depth-1), 0, 4).Draw(t, "array")
			case 1:
				open, end = "{", "}"
				for range rapid.IntRange(0, 4).Draw(t, "size") {
					parts = append(parts, text.Draw(t, "key")+space.Draw(t, "")+":"+value(depth-1).Draw(t, "value"))
				}
			default:
				return scalar.Draw(t, "scalar")
			}
			return open + space.Draw(t, "") + strings.Join(parts, space.Draw(t, "")+",") + end
		})
	}
	return rapid.Map(value(3), func(s string) json.RawMessage { return json.RawMessage(s) })
}

// moment draws a moment that the wire has.
func moment() *rapid.Generator[time.Time] {
	const last = 253402300799999 // the end of the year 9999
	return rapid.Map(rapid.Int64Range(0, last), func(ms int64) time.Time { return time.UnixMilli(ms).UTC() })
}

// envelopes draws envelopes that Validate accepts.
func envelopes() *rapid.Generator[*task.Envelope] {
	return rapid.Custom(func(t *rapid.T) *task.Envelope {
		values := rapid.MapOfN(rapid.String(), jsonValue(), 0, 4)
		e := &task.Envelope{
			ID:                rapid.StringMatching(`[A-Za-z0-9._:-]{1,128}`).Draw(t, "id"),
			Name:              rapid.StringMatching(`[A-Za-z0-9._:/-]{1,200}`).Draw(t, "name"),
			Args:              jsonValue().Draw(t, "args"),
			Headers:           rapid.MapOfN(rapid.StringMatching(`[a-z0-9é"\\-]{1,8}`), rapid.String(), 0, 4).Draw(t, "headers"),
			EnqueuedAt:        moment().Draw(t, "enqueuedAt"),
			Priority:          rapid.IntRange(0, task.MaxPriority).Draw(t, "priority"),
			Attempt:           rapid.IntRange(0, 1<<31-1).Draw(t, "attempt"),
			MaxRetries:        rapid.IntRange(0, 1<<31-1).Draw(t, "maxRetries"),
			VisibilityTimeout: time.Duration(rapid.Int64Range(0, 1<<40).Draw(t, "lease")) * time.Millisecond,
			Queue:             rapid.StringMatching(`[A-Za-z0-9_-]{1,100}`).Draw(t, "queue"),
			Meta:              values.Draw(t, "meta"),
			Unknown:           values.Draw(t, "unknown"),
		}
		if rapid.Bool().Draw(t, "delayed") {
			e.NotBefore = moment().Draw(t, "notBefore")
		}
		if rapid.Bool().Draw(t, "expires") {
			e.ExpiresAt = moment().Draw(t, "expiresAt")
		}
		for _, known := range []string{"id", "name", "args", "queue", "meta"} {
			delete(e.Unknown, known)
		}
		return e
	})
}

// sameMaps treats absent and empty maps alike, as the wire does.
var sameMaps = cmp.Transformer("maps", func(e task.Envelope) task.Envelope {
	if len(e.Headers) == 0 {
		e.Headers = nil
	}
	if len(e.Meta) == 0 {
		e.Meta = nil
	}
	if len(e.Unknown) == 0 {
		e.Unknown = nil
	}
	return e
})

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := envelopes().Draw(t, "envelope")
		if err := e.Validate(); err != nil {
			t.Fatalf("Validate: %v", err)
		}
		wire, err := task.Encode(e)
		if err != nil {
			t.Fatalf("Encode: %v", err)
		}
		if n := task.EncodedSize(e); n != len(wire) {
			t.Errorf("EncodedSize = %d, want %d of\n%s", n, len(wire), wire)
		}
		if !json.Valid(wire) {
			t.Fatalf("no JSON: %s", wire)
		}
		back, err := task.Decode(wire)
		if err != nil {
			t.Fatalf("Decode(%s): %v", wire, err)
		}
		if diff := cmp.Diff(*e, *back, cmp.FilterPath(func(p cmp.Path) bool { return len(p) == 1 }, sameMaps)); diff != "" {
			t.Errorf("there and back (-sent +got):\n%s", diff)
		}
	})
}

// TestKeysInAnyOrder: what is read does not depend on the order of fields.
func TestKeysInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		wire, err := task.Encode(envelopes().Draw(t, "envelope"))
		if err != nil {
			t.Fatal(err)
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal(wire, &members); err != nil {
			t.Fatal(err)
		}
		var parts []string
		for k, v := range maps.All(members) {
			key, err := json.Marshal(k)
			if err != nil {
				t.Fatal(err)
			}
			parts = append(parts, string(key)+" :\r\n"+string(v))
		}
		e, err := task.Decode([]byte(" { " + strings.Join(parts, "\t,") + "} "))
		if err != nil {
			t.Fatalf("Decode: %v", err)
		}
		again, err := task.Encode(e)
		if err != nil || !bytes.Equal(wire, again) {
			t.Errorf("Encode = %v\n%s, want\n%s", err, again, wire)
		}
	})
}

func TestAppendEncodeKeepsWhatIsThere(t *testing.T) {
	got, err := task.AppendEncode([]byte("before"), typical())
	if err != nil || !bytes.HasPrefix(got, []byte(`before{"id"`)) {
		t.Errorf("AppendEncode = %s, %v", got, err)
	}
}

func TestEncodeRefusesWhatCannotBeWritten(t *testing.T) {
	for name, edit := range map[string]func(*task.Envelope){
		"year 10000":     func(e *task.Envelope) { e.NotBefore = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"header bytes":   func(e *task.Envelope) { e.Headers = map[string]string{"a": "\xff"} },
		"header key":     func(e *task.Envelope) { e.Headers = map[string]string{"\xff": "a"} },
		"meta key":       func(e *task.Envelope) { e.Meta = map[string]json.RawMessage{"\xff": nil} },
		"known as other": func(e *task.Envelope) { e.Unknown = map[string]json.RawMessage{"id": json.RawMessage(`"b"`)} },
	} {
		e := typical()
		edit(e)
		got, err := task.AppendEncode([]byte("x"), e)
		if !errors.Is(err, task.ErrInvalid) || string(got) != "x" {
			t.Errorf("%s: AppendEncode = %s, %v; want x and ErrInvalid", name, got, err)
		}
		if name != "known as other" && !errors.Is(e.Validate(), task.ErrInvalid) {
			t.Errorf("%s: Validate accepts it", name)
		}
	}
}

func TestEncodeRoundsLeasesUp(t *testing.T) {
	e := typical()
	e.VisibilityTimeout = time.Millisecond + 1
	wire, err := task.Encode(e)
	if err != nil {
		t.Fatal(err)
	}
	back, err := task.Decode(wire)
	if err != nil || back.VisibilityTimeout != 2*time.Millisecond {
		t.Errorf("got %v, %v; want 2ms", back.VisibilityTimeout, err)
	}
}

// TestValidateAgreesWithDecode: what Validate refuses, Decode refuses.
func TestValidateAgreesWithDecode(t *testing.T) {
	for name, edit := range map[string]func(*task.Envelope){
		"id":         func(e *task.Envelope) { e.ID = "a b" },
		"name":       func(e *task.Envelope) { e.Name = "" },
		"queue":      func(e *task.Envelope) { e.Queue = "../x" },
		"priority":   func(e *task.Envelope) { e.Priority = 12 },
		"attempt":    func(e *task.Envelope) { e.Attempt = -1 },
		"retries":    func(e *task.Envelope) { e.MaxRetries = 1 << 31 },
		"lease":      func(e *task.Envelope) { e.VisibilityTimeout = -time.Second },
		"moment":     func(e *task.Envelope) { e.EnqueuedAt = time.Unix(-1, 0) },
		"header key": func(e *task.Envelope) { e.Headers = map[string]string{"Tenant": "a"} },
		"args":       func(e *task.Envelope) { e.Args = json.RawMessage("{") },
		"args UTF-8": func(e *task.Envelope) { e.Args = json.RawMessage("\"\xff\"") },
		"args empty": func(e *task.Envelope) { e.Args = json.RawMessage("") },
		"args two":   func(e *task.Envelope) { e.Args = json.RawMessage("1 2") },
		"args deep":  func(e *task.Envelope) { e.Args = deep(10_000) },
		"meta":       func(e *task.Envelope) { e.Meta = map[string]json.RawMessage{"a": deep(task.MaxDepth + 1)} },
		"unknown":    func(e *task.Envelope) { e.Unknown = map[string]json.RawMessage{"a": json.RawMessage("nul")} },
	} {
		e := typical()
		edit(e)
		if err := e.Validate(); !errors.Is(err, task.ErrInvalid) {
			t.Errorf("%s: Validate = %v, want ErrInvalid", name, err)
		}
		wire, err := task.Encode(e)
		if err != nil {
			continue
		}
		if _, err := task.Decode(wire); !errors.Is(err, task.ErrInvalid) {
			t.Errorf("%s: Decode = %v, want ErrInvalid", name, err)
		}
	}
}

func deep(n int) json.RawMessage {
	return json.RawMessage(strings.Repeat("[", n) + strings.Repeat("]", n))
}

func TestValidateJSONSaysWhereAndWhy(t *testing.T) {
	for raw, want := range map[string]string{
		`{"a":1,}`:                  "want a key in double quotes at byte 7",
		`[1,]`:                      "want a JSON value at byte 3",
		`[1 2]`:                     "want a comma or the end of the array at byte 3",
		`{"a"}`:                     "want a colon after the key at byte 4",
		"\"a\xffb\"":                "not UTF-8 at byte 2",
		"\"\uFFFD\xff\"":            "not UTF-8 at byte 4",
		``:                          "the text ends too early at byte 0",
		`[`:                         "the text ends too early at byte 1",
		`nul`:                       "want a JSON value at byte 0",
		`1 x`:                       "something after the value's end at byte 2",
		string(deep(1001)):          "nested deeper than 1000 at byte 1000",
		strings.Repeat("[", 1<<20):  "nested deeper than 1000 at byte 1000",
		strings.Repeat(`{"a":`, 10): "the text ends too early at byte 50",
	} {
		err := task.ValidateJSON("args", json.RawMessage(raw))
		if !errors.Is(err, task.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("ValidateJSON(%.30q) = %v, want %q", raw, err, want)
		}
	}
	for _, raw := range []json.RawMessage{nil, []byte("1"), []byte(" null\n"), deep(task.MaxDepth)} {
		if err := task.ValidateJSON("args", raw); err != nil {
			t.Errorf("ValidateJSON(%.30q) = %v", raw, err)
		}
	}
}

func TestCheckSize(t *testing.T) {
	if err := task.CheckSize(10, 10); err != nil {
		t.Error(err)
	}
	err := task.CheckSize(2<<20, 1<<20)
	if !errors.Is(err, task.ErrTooLarge) {
		t.Errorf("%v does not wrap ErrTooLarge", err)
	}
	for _, word := range []string{"2097152", "1048576", "reference"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q does not say %s", err, word)
		}
	}
}

// TestStatusJSONProperty: the hand-written encoder knows every tag, and what
// it writes is read back.
func TestStatusJSONProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		failure := rapid.Custom(func(t *rapid.T) task.Error {
			return task.Error{
				Type: rapid.String().Draw(t, "type"), Message: rapid.String().Draw(t, "message"), Stack: rapid.String().Draw(t, "stack"),
				Retryable: rapid.Bool().Draw(t, "retryable"), Attempt: rapid.Int().Draw(t, "attempt"),
				At: moment().Draw(t, "at"), Worker: rapid.String().Draw(t, "worker"),
			}
		})
		s := task.Status{
			ID: rapid.String().Draw(t, "id"), Name: rapid.String().Draw(t, "name"),
			State: rapid.SampledFrom(task.States()).Draw(t, "state"), Queue: rapid.String().Draw(t, "queue"),
			Priority: rapid.Int().Draw(t, "priority"), Attempt: rapid.Int().Draw(t, "attempt"), MaxRetries: rapid.Int().Draw(t, "retries"),
			Epoch: rapid.Int64().Draw(t, "epoch"), Starts: rapid.Int().Draw(t, "starts"), Worker: rapid.String().Draw(t, "worker"),
			EnqueuedAt: moment().Draw(t, "enqueued"), NotBefore: moment().Draw(t, "due"), StartedAt: moment().Draw(t, "started"),
			FinishedAt: moment().Draw(t, "finished"), ExpiresAt: moment().Draw(t, "expires"),
			Args: jsonValue().Draw(t, "args"), Result: jsonValue().Draw(t, "result"), Reason: rapid.String().Draw(t, "reason"),
			Errors:      rapid.SliceOfN(failure, 0, 3).Draw(t, "errors"),
			Meta:        rapid.MapOfN(rapid.String(), jsonValue(), 0, 3).Draw(t, "meta"),
			ReplayCount: rapid.Int().Draw(t, "replays"), LastReplayAt: moment().Draw(t, "replayed"),
		}
		if rapid.Bool().Draw(t, "failed") {
			e := failure.Draw(t, "error")
			s.Error = &e
			s.Progress = &task.Progress{
				Percent: rapid.Float64Range(0, 100).Draw(t, "percent"), Data: jsonValue().Draw(t, "data"), At: moment().Draw(t, "at"),
			}
		}
		got, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		type byTags task.Status // without its methods
		want, err := json.Marshal(byTags(s))
		if err != nil {
			t.Fatal(err)
		}
		var a, b any
		if err := errors.Join(json.Unmarshal(got, &a), json.Unmarshal(want, &b)); err != nil {
			t.Fatal(err)
		}
		asTime := cmp.FilterValues(func(x, y string) bool { return len(x) > 10 && x[4] == '-' && len(y) > 10 && y[4] == '-' },
			cmp.Comparer(func(x, y string) bool {
				tx, err1 := time.Parse(time.RFC3339, x)
				ty, err2 := time.Parse(time.RFC3339, y)
				return err1 == nil && err2 == nil && tx.Equal(ty) || x == y
			}))
		if diff := cmp.Diff(b, a, asTime); diff != "" {
			t.Errorf("by tags (-) and by hand (+):\n%s", diff)
		}
	})
}

func TestStatusJSONOfBadText(t *testing.T) {
	raw, err := json.Marshal(task.Error{Type: "exec", Message: "bad \xff byte"})
	if err != nil || !utf8.Valid(raw) || !strings.Contains(string(raw), "bad \uFFFD byte") {
		t.Errorf("Marshal = %s, %v", raw, err)
	}
	if _, err := json.Marshal(task.Progress{Percent: nan()}); err == nil {
		t.Error("a percentage that is no number was written")
	}
}

func nan() float64 { var zero float64; return zero / zero }
