package stemcmd_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/stemjobs/stem/internal/redistest"
)

// TestScriptsOnRedis runs scripts that others run on SQLite, and those of its
// own, each on a logical database of one Redis server.
func TestScriptsOnRedis(t *testing.T) {
	server := redistest.Start(t, redistest.Options{})
	const file = "sqlite:stem.db"
	dir := t.TempDir()
	scriptFiles := map[string]string{}
	for _, name := range []string{"redis", "dev"} {
		own, err := os.ReadFile(filepath.Join("testdata", "redis", name+".txtar"))
		if err != nil {
			t.Fatal(err)
		}
		scriptFiles[name] = "env STEM_BROKER_URL=" + file + "\n" + string(own)
	}
	for _, name := range []string{"again", "dead", "dlq", "enqueue", "revoke", "schedule", "serve", "stream"} {
		text, err := os.ReadFile(filepath.Join("testdata", "script", name+".txtar"))
		if err != nil {
			t.Fatal(err)
		}
		scriptFiles[name] = string(text)
	}
	db := 0
	for name, text := range scriptFiles {
		if !strings.Contains(text, file) {
			t.Errorf("%s uses no %s", name, file)
		}
		changed := strings.ReplaceAll(text, file, fmt.Sprintf("redis://%s/%d", server.Addr, db))
		if err := os.WriteFile(filepath.Join(dir, name+".txtar"), []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
		db++
	}
	params := scripts()
	params.Dir = dir
	testscript.Run(t, params)
}
