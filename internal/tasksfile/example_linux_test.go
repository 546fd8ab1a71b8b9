package tasksfile_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
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

// TestHTTPExample runs the task of examples/tasks/http.yaml against the
// receiver beside it.
func TestHTTPExample(t *testing.T) {
	dir := filepath.Join("..", "..", "examples", "tasks")
	t.Setenv("NOTIFY_SECRET", "shared")
	receiver := exec.Command("python3", filepath.Join(dir, "receiver.py"), "0")
	receiver.Stderr = t.Output()
	out, err := receiver.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := receiver.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = receiver.Process.Kill()
		_ = receiver.Wait()
	}()
	said := bufio.NewScanner(out)
	said.Scan()
	url, ok := strings.CutPrefix(said.Text(), "listening on ")
	if !ok {
		t.Fatalf("the receiver said %q", said.Text())
	}
	text, err := os.ReadFile(filepath.Join(dir, "http.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	const there = "http://127.0.0.1:8900/notify"
	if !bytes.Contains(text, []byte(there)) {
		t.Fatalf("the example does not call %s", there)
	}
	notify := parse(t, "%s", bytes.ReplaceAll(text, []byte(there), []byte(url))).Tasks[0]
	call := func(id string) (json.RawMessage, error) {
		return notify.Run(t.Context(), foreign.Call{ID: id, Name: "notify", Args: json.RawMessage(`{"user": 7}`)})
	}
	for _, c := range []struct{ id, want string }{{"a", "1"}, {"a", "1"}, {"b", "2"}} {
		got, err := call(c.id)
		if want := `{"received": {"user": 7}, "number": ` + c.want + `}`; err != nil || string(got) != want {
			t.Errorf("%s: %s, %v; want %s", c.id, got, err, want)
		}
	}
	t.Setenv("NOTIFY_SECRET", "another")
	if _, err := call("c"); err == nil || !strings.HasSuffix(err.Error(), "401 Unauthorized: the signature is not ours") {
		t.Errorf("with a wrong secret: %v", err)
	}
}
