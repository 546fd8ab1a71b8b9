package otel_test

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/stemjobs/stem/observe/otel"
)

// TestWhatReceiversAnswer has one span, and a receiver that answers like that.
func TestWhatReceiversAnswer(t *testing.T) {
	partial := protowire.AppendTag(nil, 1, protowire.VarintType)
	partial = protowire.AppendVarint(partial, 3)
	partial = protowire.AppendString(protowire.AppendTag(partial, 2, protowire.BytesType), "too old")
	rejects := string(protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), partial))
	for name, tt := range map[string]struct {
		first  int // status of the first answer
		answer string
		asked  int32
		lost   string // why; "": it is not
	}{
		"taken":                    {first: 200, asked: 1},
		"taken without a word":     {first: 204, asked: 1},
		"taken later":              {first: 503, asked: 2},
		"too many":                 {first: 429, asked: 2},
		"refused":                  {first: 400, answer: "bad span", asked: 1, lost: `400 Bad Request: \"bad span\"`},
		"moved":                    {first: 301, asked: 1, lost: "301 Moved Permanently"},
		"refused in part":          {first: 200, answer: rejects, asked: 1, lost: `did not take 3 of them: \"too old\"`},
		"taken, in another tongue": {first: 200, answer: "\xff\xff", asked: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int32
			r := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/x-protobuf")
				if asked.Add(1) == 1 {
					w.Header().Set("Retry-After", "1")
					w.Header().Set("Location", "/elsewhere")
					w.WriteHeader(tt.first)
					if tt.first != http.StatusNoContent {
						_, _ = w.Write([]byte(tt.answer))
					}
				}
			}))
			defer r.Close()
			log, logged := newLog()
			x := open(t, otel.Options{TracesURL: r.URL, Logger: log})
			_, s := x.TracerProvider().Tracer("test").Start(t.Context(), "one")
			s.End()
			said := ""
			if err := x.Close(t.Context()); err != nil {
				said = strconv.Quote(err.Error())
			}
			if got := asked.Load(); got != tt.asked {
				t.Errorf("asked %d times, want %d", got, tt.asked)
			}
			if logged() != "" || (said == "") != (tt.lost == "") || !strings.Contains(said, tt.lost) {
				t.Errorf("said %s and logged %s, want %s said", said, logged(), tt.lost)
			}
		})
	}
}
