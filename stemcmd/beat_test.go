package stemcmd_test

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stemjobs/stem/stemcmd"
)

// TestBeats: of two beats one leads and one stands by; both are ready, their metrics
// tell them apart, and when the first stops the other leads.
func TestBeats(t *testing.T) {
	store := "sqlite:" + filepath.Join(t.TempDir(), "stem.db")
	run := func(id string) *service {
		return here(t, stemcmd.App{Name: "stem"}, nil, "beat", "run", "--id", id, "--broker", store, "--http", "127.0.0.1:0")
	}
	first := run("first")
	first.log.find(t, "beat leads")
	second := run("second")
	a, b := first.url("serving /metrics, /healthz and /readyz"), second.url("serving /metrics, /healthz and /readyz")
	eventually := func(what string, holds func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !holds(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("not in time: %s\n%s\n%s", what, first.log.String(), second.log.String())
			}
		}
	}
	ready := func(s *service, url string) bool {
		code, _, err := s.ask("GET", url+"/readyz", "")
		return err == nil && code == 200
	}
	eventually("both are ready", func() bool { return ready(first, a) && ready(second, b) })
	if text := first.must(200, "GET", a+"/metrics", ""); !strings.Contains(text, `stem_beat_lock_held{beat="first"} 1`) {
		t.Errorf("metrics of the first: %s", text)
	}
	eventually("the second has seen that the first leads", func() bool {
		return strings.Contains(second.must(200, "GET", b+"/metrics", ""), `stem_beat_lock_contended_total{beat="second"}`)
	})
	first.signal(syscall.SIGTERM)
	first.ends(0)
	second.log.find(t, "beat leads")
	second.signal(syscall.SIGTERM)
	second.ends(0)
}
