package deploy_test

import (
	"bytes"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stemjobs/stem/stemcmd"
)

// TestDockerfile: what it runs are commands that exist, as somebody who is not
// root, and its health is looked at.
func TestDockerfile(t *testing.T) {
	text, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	joined := strings.ReplaceAll(string(text), "\\\n", "")
	stages := strings.Split(joined, "\nFROM ")
	last := stages[len(stages)-1]
	if len(stages) != 3 || !strings.HasPrefix(last, "scratch\n") {
		t.Errorf("%d stages, the last from %.20q", len(stages)-1, last)
	}
	if !strings.Contains(stages[1], "CGO_ENABLED=0") {
		t.Error("the binary is not static")
	}
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`)
	module, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if want := "golang:" + version.FindStringSubmatch(string(module))[1] + "-"; !strings.HasPrefix(stages[1], want) {
		t.Errorf("built with %.20q, go.mod says %s", stages[1], want)
	}
	if user := regexp.MustCompile(`(?m)^USER (\d+):(\d+)$`).FindStringSubmatch(last); user == nil || user[1] == "0" || user[2] == "0" {
		t.Errorf("runs as %v: want numbers, not 0, so that runAsNonRoot can tell", user)
	}
	commands := regexp.MustCompile(`(?m)^(?:HEALTHCHECK .*)?[ \t]*(CMD|ENTRYPOINT)\s+\[(.*)\]$`).FindAllStringSubmatch(last, -1)
	if len(commands) != 3 || !strings.Contains(last, "\nHEALTHCHECK ") {
		t.Fatalf("%d commands, want those of the health check, the entry point and the default", len(commands))
	}
	for _, m := range commands {
		args := words(strings.ReplaceAll(m[2], ",", " "))
		if args[0] == "/usr/local/bin/stem" {
			args = args[1:]
		}
		if len(args) > 0 {
			checkCommand(t, "Dockerfile", args)
		}
	}
}

// service is a service of compose, with the settings that are used.
type service struct {
	Image       string         `yaml:"image"`
	Build       map[string]any `yaml:"build"`
	Command     []string       `yaml:"command"`
	Restart     string         `yaml:"restart"`
	Init        bool           `yaml:"init"`
	ReadOnly    bool           `yaml:"read_only"`
	Tmpfs       []string       `yaml:"tmpfs"`
	CapDrop     []string       `yaml:"cap_drop"`
	SecurityOpt []string       `yaml:"security_opt"`
	Networks    []string       `yaml:"networks"`
	DependsOn   map[string]struct {
		Condition string `yaml:"condition"`
	} `yaml:"depends_on"`
	StopGracePeriod string            `yaml:"stop_grace_period"`
	Environment     map[string]string `yaml:"environment"`
	Volumes         []string          `yaml:"volumes"`
	Secrets         []string          `yaml:"secrets"`
	Ports           []string          `yaml:"ports"`
	Healthcheck     map[string]any    `yaml:"healthcheck"`
}

type composeFile struct {
	Name        string            `yaml:"name"`
	Stem        service           `yaml:"x-stem"`
	Environment map[string]string `yaml:"x-environment"`
	Worker      service           `yaml:"x-worker"`
	Services    map[string]service
	Networks    map[string]map[string]any `yaml:"networks"`
	Volumes     map[string]map[string]any `yaml:"volumes"`
	Secrets     map[string]map[string]any `yaml:"secrets"`
}

func TestCompose(t *testing.T) {
	var file composeFile
	readYAML(t, "compose.yaml", &file)
	kinds := map[string]int{}
	for name, s := range file.Services {
		for _, n := range s.Networks {
			if _, ok := file.Networks[n]; !ok {
				t.Errorf("%s: no network %s", name, n)
			}
		}
		for _, p := range s.Ports {
			if !strings.HasPrefix(p, "127.0.0.1:") {
				t.Errorf("%s: %s is open to everybody", name, p)
			}
		}
		if name == "redis" {
			if !slices.Contains(s.Command, "noeviction") || s.Healthcheck == nil {
				t.Error("redis throws tasks away, or is not looked at")
			}
			continue
		}
		kinds[s.Command[0]]++
		checkCommand(t, name, s.Command)
		for key := range s.Environment {
			checkVariable(t, name, key)
		}
		if s.DependsOn["redis"].Condition != "service_healthy" || !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || s.Restart == "" {
			t.Errorf("%s does not wait for redis, or may do more than it must", name)
		}
		stop := 10 * time.Second // what compose waits
		if s.StopGracePeriod != "" {
			var err error
			if stop, err = time.ParseDuration(s.StopGracePeriod); err != nil {
				t.Fatal(err)
			}
		}
		if d := stopTime(t, s.Command); stop < d+5*time.Second {
			t.Errorf("%s is given %s to stop, and may take %s", name, stop, d)
		}
		if s.Command[0] == "serve" && (file.Secrets["api-tokens"]["file"] == nil || s.Environment["STEM_API_TOKENS"] != "@/run/secrets/api-tokens") {
			t.Error("the API's tokens are no secret")
		}
	}
	if kinds["worker"] != 2 || kinds["beat"] != 2 || kinds["serve"] != 1 {
		t.Errorf("%v: want two workers, two beats, an API", kinds)
	}
}

// TestManifests: what Kubernetes and Nomad are told to run exists, as do the
// variables that they set; their tasks are those of tasks.yaml, which is valid.
// The module in check/ holds the rest of them.
func TestManifests(t *testing.T) {
	argsLine := regexp.MustCompile(`(?m)^ +args *[:=] *\[(.*)\]$`)
	tasks, err := os.ReadFile("tasks.yaml")
	if err != nil {
		t.Fatal(err)
	}
	checkTasks(t, "tasks.yaml")
	_, tasksText, _ := strings.Cut(string(tasks), "\ntasks:\n")
	commands, shown := 0, 0
	for _, path := range []string{
		"kubernetes/config.yaml", "kubernetes/worker.yaml", "kubernetes/beat.yaml", "kubernetes/api.yaml", "nomad/stem.nomad.hcl",
	} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range argsLine.FindAllStringSubmatch(string(text), -1) {
			commands++
			checkCommand(t, path, words(strings.ReplaceAll(m[1], ",", " ")))
		}
		for _, name := range variableName.FindAllString(string(text), -1) {
			checkVariable(t, path, name)
		}
		indent := map[string]string{"kubernetes/config.yaml": "    "}[path]
		if strings.Contains(string(text), indent+"tasks:\n"+indented(tasksText, indent)) {
			shown++
		}
	}
	if commands != 6 || shown != 2 {
		t.Errorf("%d commands, want 6; %d tasks files that are tasks.yaml, want 2", commands, shown)
	}
}

func indented(text, by string) string {
	return by + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n"+by)
}

// checkTasks: the program takes the tasks file.
func checkTasks(t *testing.T, path string) {
	t.Helper()
	var said bytes.Buffer
	code := stemcmd.Run(t.Context(), stemcmd.App{Name: "stem"}, stemcmd.Process{
		Args: []string{"config", "validate", "--broker", "memory:", "--tasks", path}, Stdin: strings.NewReader(""), Stdout: &said, Stderr: &said,
	})
	if code != 0 {
		t.Errorf("%s: %s", path, &said)
	}
}
