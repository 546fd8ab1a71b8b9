package deploy_test

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stemjobs/stem/stemcmd"
)

var (
	block  = regexp.MustCompile("(?ms)^```sh\n(.*?)^```")
	inline = regexp.MustCompile("`(stem [^`]+)`")
)

// commandLines are the lines of a page's sh blocks.
func commandLines(page string) []string {
	var lines []string
	for _, m := range block.FindAllStringSubmatch(page, -1) {
		for line := range strings.Lines(m[1]) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

// words splits a command line; quotes hold words together.
func words(line string) []string {
	var out []string
	for _, m := range regexp.MustCompile(`'([^']*)'|"([^"]*)"|(\S+)`).FindAllStringSubmatch(line, -1) {
		out = append(out, m[1]+m[2]+m[3])
	}
	return out
}

// checkCommand: there is such a command, and it has these flags. It is not executed.
func checkCommand(t *testing.T, where string, args []string) {
	t.Helper()
	var out, said bytes.Buffer
	code := stemcmd.Run(t.Context(), stemcmd.App{Name: "stem", Demo: true}, stemcmd.Process{
		Args: append(args, "--help"), Stdin: strings.NewReader(""), Stdout: &out, Stderr: &said,
	})
	if code != 0 {
		t.Errorf("%s: stem %s: exit code %d\n%s", where, strings.Join(args, " "), code, &said)
	}
	if want := "\n  stem " + strings.Join(plain(args), " "); !strings.Contains(out.String(), want) {
		t.Errorf("%s: stem %s: no such command", where, strings.Join(args, " "))
	}
}

// plain are the words that name the command: those before flags and arguments.
func plain(args []string) []string {
	two := map[string]bool{"worker": true, "queue": true, "dlq": true, "tasks": true, "schedule": true, "observe": true, "beat": true, "audit": true, "config": true}
	if len(args) > 1 && (two[args[0]] || args[0] == "health" && args[1] == "check") && !strings.HasPrefix(args[1], "-") {
		return args[:2]
	}
	return args[:1]
}

// TestCommandsInPages: what the other pages say to type exists too. The operations
// guide is executed, see docs.
func TestCommandsInPages(t *testing.T) {
	var pages []string
	for _, pattern := range []string{"../README.md", "../docs/*.md", "../examples/*/README.md", "*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, found...)
	}
	if len(pages) < 10 {
		t.Fatalf("found %d pages only", len(pages))
	}
	checked := 0
	for _, path := range pages {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range commandLines(string(text)) {
			line = strings.ReplaceAll(line, "go run ./cmd/stem ", "stem ")
			command := ofStem.FindStringSubmatch(line)
			if command == nil || strings.Contains(line, "[flags]") { // a line of usage
				continue
			}
			checked++
			checkCommand(t, path, words(command[1]))
		}
	}
	if checked < 50 {
		t.Errorf("checked %d commands only", checked)
	}
}

// ofStem finds the arguments of stem in a line of a shell, up to what ends them.
var ofStem = regexp.MustCompile(`(?:^|\s|\()stem ((?:'[^']*'|"[^"]*"|[^'"|<>&;#)])+)`)

// TestRunbookCommands: what the pages say to type exists.
func TestRunbookCommands(t *testing.T) {
	pages, err := filepath.Glob(runbooks + "/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatal(err, len(pages))
	}
	for _, path := range pages {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := commandLines(string(text))
		for _, m := range inline.FindAllStringSubmatch(string(text), -1) {
			lines = append(lines, m[1])
		}
		for _, line := range lines {
			args := words(line)
			if args[0] != "stem" {
				t.Errorf("%s: %q is no command of stem", path, line)
				continue
			}
			checkCommand(t, path, args[1:])
		}
	}
}
