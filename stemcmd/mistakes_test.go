package stemcmd

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// leaves lists the commands that do something, as they are typed.
func leaves() []string {
	return leavesThat(func(*cobra.Command) bool { return true })
}

func leavesThat(ok func(*cobra.Command) bool) []string {
	var paths []string
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Runnable() && !c.HasSubCommands() && !c.Hidden && c.Name() != "help" && ok(c) {
			paths = append(paths, strings.TrimPrefix(c.CommandPath(), "stem "))
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newSession(App{Name: "stem", Demo: true}, Process{}).rootCommand())
	return paths
}

// TestEveryCommandIsTriedWithMistakes: each command of the tree is in a script
// with something wrong, and the exit code that it comes to.
func TestEveryCommandIsTriedWithMistakes(t *testing.T) {
	files, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d scripts, %v", len(files), err)
	}
	var text strings.Builder
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		text.Write(raw)
		text.WriteByte('\n')
	}
	for _, path := range leaves() {
		tried := regexp.MustCompile(`(?m)^(exits|spanned) [1-9] (stem|shop) ` + regexp.QuoteMeta(path) + `( |$)`)
		if !tried.MatchString(text.String()) {
			t.Errorf("no script has a line \"exits CODE stem %s …\": add what goes wrong with it to mistakes.txtar", path)
		}
	}
}

// TestEveryCommandRefusesAnUnknownFlag: it is exit code 2 before anything is
// opened or written.
func TestEveryCommandRefusesAnUnknownFlag(t *testing.T) {
	for _, path := range leaves() {
		dir := t.TempDir()
		var out, errs bytes.Buffer
		code := Run(t.Context(), App{Demo: true}, Process{
			Args: append(strings.Fields(path), "--no-such-flag"), Env: []string{"STEM_BROKER_URL=sqlite:" + dir + "/stem.db"},
			Stdout: &out, Stderr: &errs,
		})
		if code != ExitUsage || out.Len() > 0 || !strings.Contains(errs.String(), "no-such-flag") {
			t.Errorf("%s --no-such-flag: exit code %d\n%s%s", path, code, out.String(), errs.String())
		}
		if there, err := os.ReadDir(dir); err != nil || len(there) > 0 {
			t.Errorf("%s --no-such-flag left %d files, %v", path, len(there), err)
		}
	}
}

// TestEveryChangingCommandIsAudited holds audited.txtar, which looks for one record
// of each, to the list of commands whose changes are kept.
func TestEveryChangingCommandIsAudited(t *testing.T) {
	script, err := os.ReadFile("testdata/script/audited.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range leavesThat(func(c *cobra.Command) bool { return c.Flags().Lookup("yes") != nil }) {
		if !slices.Contains(changing(), path) {
			t.Errorf("%s asks before it changes something, and leaves no record of it", path)
		}
	}
	all := leaves()
	for _, path := range changing() {
		if !slices.Contains(all, path) {
			t.Errorf("the audit is kept of %q, which is no command", path)
		}
		if path == "doctor" {
			continue // which needs something to repair: doctor.txtar
		}
		if !strings.Contains(string(script), "\nexits 0 stem "+path+" ") || !strings.Contains(string(script), `"what":"`+path+`"`) {
			t.Errorf("audited.txtar does not try %q and look for its record", path)
		}
	}
}
