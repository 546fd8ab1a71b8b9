package httpapi_test

import (
	"encoding/json"
	"testing"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/encode"
	"github.com/stemjobs/stem/encode/gzip"
	"github.com/stemjobs/stem/httpapi"
)

// TestPullEncoded: pullers see plain JSON, the store what was asked for; a
// server without the encoder dead-letters.
func TestPullEncoded(t *testing.T) {
	db := memory.New()
	defer db.Close()
	client, err := stem.NewClient(db, stem.ClientOptions{Encoders: []encode.Encoder{gzip.New(0)}})
	if err != nil {
		t.Fatal(err)
	}
	a, other := serve(t, client, httpapi.Options{}), serve(t, client, httpapi.Options{})
	without := newRigOn(t, db, httpapi.Options{})
	for i, at := range []*rig{a, other} {
		id := a.enqueue(`{"name":"a","args":{"n":1},"encoders":["gzip"]}`)
		l := a.lease(`{"queues":["default"]}`)
		if len(l) != 1 || string(l[0].Args) != `{"n":1}` {
			t.Fatalf("leased %+v", l)
		}
		if s := at.settle(l[0].Receipt, `"outcome":"succeeded","result":{"sum":2}`); !s.OK {
			t.Fatalf("server %d: settled %+v", i, s)
		}
		if s := a.status(id); string(s.Result) != `{"sum":2}` {
			t.Errorf("server %d: the result reads %s", i, s.Result)
		}
		found, err := db.Results().Get(t.Context(), id)
		var text string
		if err != nil || json.Unmarshal(found[0].Status.Result, &text) != nil {
			t.Errorf("server %d: the result is stored as %s, %v", i, found[0].Status.Result, err)
		}
	}
	id := a.enqueue(`{"name":"a","args":{"n":1},"encoders":["gzip"]}`)
	if l := without.lease(`{"queues":["default"]}`); len(l) != 0 {
		t.Errorf("without the encoder: leased %+v", l)
	}
	if s := without.status(id); s.State != stem.Failed || s.Reason != "encoder-unknown" {
		t.Errorf("without the encoder: %s %s", s.State, s.Reason)
	}
}
