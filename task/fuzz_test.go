package task_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/stemjobs/stem/task"
)

func addVectors(f *testing.F) {
	var valid []vector
	readGolden(f, "valid.json", &valid)
	for _, v := range valid {
		f.Add([]byte(v.Wire))
	}
	var invalid []invalidVector
	readGolden(f, "invalid.json", &invalid)
	for _, v := range invalid {
		f.Add(v.bytes())
	}
}

// FuzzDecode: whatever comes in, it is refused with ErrInvalid or it is an
// envelope that is valid, has a size, and stays the same when it is written
// and read again.
func FuzzDecode(f *testing.F) {
	addVectors(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := task.Decode(data)
		if err != nil {
			if !errors.Is(err, task.ErrInvalid) {
				t.Fatalf("%v does not wrap ErrInvalid", err)
			}
			return
		}
		if !json.Valid(data) {
			t.Fatal("encoding/json says that this is no JSON")
		}
		if err := e.Validate(); err != nil {
			t.Fatalf("Decode accepts what Validate refuses: %v", err)
		}
		wire, err := task.Encode(e)
		if err != nil {
			t.Fatalf("Encode: %v", err)
		}
		if n := task.EncodedSize(e); n != len(wire) {
			t.Fatalf("EncodedSize = %d, want %d", n, len(wire))
		}
		back, err := task.Decode(wire)
		if err != nil {
			t.Fatalf("Decode of what was written: %v\n%s", err, wire)
		}
		if diff := cmp.Diff(e, back); diff != "" {
			t.Fatalf("there and back:\n%s", diff)
		}
		again, err := task.Encode(back)
		if err != nil || !bytes.Equal(wire, again) {
			t.Fatalf("written twice, it differs (%v):\n%s\n%s", err, wire, again)
		}
	})
}

// FuzzValidateJSON: it agrees with encoding/json, but for nesting and UTF-8,
// about which that is more lenient.
func FuzzValidateJSON(f *testing.F) {
	addVectors(f)
	f.Add([]byte(`[1,-2.5e+3,"\u00e9",{"a":[true,false,null]}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		ours := task.ValidateJSON("value", data) == nil
		theirs := json.Valid(data) && utf8.Valid(data) && depth(data) <= task.MaxDepth
		if data != nil && ours != theirs {
			t.Fatalf("ValidateJSON says %v, encoding/json %v: %q", ours, theirs, data)
		}
	})
}

// depth is how deep valid JSON is nested.
func depth(data []byte) int {
	deepest, now, quoted := 0, 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[' || c == '{':
			now++
			deepest = max(deepest, now)
		case c == ']' || c == '}':
			now--
		}
	}
	return deepest
}
