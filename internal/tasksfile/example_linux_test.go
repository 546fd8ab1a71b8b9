package tasksfile_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stemjobs/stem/internal/foreign"
	"github.com/stemjobs/stem/internal/tasksfile"
)

// TestExampleFile runs the tasks of examples/tasks.
func TestExampleFile(t *testing.T) {
	file, err := tasksfile.Load(filepath.Join("..", "..", "examples", "tasks", "tasks.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "a file.txt")
	if err := os.WriteFile(path, []byte("one two\nthree\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "archive.tar.gz")
	calls := map[string]struct {
		args map[string]string
		want string // part of the result
	}{
		"echo":              {map[string]string{"hello": "world"}, `{"hello":"world"}`},
		"file.sha256":       {map[string]string{"path": path}, "6481b98de00b3b8c0eccd56b3877aa72d7cbb9c2b97142fa35f7177f9456926d"},
		"file.count":        {map[string]string{"path": path}, "2  3 14"},
		"directory.archive": {map[string]string{"path": dir, "to": archive}, "null"},
	}
	for _, x := range file.Tasks {
		c, ok := calls[x.Name]
		if !ok {
			t.Errorf("%s is not tried", x.Name)
			continue
		}
		args, err := json.Marshal(c.args)
		if err != nil {
			t.Fatal(err)
		}
		got, err := x.Run(t.Context(), foreign.Call{Args: args})
		if err != nil || !strings.Contains(string(got), c.want) {
			t.Errorf("%s: %s, %v; want %s", x.Name, got, err, c.want)
		}
	}
	if info, err := os.Stat(archive); err != nil || info.Size() == 0 {
		t.Errorf("the archive: %v, %v", info, err)
	}
}
