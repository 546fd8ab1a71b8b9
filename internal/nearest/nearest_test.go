package nearest_test

import (
	"testing"

	"github.com/stemjobs/stem/internal/nearest"
)

func TestWord(t *testing.T) {
	commands := []string{"worker", "enqueue", "tasks", "queue", "dlq", "health", "doctor", "config", "version", "completion", "demo"}
	for word, want := range map[string]string{
		"enqeue":  "enqueue",
		"wroker":  "worker",
		"task":    "tasks",
		"QUEUE":   "queue",
		"qlq":     "dlq",
		"conf":    "config",
		"complet": "completion",
		"x":       "",
		"":        "",
		"banana":  "",
	} {
		if got := nearest.Word(word, commands); got != want {
			t.Errorf("Word(%q) = %q, want %q", word, got, want)
		}
	}
	if got := nearest.Word("STEM_BROKR_URL", []string{"STEM_BROKER_URL", "STEM_RESULT_BACKEND_URL"}); got != "STEM_BROKER_URL" {
		t.Errorf("got %q", got)
	}
	if got := nearest.Word("a", nil); got != "" {
		t.Errorf("got %q of no candidates", got)
	}
}
