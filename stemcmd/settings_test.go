package stemcmd

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func TestSettings(t *testing.T) {
	for _, x := range []struct{ args, set, want string }{
		{`{"a":1}`, `args.a=2`, `{"a":2}`},
		{`{"a":1}`, `args.b=text`, `{"a":1,"b":"text"}`},
		{`{"a":1}`, `args.b="2"`, `{"a":1,"b":"2"}`},
		{`{"a":12345678901234567890.10}`, `args.b.c.d=true`, `{"a":12345678901234567890.10,"b":{"c":{"d":true}}}`},
		{`[1,2]`, `args.1={"x":null}`, `[1,{"x":null}]`},
		{`[1,2]`, `args.2=<b>&`, `[1,2,"<b>&"]`},
		{`{"l":[{"a":1}]}`, `args.l.0.a=2`, `{"l":[{"a":2}]}`},
		{`{"a.b":1}`, `args.a\.b=2`, `{"a.b":2}`},
		{`null`, `args.a=`, `{"a":""}`},
		{``, `args.a=1`, `{"a":1}`},
		{`"old"`, `args=[]`, `[]`},
		{`{"0":1}`, `args.0=2`, `{"0":2}`},
		{`{"a":{"b":1}}`, `args.a=x=y`, `{"a":"x=y"}`},
	} {
		var v settings
		if err := v.Set(x.set); err != nil {
			t.Errorf("--set %s: %v", x.set, err)
			continue
		}
		if got, err := v.apply(json.RawMessage(x.args)); err != nil || string(got) != x.want {
			t.Errorf("--set %s of %s: %s, error %v, want %s", x.set, x.args, got, err, x.want)
		}
	}
	for _, bad := range []string{"", "args", "arg.a=1", "a=1", "args..a=1", "args.=1", "=1", ".args=1"} {
		var v settings
		if err := v.Set(bad); err == nil {
			t.Errorf("--set %q is taken", bad)
		}
	}
	for args, set := range map[string]string{`1`: "args.a=1", `[1]`: "args.2=1", `[]`: "args.-1=1", `[1,2]`: "args.01=1", `[3]`: "args.x=1", `{"a":"s"}`: "args.a.b=1"} {
		var v settings
		if err := v.Set(set); err != nil {
			t.Fatal(err)
		}
		if got, err := v.apply(json.RawMessage(args)); err == nil {
			t.Errorf("--set %s of %s is done: %s", set, args, got)
		}
	}
}

// What is set is there, what is not named stays.
func TestSettingsOfAnyObject(t *testing.T) {
	name := rapid.StringMatching(`[a-zA-Z0-9 .\\€-]{1,6}`)
	escape := strings.NewReplacer(`\`, `\\`, `.`, `\.`)
	rapid.Check(t, func(t *rapid.T) {
		object := rapid.MapOfN(name, rapid.StringMatching(`[0-9]{1,30}`), 0, 5).Draw(t, "object")
		raw := map[string]json.RawMessage{}
		for k, v := range object {
			raw[k] = json.RawMessage(strconv.Quote(v))
		}
		args, err := plainJSON(raw)
		if err != nil {
			t.Fatal(err)
		}
		path := rapid.SliceOfN(name, 1, 3).Draw(t, "path")
		if _, taken := object[path[0]]; taken && len(path) > 1 {
			path = path[:1]
		}
		value := rapid.String().Draw(t, "value")
		text, err := plainJSON(value)
		if err != nil {
			t.Fatal(err)
		}
		parts := []string{"args"}
		for _, p := range path {
			parts = append(parts, escape.Replace(p))
		}
		var v settings
		if err := v.Set(strings.Join(parts, ".") + "=" + string(text)); err != nil {
			t.Fatalf("%v: %v", parts, err)
		}
		changed, err := v.apply(args)
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]any
		if err := json.Unmarshal(changed, &got); err != nil {
			t.Fatal(err)
		}
		var at any = got
		for _, p := range path {
			at = at.(map[string]any)[p]
		}
		if at != strings.ToValidUTF8(value, "\uFFFD") {
			t.Errorf("set %q to %q, got %q", path, value, at)
		}
		for k, v := range object {
			if k != path[0] && got[k] != v {
				t.Errorf("%q was %q, is %q", k, v, got[k])
			}
		}
	})
}

func TestRate(t *testing.T) {
	for text, want := range map[string]struct {
		batch int
		span  time.Duration // of one
	}{
		"1/s": {1, time.Second}, "100/s": {10, 10 * time.Millisecond}, "1000000/s": {1000, time.Microsecond},
		"60/m": {1, time.Second}, "10/h": {1, 6 * time.Minute},
	} {
		var r rate
		if err := r.Set(text); err != nil || r.String() != text || r.batch(deadPage) != want.batch || r.span(1) != want.span {
			t.Errorf("%s: error %v, %s, batches of %d, one in %s; want %v", text, err, r.String(), r.batch(deadPage), r.span(1), want)
		}
	}
	for _, bad := range []string{"", "5", "0/s", "-1/s", "x/s", "5/d", "5/", "1.5/s", "2000000/s"} {
		var r rate
		if err := r.Set(bad); err == nil {
			t.Errorf("rate %q is taken", bad)
		}
	}
	if none := (&rate{}); none.batch(deadPage) != deadPage || none.String() != "" {
		t.Errorf("without a rate: batches of %d", none.batch(deadPage))
	}
	synctest.Test(t, func(t *testing.T) {
		r, began, stop := rate{many: 100, per: time.Second}, time.Now(), errors.New("stop")
		if err := errors.Join(r.wait(t.Context(), began, 10, true), r.wait(t.Context(), began, 10, false)); err != nil || time.Since(began) != 100*time.Millisecond {
			t.Errorf("ten of 100/s: %s, error %v", time.Since(began), err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(stop)
		if err := r.wait(ctx, time.Now(), 1000, true); !errors.Is(err, stop) {
			t.Errorf("stopped in a pause: %v", err)
		}
	})
}
