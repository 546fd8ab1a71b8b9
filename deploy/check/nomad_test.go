package check

import (
	"os"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// value evaluates an attribute, with the variables of a job.
func value(t *testing.T, b *hclsyntax.Body, name string) cty.Value {
	t.Helper()
	a := b.Attributes[name]
	if a == nil {
		t.Fatalf("line %d: no %s", b.SrcRange.Start.Line, name)
	}
	v, problems := a.Expr.Value(&hcl.EvalContext{Variables: map[string]cty.Value{
		"var":                  cty.ObjectVal(map[string]cty.Value{"image": cty.StringVal("stem:1"), "workers": cty.NumberIntVal(2)}),
		"NOMAD_SHORT_ALLOC_ID": cty.StringVal("0a1b2c3d"),
	}})
	if problems.HasErrors() {
		t.Fatal(problems)
	}
	return v
}

func text(t *testing.T, b *hclsyntax.Body, name string) string {
	t.Helper()
	return value(t, b, name).AsString()
}

// inside are the blocks of a type.
func inside(b *hclsyntax.Body, kind string) []*hclsyntax.Block {
	var out []*hclsyntax.Block
	for _, x := range b.Blocks {
		if x.Type == kind {
			out = append(out, x)
		}
	}
	return out
}

// TestNomad: it parses, and each of its tasks is locked up, looked at, and
// given the time that it may take to stop. Nomad's own types are not here: their
// licence is not that of this project.
func TestNomad(t *testing.T) {
	source, err := os.ReadFile("../nomad/stem.nomad.hcl")
	if err != nil {
		t.Fatal(err)
	}
	file, problems := hclsyntax.ParseConfig(source, "stem.nomad.hcl", hcl.InitialPos)
	if problems.HasErrors() {
		t.Fatal(problems)
	}
	jobs := inside(file.Body.(*hclsyntax.Body), "job")
	if len(jobs) != 1 {
		t.Fatalf("%d jobs", len(jobs))
	}
	commands := map[string]bool{}
	for _, group := range inside(jobs[0].Body, "group") {
		checks := 0
		for _, s := range inside(group.Body, "service") {
			checks += len(inside(s.Body, "check"))
		}
		tasks := inside(group.Body, "task")
		if checks == 0 || len(tasks) != 1 || len(inside(group.Body, "network")) != 1 {
			t.Errorf("group %s: %d checks, %d tasks", group.Labels[0], checks, len(tasks))
			continue
		}
		task := tasks[0].Body
		config := inside(task, "config")[0].Body
		if text(t, task, "user") != "65532:65532" || !value(t, config, "readonly_rootfs").True() || text(t, task, "kill_signal") != "SIGTERM" {
			t.Errorf("task %s is root, or can write, or is not asked to stop", tasks[0].Labels[0])
		}
		var args []string
		for _, v := range value(t, config, "args").AsValueSlice() {
			args = append(args, v.AsString())
		}
		commands[args[0]] = true
		patience, err := time.ParseDuration(text(t, task, "kill_timeout"))
		if err != nil || patience < stopTime(t, args)+5*time.Second {
			t.Errorf("killed after %s, and may take %s to stop", patience, stopTime(t, args))
		}
		env := inside(task, "env")[0].Body
		rendered := map[string]bool{}
		for _, tpl := range inside(task, "template") {
			rendered["@/"+text(t, tpl.Body, "destination")] = true
			rendered["/"+text(t, tpl.Body, "destination")] = true
		}
		if env.Attributes["STEM_TASKS_CONFIG"] == nil {
			t.Errorf("task %s does not know the tasks", tasks[0].Labels[0])
		}
		for name := range env.Attributes {
			if v := text(t, env, name); (v[0] == '@' || v[0] == '/') && !rendered[v] {
				t.Errorf("%s is %s, which no template writes", name, v)
			}
		}
	}
	if !commands["worker"] || !commands["beat"] || !commands["serve"] {
		t.Errorf("runs %v", commands)
	}
}
