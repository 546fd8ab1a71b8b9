package stem_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/encode"
	"github.com/stemjobs/stem/encode/gzip"
	"github.com/stemjobs/stem/task"
)

func TestItemOptions(t *testing.T) {
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	item := stem.NewItem("a", nil, stem.ID("i"), stem.Queue("q"), stem.At(at), stem.ExpiresIn(time.Hour), stem.Priority(0),
		stem.MaxRetries(0), stem.VisibilityTimeout(time.Minute), stem.Retention(stem.Forever), stem.IgnoreResult(),
		stem.Header("K", "v"), stem.Meta("m", 1), stem.Idempotency("key", time.Second), stem.Encoder(), stem.ChildOf("p", ""),
		stem.Link(stem.NewItem("b", nil)), stem.LinkError(stem.NewItem("c", nil)))
	got, err := item.Options()
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Links) != 1 || got.Links[0].Name() != "b" || len(got.ErrorLinks) != 1 || got.ErrorLinks[0].Name() != "c" {
		t.Errorf("links %v, error links %v", got.Links, got.ErrorLinks)
	}
	got.Links, got.ErrorLinks = nil, nil
	zero, forever := 0, stem.Forever
	want := stem.ItemOptions{
		ID: "i", Queue: "q", At: at, ExpiresIn: time.Hour, Priority: &zero, MaxRetries: &zero, VisibilityTimeout: time.Minute,
		Retention: &forever, IgnoreResult: true, Headers: map[string]string{"k": "v"},
		Meta: map[string]json.RawMessage{"m": json.RawMessage("1")}, IdempotencyKey: "key", IdempotencyTTL: time.Second, Encoders: []string{},
		Parent: "p", Root: "p",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	got.Headers["k"] = "changed"
	if again, err := item.Options(); err != nil || again.Headers["k"] != "v" {
		t.Errorf("a copy changed the item: %v, %v", again.Headers, err)
	}
	if _, err := stem.NewItem("a", nil, stem.In(-1)).Options(); !errors.Is(err, stem.ErrInvalid) {
		t.Errorf("a wrong option: %v", err)
	}
}

func TestDecodeArgsAndEncodeResult(t *testing.T) {
	db := memory.New()
	defer db.Close()
	with, err := stem.NewClient(db, stem.ClientOptions{Encoders: []encode.Encoder{gzip.New(0)}, Encoding: []string{gzip.ID}})
	if err != nil {
		t.Fatal(err)
	}
	without, err := stem.NewClient(db, stem.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	e := &stem.Envelope{ID: "i", Headers: map[string]string{task.HeaderEncoder: gzip.ID}}
	if e.Args, err = with.EncodeResult(e, json.RawMessage(`{"n":1}`)); err != nil || e.Args[0] != '"' {
		t.Fatalf("encoded %s, %v", e.Args, err)
	}
	if args, err := with.DecodeArgs(e); err != nil || string(args) != `{"n":1}` {
		t.Errorf("decoded %s, %v", args, err)
	}
	if _, err := without.DecodeArgs(e); !errors.Is(err, encode.ErrUnknown) {
		t.Errorf("without the encoder: %v", err)
	}
	plain := &stem.Envelope{ID: "i", Args: json.RawMessage("1")}
	if args, err := without.DecodeArgs(plain); err != nil || string(args) != "1" {
		t.Errorf("plain: %s, %v", args, err)
	}
}
