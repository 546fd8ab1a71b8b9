package stem_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/encode"
	"github.com/stemjobs/stem/encode/gzip"
	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// dead makes dead letters of task fail with these messages, by the ids d0, d1…
func dead(r *rig, messages []string, opts ...stem.Option) {
	r.Helper()
	for i, m := range messages {
		h, err := fail.Enqueue(r.Context(), r.client, m, append(opts, stem.ID(fmt.Sprintf("d%d", i)), stem.MaxRetries(0))...)
		if err != nil {
			r.Fatal(err)
		}
		if _, err := h.Wait(r.Context()); err == nil {
			r.Fatalf("%q succeeded", m)
		}
		time.Sleep(time.Second)
	}
}

func failing(fail stem.Task[string, stem.None]) stem.Registration {
	return fail.Do(func(_ context.Context, why string) error {
		if why == "well" {
			return nil
		}
		return errors.New(why)
	})
}

func to(v string) func(json.RawMessage) (json.RawMessage, error) {
	return func(json.RawMessage) (json.RawMessage, error) { return json.RawMessage(v), nil }
}

func TestReplayEdited(t *testing.T) {
	for _, encoders := range [][]string{nil, {"gzip"}} {
		o := stem.ClientOptions{Encoders: []encode.Encoder{gzip.New(1)}, Encoding: encoders}
		run(t, o, stem.WorkerOptions{}, func(r *rig) {
			ctx := r.Context()
			dead(r, []string{"ill"})
			var was string
			_, err := r.client.ReplayEdited(ctx, "d0", func(args json.RawMessage) (json.RawMessage, error) {
				was = string(args)
				return json.RawMessage(`"worse"`), nil
			}, broker.ReplayOptions{})
			if err != nil || was != `"ill"` {
				r.Fatalf("edit of %s: %v", was, err)
			}
			if st, err := r.client.Wait(ctx, "d0"); err != nil || st.Error == nil || st.Error.Message != "worse" {
				r.Fatalf("edited to fail otherwise: %+v, %v", st, err)
			}
			if _, err := r.client.ReplayEdited(ctx, "d0", to(`"well"`), broker.ReplayOptions{NotBefore: time.Now().Add(time.Hour)}); err != nil {
				r.Fatal(err)
			}
			began := time.Now()
			st, err := r.client.Wait(ctx, "d0")
			if err != nil || st.State != stem.Succeeded || st.ReplayCount != 2 || time.Since(began) < time.Hour {
				r.Fatalf("edited to do well, later: %+v, %v", st, err)
			}
			var mark struct {
				Args  string
				Count int
				At    time.Time
			}
			if err := json.Unmarshal(st.Meta[task.MetaEdited], &mark); err != nil || mark.Count != 2 || mark.At.IsZero() || (mark.Args == "ill") != (encoders == nil) {
				r.Errorf("the note of the edits: %s, %v", st.Meta[task.MetaEdited], err)
			}
		}, failing(fail))
	}
}

func TestReplayEditedIsRefused(t *testing.T) {
	run(t, stem.ClientOptions{Encoders: []encode.Encoder{gzip.New(1)}, Encoding: []string{"gzip"}}, stem.WorkerOptions{}, func(r *rig) {
		ctx := r.Context()
		dead(r, []string{"ill"})
		no := errors.New("no")
		for what, x := range map[string]struct {
			id   string
			edit func(json.RawMessage) (json.RawMessage, error)
			want error
		}{
			"an unknown id":   {"nobody", to(`1`), stem.ErrNotFound},
			"no id":           {"a b", to(`1`), stem.ErrInvalid},
			"no JSON":         {"d0", to(`{`), stem.ErrInvalid},
			"its own refusal": {"d0", func(json.RawMessage) (json.RawMessage, error) { return nil, no }, no},
			// What compresses well is measured as it is stored.
			"too large": {"d0", to(`"` + noise(2<<20) + `"`), stem.ErrTooLarge},
		} {
			if r2, err := r.client.ReplayEdited(ctx, x.id, x.edit, broker.ReplayOptions{}); !errors.Is(err, x.want) {
				t.Errorf("%s: got %+v, error %v, want %v", what, r2, err, x.want)
			}
		}
		plain, err := stem.NewClient(shared{broker: r.client.Broker()}, stem.ClientOptions{})
		if err != nil {
			r.Fatal(err)
		}
		if _, err := plain.ReplayEdited(ctx, "d0", to(`1`), broker.ReplayOptions{}); !errors.Is(err, encode.ErrUnknown) || !strings.Contains(err.Error(), `encoded as "gzip"`) {
			r.Errorf("an encoder that is not there: %v", err)
		}
		bare, err := stem.NewClient(shared{broker: struct{ broker.Broker }{r.client.Broker()}}, stem.ClientOptions{})
		if err != nil {
			r.Fatal(err)
		}
		if _, err := bare.ReplayEdited(ctx, "d0", to(`1`), broker.ReplayOptions{}); !errors.Is(err, broker.ErrUnsupported) {
			r.Errorf("a broker that cannot: %v", err)
		}
		if _, err := bare.ImportDeadLetters(ctx, nil); !errors.Is(err, broker.ErrUnsupported) {
			r.Errorf("a broker that takes none back: %v", err)
		}
		if st, err := r.client.Get(ctx, "d0"); err != nil || st.State != stem.Failed || st.ReplayCount != 0 {
			r.Errorf("after what was refused: %+v, %v", st, err)
		}
	}, failing(fail))
}

// noise is text that does not compress well.
func noise(n int) string {
	b := make([]byte, n)
	for i, x := 0, uint32(1); i < n; i++ {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-"[x%64]
	}
	return string(b)
}

// shared is a backend of a broker alone.
type shared struct {
	stem.Backend
	broker broker.Broker
}

func (s shared) Broker() broker.Broker        { return s.broker }
func (s shared) Results() store.Results       { return nil }
func (s shared) Heartbeats() store.Heartbeats { return nil }

func TestGroupDeadLetters(t *testing.T) {
	run(t, stem.ClientOptions{}, stem.WorkerOptions{}, func(r *rig) {
		ctx := r.Context()
		dead(r, []string{"order 1 not found", "no space", "order 22 not found", "order 333 not found"})
		g, err := r.client.GroupDeadLetters(ctx, broker.DeadFilter{}, 0)
		if err != nil || g.Looked != 4 || g.Truncated || len(g.Groups) != 2 {
			r.Fatalf("groups: %+v, %v", g, err)
		}
		first := g.Groups[0]
		if first.Count != 3 || first.Message != "order <n> not found" || first.Example != "d3" || first.Tasks["fail"] != 3 ||
			first.LastSeen.Sub(first.FirstSeen) != 3*time.Second {
			r.Errorf("the largest group: %+v", first)
		}
		ids, more, err := r.client.DeadLettersLike(ctx, broker.DeadFilter{}, first.Fingerprint, 0)
		if err != nil || more || !slices.Equal(ids, []string{"d0", "d2", "d3"}) {
			r.Errorf("its dead letters: %v, more %v, %v", ids, more, err)
		}
		if g, err = r.client.GroupDeadLetters(ctx, broker.DeadFilter{}, 4); err != nil || g.Looked != 4 || g.Truncated {
			r.Errorf("a scan of all four: %+v, %v", g, err)
		}
		if g, err = r.client.GroupDeadLetters(ctx, broker.DeadFilter{}, 2); err != nil || g.Looked != 2 || !g.Truncated {
			r.Errorf("a scan of two: %+v, %v", g, err)
		}
		if ids, more, err = r.client.DeadLettersLike(ctx, broker.DeadFilter{}, first.Fingerprint, 1); err != nil || !more || len(ids) != 1 {
			r.Errorf("a scan of one: %v, more %v, %v", ids, more, err)
		}
	}, failing(fail))
}

func TestImportDeadLetters(t *testing.T) {
	run(t, stem.ClientOptions{}, stem.WorkerOptions{}, func(r *rig) {
		ctx := r.Context()
		dead(r, []string{"ill", "ill"})
		list, _, err := r.client.DeadLetters(ctx, broker.DeadFilter{}, broker.Page{})
		if err != nil {
			r.Fatal(err)
		}
		if _, err := r.client.PurgeDeadLetters(ctx, broker.DeadFilter{IDs: []string{"d1"}}, broker.PurgeOptions{}); err != nil {
			r.Fatal(err)
		}
		errs, err := r.client.ImportDeadLetters(ctx, list)
		if err != nil || len(errs) != 2 || errs[0] != nil || !errors.Is(errs[1], broker.ErrExists) {
			r.Errorf("import of one that is there and one that is not: %v, %v", errs, err)
		}
		if st, err := r.client.Get(ctx, "d1"); err != nil || st.State != stem.Failed || st.Error.Message != "ill" {
			r.Errorf("the status of what came back: %+v, %v", st, err)
		}
	}, failing(fail))
}
