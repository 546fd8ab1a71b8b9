package stemcmd

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestEveryCommandIsDocumented walks the tree: each command has a line that
// says what it does, examples of itself, and a check of its arguments.
func TestEveryCommandIsDocumented(t *testing.T) {
	page := string(Document())
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		path := c.CommandPath()
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: short %q: want one line without a full stop", path, c.Short)
		}
		if !strings.Contains(c.Example, path) {
			t.Errorf("%s has no example of itself: %q", path, c.Example)
		}
		if c.Runnable() && !c.HasSubCommands() {
			if c.Args == nil && c.ValidArgsFunction == nil && c.Name() != "help" && c.Name() != "show" {
				t.Errorf("%s does not check its arguments", path)
			}
			if !c.Hidden && c.Name() != "help" && !strings.Contains(page, "# "+path+"\n") {
				t.Errorf("%s is not in the documentation", path)
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newSession(App{Name: "stem", Demo: true}, Process{}).rootCommand())
}

func TestHelpOfEveryCommand(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		words, help := strings.Fields(c.CommandPath())[1:], []string{"--help"}
		for _, args := range [][]string{slices.Concat(words, help), slices.Concat(help, words)} {
			var out, errs bytes.Buffer
			code := Run(t.Context(), App{Demo: true}, Process{Args: args, Stdout: &out, Stderr: &errs})
			text := out.String()
			if code != ExitDone || errs.Len() > 0 || !strings.Contains(text, "--broker URL") || strings.Contains(text, "{{stem}}") {
				t.Errorf("%q: exit code %d\n%s%s", args, code, text, errs.String())
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newSession(App{Name: "stem", Demo: true}, Process{}).rootCommand())
}
