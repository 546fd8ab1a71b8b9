package httpapi

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"
)

// FuzzDecode holds the decoder to encoding/json: what it accepts, that accepts
// too, and reads the same.
func FuzzDecode(f *testing.F) {
	for _, text := range []string{
		`{"name":"a","args":{"x":[1,2.5e3,"\u00e9\n",null,true]},"priority":3,"headers":{"a":"b"},"meta":{"m":[{}]},"in":"1m30s"}`,
		` { "name" : "\ud83d\ude00" , "onSuccess" : [ { "name" : "b" , "encoders" : [ ] } ] , "at" : "2026-01-02T03:04:05.678Z" } `,
		`{"name":"a","retention":"forever","maxRetries":-0}`, `{"name":"\ud800"}`, `{"name":"a","id":"\\\""}`, `{"\u006eame":"a"}`, `{}`, `[`, `null`,
	} {
		f.Add([]byte(text))
	}
	s := shapeOf(reflect.TypeFor[NewTask](), map[reflect.Type]*shape{})
	f.Fuzz(func(t *testing.T, data []byte) {
		var mine, theirs NewTask
		if p := s.decode(data, &mine); p != nil {
			return
		}
		d := json.NewDecoder(bytes.NewReader(data))
		d.DisallowUnknownFields()
		if err := d.Decode(&theirs); err != nil {
			t.Fatalf("%q is accepted; encoding/json says %v", data, err)
		}
		if !reflect.DeepEqual(mine, theirs) {
			t.Fatalf("%q: %+v, want %+v", data, mine, theirs)
		}
	})
}
