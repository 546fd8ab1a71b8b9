package stemcmd

import (
	"bytes"
	"context"
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
		if c.Runnable() && !c.HasSubCommands() {
			if !strings.Contains(c.Example, path) {
				t.Errorf("%s has no example of itself: %q", path, c.Example)
			}
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
		var out, errs bytes.Buffer
		args := append(strings.Fields(c.CommandPath())[1:], "--help")
		if code := Run(context.Background(), App{Demo: true}, Process{Args: args, Stdout: &out, Stderr: &errs}); code != ExitDone {
			t.Errorf("%s --help: exit code %d: %s", c.CommandPath(), code, errs.String())
		}
		if !strings.Contains(out.String(), "--broker URL") || strings.Contains(out.String(), "{{stem}}") || errs.Len() > 0 {
			t.Errorf("%s --help:\n%s%s", c.CommandPath(), out.String(), errs.String())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newSession(App{Name: "stem", Demo: true}, Process{}).rootCommand())
}
