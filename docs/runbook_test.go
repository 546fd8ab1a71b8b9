//go:build unix

package docs_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// looks are the commands under "Look" of the runbook's pages, each with a page.
func looks(t *testing.T) map[string]string {
	t.Helper()
	pages, err := filepath.Glob("runbook/Stem*.md")
	if err != nil || len(pages) == 0 {
		t.Fatal("no pages", err)
	}
	block := regexp.MustCompile("(?s)\n## Look\n\n```sh\n(.*?)```")
	commands := map[string]string{}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		found := block.FindSubmatch(text)
		if found == nil {
			t.Errorf("%s has no commands to look with", page)
			continue
		}
		for line := range strings.Lines(string(found[1])) {
			commands[strings.TrimSpace(line)] = page
		}
	}
	return commands
}

// TestRunbookLooks runs what the pages say to look with, where there is a worker
// with a beat, a task that runs, one that waits, and a dead letter.
func TestRunbookLooks(t *testing.T) {
	commands := looks(t)
	script := `
exec stem worker run --beat --id w1 --tasks tasks.yaml --http $HTTP --pid-file run/w1.pid &worker&
started
exec stem enqueue --tasks tasks.yaml boom --id d1
! exec stem tasks wait d1
exec stem enqueue --tasks tasks.yaml nap --id n1
exec stem enqueue --tasks tasks.yaml nap --id n2 --in 1h
`
	lines := slices.Sorted(maps.Keys(commands))
	for i := range lines {
		script += fmt.Sprintf("look %d\n", i)
	}
	script += `
exec stem tasks cancel n1 --terminate
stop
wait worker

-- run/x --
-- tasks.yaml --
tasks:
  boom: {exec: ["false"], retry: {max: 0}}
  nap: {exec: [sleep, "3000"]}
`
	path := filepath.Join(t.TempDir(), "looks.txtar")
	if err := os.WriteFile(path, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	address := "127.0.0.1:" + freeDecade(t) + "0"
	testscript.Run(t, testscript.Params{
		Files: []string{path}, RequireExplicitExec: true, Deadline: patience(),
		Setup: func(env *testscript.Env) error {
			env.Setenv("HTTP", address)
			env.Setenv("STEM_BROKER_URL", "sqlite:stem.db")
			return prepare(env)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"look": func(ts *testscript.TestScript, _ bool, args []string) {
				var n int
				_, err := fmt.Sscan(args[0], &n)
				ts.Check(err)
				look(ts, commands[lines[n]], strings.ReplaceAll(lines[n], "127.0.0.1:9090", address))
			},
			"started": func(ts *testscript.TestScript, _ bool, _ []string) {
				ts.Check(ts.Exec("sh", "-c", "until stem worker healthcheck --http "+address+"; do sleep 0.1; done"))
			},
			"stop": func(ts *testscript.TestScript, _ bool, _ []string) {
				for _, c := range ts.BackgroundCmds() {
					ts.Check(c.Process.Signal(syscall.SIGTERM))
				}
			},
		},
	})
}

// look runs a command, which may find something wrong, but has to be understood and
// to be answered.
func look(ts *testscript.TestScript, page, command string) {
	err := ts.Exec("sh", "-c", command)
	const found, partly = 1, 6
	var exit *exec.ExitError
	if errors.As(err, &exit) && (exit.ExitCode() == found || exit.ExitCode() == partly) {
		err = nil
	}
	if err != nil {
		ts.Fatalf("%s: %s: %v\n%s%s", page, command, err, ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	}
}
