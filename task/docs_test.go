package task_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/stemjobs/stem/task"
)

// TestDocumented: docs/wire.md names every field, key and reason that there
// is.
func TestDocumented(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "docs", "wire.md"))
	if err != nil {
		t.Fatal(err)
	}
	e := typical()
	e.Headers = map[string]string{task.HeaderEncoder: "gzip"}
	e.NotBefore, e.ExpiresAt, e.VisibilityTimeout = e.EnqueuedAt, e.EnqueuedAt, 1e9
	e.Meta = map[string]json.RawMessage{"user": nil}
	wire, err := task.Encode(e)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(wire, &fields); err != nil {
		t.Fatal(err)
	}
	words := []string{
		task.HeaderEncoder, task.MetaParent, task.MetaRoot, task.MetaRetention, task.MetaIgnoreResult,
		task.MetaLinks, task.MetaErrorLinks, task.MetaUser, task.MetaEdited, task.MetaEncoder,
		task.MetaRetriesUnsaid,
		task.ReasonRetriesExhausted, task.ReasonPermanent, task.ReasonCrashLoop, task.ReasonTaskUnknown,
		task.ReasonSignatureInvalid, task.ReasonEncoderUnknown, task.ReasonArgsInvalid, task.ReasonResultInvalid,
		task.ReasonResultTooLarge, task.ReasonOrphaned, task.ReasonMalformed, task.ReasonExpired, task.ReasonRevoked, task.ReasonPurged,
	}
	for name := range fields {
		words = append(words, name)
	}
	for _, s := range task.States() {
		words = append(words, string(s))
	}
	for _, record := range []any{task.Status{}, task.Error{}, task.Progress{}} {
		for _, f := range reflect.VisibleFields(reflect.TypeOf(record)) {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			words = append(words, name)
		}
	}
	for _, word := range words {
		if !strings.Contains(string(page), "`"+word+"`") {
			t.Errorf("docs/wire.md does not name `%s`", word)
		}
	}
}
