//go:build unix

package exectask_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stemjobs/stem/internal/foreign"
	"github.com/stemjobs/stem/internal/runner"
	"github.com/stemjobs/stem/internal/tasksfile"
	"github.com/stemjobs/stem/task"
)

func TestTemplates(t *testing.T) {
	args := `{"in":"a b.png","n":9007199254740993,"f":1.50,"yes":true,"quote":"'\"$(id) ; é","empty":"","a-b_1":"dash"}`
	task1 := helper(t, "args", []string{"{{.in}}", "--size={{.n}}x{{ .f }}", "{{.yes}}", "{{.quote}}", "{{.empty}}", "{{.a-b_1}}", "}}", "$HOME", "*"})
	got, err := task1.Run(t.Context(), foreign.Call{Args: json.RawMessage(args)})
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	if err := json.Unmarshal(got, &words); err != nil {
		t.Fatal(err)
	}
	want := []string{"a b.png", "--size=9007199254740993x1.50", "true", "'\"$(id) ; é", "", "dash", "}}", "$HOME", "*"}
	if diff := cmp.Diff(want, words); diff != "" {
		t.Errorf("words (-want +got):\n%s", diff)
	}
}

// TestTemplateRefusals: arguments that cannot be, or must not be, on a command
// line are a permanent failure, and nothing is started.
func TestTemplateRefusals(t *testing.T) {
	for name, c := range map[string]struct{ word, args, want string }{
		"an option":        {"{{.in}}", `{"in":"--output=/etc/passwd"}`, "could be taken for an option"},
		"a file to read":   {"--data={{.in}}", `{"in":"@/etc/passwd"}`, "begins with - or @"},
		"a negative":       {"{{.in}}", `{"in":-5}`, `"-5"`},
		"from two":         {"{{.empty}}{{.in}}", `{"in":"-x","empty":""}`, "could be taken for an option"},
		"missing":          {"{{.in}}", `{"out":"x"}`, `argument "in" is missing`},
		"null":             {"{{.in}}", `{"in":null}`, "it is null"},
		"an object":        {"{{.in}}", `{"in":{}}`, "standard input"},
		"a list":           {"{{.in}}", `{"in":["-x"]}`, "standard input"},
		"a zero byte":      {"{{.in}}", `{"in":"a\u0000b"}`, "zero byte"},
		"no object":        {"{{.in}}", `"text"`, "want an object"},
		"nothing":          {"{{.in}}", `null`, "want an object"},
		"a list of fields": {"{{.in}}", `[{"in":"x"}]`, "want an object"},
	} {
		_, err := helper(t, "args", []string{c.word}).Run(t.Context(), foreign.Call{Args: json.RawMessage(c.args)})
		var bad *runner.ArgsError
		if !errors.As(err, &bad) || bad.Reason != task.ReasonArgsInvalid || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an ArgsError that says %q", name, err, c.want)
		}
	}
}

func TestOptionValuesAllowed(t *testing.T) {
	args := foreign.Call{Args: json.RawMessage(`{"in":"-x","at":"@y"}`)}
	for name, task1 := range map[string]*tasksfile.Task{
		"after two dashes": helper(t, "args", []string{"--", "{{.in}}", "{{.at}}"}),
		"by the file":      helper(t, "args", []string{"{{.in}}", "{{.at}}"}, "allow_option_values: true"),
	} {
		got, err := task1.Run(t.Context(), args)
		if err != nil || !strings.HasSuffix(strings.TrimSpace(string(got)), `"-x","@y"]`) {
			t.Errorf("%s: Run = %s, %v", name, got, err)
		}
	}
	if _, err := helper(t, "args", []string{"{{.in}}", "--"}).Run(t.Context(), args); err == nil {
		t.Error("two dashes after the value allow it")
	}
}
