package httpapi_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stemjobs/stem/httpapi"
)

func manual(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile("../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// TestManualIsComplete holds the manual's tables to the code.
func TestManualIsComplete(t *testing.T) {
	text := manual(t)
	for slug, status := range httpapi.ProblemTypes() {
		if row := fmt.Sprintf("| `%s` | %d |", slug, status); !strings.Contains(text, row) {
			t.Errorf("the manual lacks %s", row)
		}
	}
	if n := strings.Count(text, "| `/problems/"); n != len(httpapi.ProblemTypes()) {
		t.Errorf("the manual has %d problems, the code %d", n, len(httpapi.ProblemTypes()))
	}
	for _, rt := range httpapi.Table() {
		role := string(rt.Role)
		if role == "" {
			role = "any"
		}
		if row := fmt.Sprintf("| `%s %s` | %s |", rt.Method, rt.Path, role); !strings.Contains(text, row) {
			t.Errorf("the manual lacks %s", row)
		}
	}
}

// TestManualRuns runs the manual's programs.
func TestManualRuns(t *testing.T) {
	r := newRig(t, httpapi.Options{Tokens: allTokens(t)})
	r.work(echo())
	for _, lang := range []struct{ fence, program, pkg, file, want string }{
		{"```python\n", "python3", "python3", "snippet.py", `succeeded {"from": "python"}`},
		{"```js\n", "node", "nodejs", "snippet.mjs", `succeeded {"from":"node"}`},
	} {
		_, code, found := strings.Cut(manual(t), lang.fence)
		code, _, closed := strings.Cut(code, "```")
		if !found || !closed {
			t.Fatalf("the manual has no %s", lang.program)
		}
		program, err := exec.LookPath(lang.program)
		if err != nil {
			t.Fatalf("%s is missing: apt-get install %s, or .ci/run, which does", lang.program, lang.pkg)
		}
		path := filepath.Join(t.TempDir(), lang.file)
		if err := os.WriteFile(path, []byte(code), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), program, path)
		cmd.Env = append(os.Environ(), "STEM_API_URL="+r.url, "STEM_API_TOKEN="+secret+"operate")
		out, err := cmd.CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != lang.want {
			t.Errorf("%s: %v\n%s\nwant %s", lang.program, err, out, lang.want)
		}
	}
}
