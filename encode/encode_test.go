package encode_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/stemjobs/stem/encode"
	"github.com/stemjobs/stem/encode/gzip"
	"github.com/stemjobs/stem/task"
)

// mark is an encoder that puts its id before the payload, so that tests see
// the order.
type mark string

func (m mark) ID() string { return string(m) }

func (m mark) Encode(plain []byte) ([]byte, error) {
	return append([]byte(m+":"), plain...), nil
}

func (m mark) Decode(encoded []byte) ([]byte, error) {
	plain, ok := bytes.CutPrefix(encoded, []byte(m+":"))
	if !ok {
		return nil, fmt.Errorf("no mark %s", m)
	}
	return slices.Clone(plain), nil
}

func newSet(t testing.TB, encoders ...encode.Encoder) *encode.Set {
	t.Helper()
	s, err := encode.NewSet(encoders...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPackAppliesLeftToRight(t *testing.T) {
	s := newSet(t, mark("a"), mark("b"))
	packed, header, err := s.Pack([]string{"a", encode.JSON, "b"}, json.RawMessage(`{"n":1}`))
	if err != nil || header != "a+b" {
		t.Fatalf("Pack: header %q, %v; want a+b", header, err)
	}
	if want := `"` + base64.StdEncoding.EncodeToString([]byte(`b:a:{"n":1}`)) + `"`; string(packed) != want {
		t.Errorf("packed is %s, want %s", packed, want)
	}
	plain, err := s.Unpack(header, packed)
	if err != nil || string(plain) != `{"n":1}` {
		t.Errorf("Unpack = %s, %v", plain, err)
	}
	as, err := s.PackAs(header, json.RawMessage(`{"n":1}`))
	if err != nil || !bytes.Equal(as, packed) {
		t.Errorf("PackAs = %s, %v; want %s", as, err, packed)
	}
}

func TestPlainStaysPlain(t *testing.T) {
	for name, s := range map[string]*encode.Set{"nil": nil, "empty": newSet(t)} {
		for _, ids := range [][]string{nil, {}, {encode.JSON}, {encode.JSON, encode.JSON}} {
			packed, header, err := s.Pack(ids, json.RawMessage(`[1]`))
			if err != nil || header != "" || string(packed) != `[1]` {
				t.Errorf("%s: Pack(%v) = %s, %q, %v", name, ids, packed, header, err)
			}
		}
		for _, header := range []string{"", encode.JSON} {
			if plain, err := s.Unpack(header, json.RawMessage(`[1]`)); err != nil || string(plain) != `[1]` {
				t.Errorf("%s: Unpack(%q) = %s, %v", name, header, plain, err)
			}
		}
	}
}

// TestGoldenVector reads the payload that testdata/wire shows to others.
func TestGoldenVector(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "testdata", "wire", "valid.json"))
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct{ Name, Wire string }
	if err := json.Unmarshal(data, &vectors); err != nil {
		t.Fatal(err)
	}
	for _, v := range vectors {
		if v.Name != "encoded args" {
			continue
		}
		e, err := task.Decode([]byte(v.Wire))
		if err != nil {
			t.Fatal(err)
		}
		plain, err := newSet(t, gzip.New(0)).Unpack(e.Headers[task.HeaderEncoder], e.Args)
		if err != nil || string(plain) != `{"to":"ada@example.org"}` {
			t.Errorf("Unpack = %s, %v", plain, err)
		}
		return
	}
	t.Error("the vector is gone")
}

func TestNilIsNull(t *testing.T) {
	s := newSet(t, mark("a"))
	packed, header, err := s.Pack([]string{"a"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := s.Unpack(header, packed); err != nil || string(plain) != "null" {
		t.Errorf("Unpack = %s, %v; want null", plain, err)
	}
}

func TestUnknownEncoder(t *testing.T) {
	s := newSet(t, mark("a"))
	_, _, packErr := s.Pack([]string{"a", "zstd"}, json.RawMessage("1"))
	_, unpackErr := s.Unpack("zstd+a", json.RawMessage(`"AA=="`))
	for _, err := range []error{packErr, unpackErr, s.Check("a", encode.JSON, "zstd")} {
		var unknown *encode.UnknownError
		if !errors.Is(err, encode.ErrUnknown) || !errors.As(err, &unknown) || unknown.ID != "zstd" {
			t.Errorf("%v: want an UnknownError for zstd", err)
			continue
		}
		if !slices.Equal(unknown.Known, []string{"a", "json"}) || !strings.Contains(err.Error(), "a, json") {
			t.Errorf("%v does not name what is known", err)
		}
	}
	if err := s.Check("a", encode.JSON); err != nil {
		t.Errorf("Check: %v", err)
	}
}

func TestUnpackRefuses(t *testing.T) {
	s := newSet(t, mark("a"))
	b64 := func(text string) string { return `"` + base64.StdEncoding.EncodeToString([]byte(text)) + `"` }
	for name, c := range map[string]struct{ header, packed string }{
		"no string":       {"a", `{"x":1}`},
		"nothing":         {"a", ``},
		"null":            {"a", `null`},
		"no base64":       {"a", `"%%%"`},
		"url base64":      {"a", `"-_8="`},
		"no padding":      {"a", `"YTox Mg"`},
		"not its format":  {"a", b64("b:1")},
		"empty":           {"a", b64("a:")},
		"not JSON inside": {"a", b64("a:{")},
		"not UTF-8":       {"a", b64("a:\"\xff\"")},
		"too deep":        {"a", b64("a:" + strings.Repeat("[", 5000) + strings.Repeat("]", 5000))},
		"too many":        {strings.Repeat("a+", encode.MaxComposed) + "a", b64("1")},
	} {
		plain, err := s.Unpack(c.header, json.RawMessage(c.packed))
		if !errors.Is(err, task.ErrInvalid) || plain != nil {
			t.Errorf("%s: Unpack = %s, %v; want ErrInvalid", name, plain, err)
		}
	}
	for _, header := range []string{"+", "a+", "+a", "A", " a", "a, a"} {
		if _, err := s.Unpack(header, json.RawMessage(b64("1"))); !errors.Is(err, encode.ErrUnknown) {
			t.Errorf("Unpack with header %q: %v, want ErrUnknown", header, err)
		}
	}
}

func TestNewSetRefuses(t *testing.T) {
	for name, encoders := range map[string][]encode.Encoder{
		"twice":      {mark("a"), mark("a")},
		"json":       {mark("json")},
		"empty":      {mark("")},
		"plus":       {mark("a+b")},
		"upper case": {mark("Gzip")},
		"long":       {mark(strings.Repeat("a", 33))},
	} {
		if _, err := encode.NewSet(encoders...); !errors.Is(err, task.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	s := newSet(t, mark("a"), mark("b"), gzip.New(64))
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.SliceOfN(rapid.SampledFrom(s.IDs()), 0, encode.MaxComposed).Draw(t, "ids")
		plain, err := json.Marshal(rapid.String().Draw(t, "text"))
		if err != nil {
			t.Fatal(err)
		}
		packed, header, err := s.Pack(ids, plain)
		if err != nil {
			t.Fatal(err)
		}
		if err := task.ValidateJSON("packed", packed); err != nil {
			t.Fatal(err)
		}
		back, err := s.Unpack(header, packed)
		if err != nil || !bytes.Equal(back, plain) {
			t.Fatalf("Unpack = %s, %v; want %s", back, err, plain)
		}
	})
}

func FuzzUnpack(f *testing.F) {
	s := newSet(f, mark("a"), gzip.New(0, gzip.MaxDecoded(1<<16)))
	for _, header := range []string{"gzip", "gzip+a", "a+gzip", "gzip+gzip"} {
		packed, err := s.PackAs(header, json.RawMessage(`{"n":[1,2,3]}`))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(header, []byte(packed))
	}
	f.Fuzz(func(t *testing.T, header string, packed []byte) {
		plain, err := s.Unpack(header, packed)
		if err != nil {
			if !errors.Is(err, task.ErrInvalid) && !errors.Is(err, encode.ErrUnknown) {
				t.Fatalf("%v is neither ErrInvalid nor ErrUnknown", err)
			}
			return
		}
		if header != "" && strings.Trim(header, "json+") != "" && task.ValidateJSON("plain", plain) != nil {
			t.Fatalf("Unpack gave what is no JSON: %q", plain)
		}
	})
}
