package connect_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stemjobs/stem/connect"
	"github.com/stemjobs/stem/task"
)

func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func find(t *testing.T, l *connect.Loaded, name string) connect.Setting {
	t.Helper()
	for _, s := range l.Settings {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("%s is not among the settings", name)
	return connect.Setting{}
}

func TestLoadPrecedence(t *testing.T) {
	file := write(t, ".env", "STEM_BROKER_URL=sqlite:file.db\nSTEM_NAMESPACE=from_file\nSTEM_CONCURRENCY=3\n")
	l, err := connect.Load(connect.Sources{
		Flags:   map[string]string{"STEM_BROKER_URL": "sqlite:flag.db"},
		Env:     []string{"STEM_BROKER_URL=sqlite:env.db", "STEM_NAMESPACE=from_env", "STEM_DEFAULT_QUEUE=", "PATH=/bin"},
		EnvFile: file,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []connect.Setting{
		{Name: "STEM_BROKER_URL", Value: "sqlite:flag.db", Source: "--broker", Set: true},
		{Name: "STEM_NAMESPACE", Value: "from_env", Source: "environment", Set: true},
		{Name: "STEM_CONCURRENCY", Value: "3", Source: file, Set: true},
		{Name: "STEM_DEFAULT_QUEUE", Value: "default", Source: "default"},
	} {
		if got := find(t, l, want.Name); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	c := l.Config
	if c.Broker != "sqlite:flag.db" || c.Namespace != "from_env" || c.Concurrency != 3 || c.DefaultQueue != "default" {
		t.Errorf("configuration: %+v", c)
	}
	if len(l.Warnings) != 0 {
		t.Errorf("warnings: %q", l.Warnings)
	}
}

func TestLoadValues(t *testing.T) {
	l, err := connect.Load(connect.Sources{Env: []string{
		"STEM_PREFETCH_MULTIPLIER=4", "STEM_DEFAULT_MAX_RETRIES=0", "STEM_DEFAULT_VISIBILITY_TIMEOUT=1m30s",
		"STEM_RESULT_TTL=0", "STEM_HEARTBEAT_INTERVAL=2s", "STEM_LOG_LEVEL=warn", "STEM_LOG_FORMAT=text",
		"STEM_METRIC_EXPORTERS=none", "STEM_TASKS_CONFIG=tasks.yaml",
	}})
	if err != nil {
		t.Fatal(err)
	}
	c := l.Config
	if c.Prefetch != 4 || c.MaxRetries != 0 || c.Lease != 90*time.Second || c.Retention != task.Forever ||
		c.HeartbeatInterval != 2*time.Second || c.LogLevel != slog.LevelWarn || !c.LogLevelSet || c.LogFormat != "text" ||
		!c.NoMetrics || c.TasksFile != "tasks.yaml" {
		t.Errorf("configuration: %+v", c)
	}
}

func TestLoadDefaults(t *testing.T) {
	l, err := connect.Load(connect.Sources{})
	if err != nil {
		t.Fatal(err)
	}
	c := l.Config
	if c.Broker != "" || c.MaxRetries != 3 || c.Lease != 30*time.Second || c.Retention != 24*time.Hour || c.Prefetch != 0 {
		t.Errorf("configuration: %+v", c)
	}
}

func TestLoadReadsValuesFromFiles(t *testing.T) {
	path := write(t, "broker", "sqlite:/data/stem.db\r\n")
	l, err := connect.Load(connect.Sources{Env: []string{"STEM_BROKER_URL=@" + path}})
	if err != nil {
		t.Fatal(err)
	}
	if l.Config.Broker != "sqlite:/data/stem.db" {
		t.Errorf("broker %q", l.Config.Broker)
	}
	secret := write(t, "wrong", "hunter2")
	empty := write(t, "empty", "\n")
	for raw, want := range map[string]string{
		"@" + path + ".no": "no such file",
		"@" + empty:        "is empty",
		"@" + secret:       "want a whole number",
	} {
		_, err := connect.Load(connect.Sources{Env: []string{"STEM_CONCURRENCY=" + raw}})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "STEM_CONCURRENCY") {
			t.Errorf("%s: error %v, want %q", raw, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error shows what the file holds: %v", err)
		}
	}
}

func TestLoadRefusesWrongValues(t *testing.T) {
	for name, values := range map[string][]string{
		"STEM_CONCURRENCY":                {"0", "-1", "4.5", "ten", "0x10", "+4", "1e3", " 4", "100001", "99999999999999999999"},
		"STEM_PREFETCH_MULTIPLIER":        {"0", "AUTO", "1001", "-1"},
		"STEM_DEFAULT_MAX_RETRIES":        {"-1", "many"},
		"STEM_DEFAULT_VISIBILITY_TIMEOUT": {"30", "-30s", "10ms", "0"},
		"STEM_RESULT_TTL":                 {"-1s", "1d", "forever"},
		"STEM_HEARTBEAT_INTERVAL":         {"0", "1"},
		"STEM_DEFAULT_QUEUE":              {"../x", "a b", ".", strings.Repeat("q", 101)},
		"STEM_NAMESPACE":                  {"UPPER", "a-b", "1a", "_a", strings.Repeat("n", 33)},
		"STEM_LOG_LEVEL":                  {"verbose", "INFO", "info+1"},
		"STEM_LOG_FORMAT":                 {"xml"},
		"STEM_METRIC_EXPORTERS":           {"statsd", "otlp:x", "console,console", "none,console", "prometheus,"},
	} {
		for _, v := range values {
			_, err := connect.Load(connect.Sources{Env: []string{name + "=" + v}})
			if err == nil {
				t.Errorf("%s=%q is accepted", name, v)
				continue
			}
			for _, part := range []string{name, v, "want"} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the error of %s=%q does not say %q: %v", name, v, part, err)
				}
			}
		}
	}
}

func TestLoadNamesEveryWrongValueAtOnce(t *testing.T) {
	_, err := connect.Load(connect.Sources{
		Flags: map[string]string{"STEM_BROKER_URL": ""},
		Env:   []string{"STEM_CONCURRENCY=x", "STEM_LOG_LEVEL=y"},
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, part := range []string{`--broker=""`, "STEM_CONCURRENCY", "STEM_LOG_LEVEL"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not name %s: %v", part, err)
		}
	}
}

func TestLoadWarns(t *testing.T) {
	file := write(t, ".env", "STEM_CONCURENCY=4\nOTHER=1\n")
	l, err := connect.Load(connect.Sources{
		Env: []string{
			"STEM_BROKR_URL=sqlite:x", "STEM_ZZZ=1", "STEM_TASK_ID=t1", "STEM_SIGNING_KEYS=k1:hunter2",
			"STEM_SCHEDULE_STORE_URL=redis://u:hunter2@h",
		},
		EnvFile: file,
	})
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(l.Warnings, "\n")
	for _, part := range []string{
		"STEM_BROKR_URL is no variable of Stem; the nearest is STEM_BROKER_URL",
		"STEM_ZZZ is no variable of Stem",
		"STEM_CONCURENCY (in " + file + ") is no variable of Stem; the nearest is STEM_CONCURRENCY",
		"STEM_SIGNING_KEYS is set, and this version does not use it",
		"NOT signed",
	} {
		if !strings.Contains(all, part) {
			t.Errorf("no warning says %q:\n%s", part, all)
		}
	}
	if strings.Contains(all, "STEM_TASK_ID") || strings.Contains(all, "OTHER") {
		t.Errorf("a warning of what is none of Stem's settings:\n%s", all)
	}
	for _, s := range l.Settings {
		if strings.Contains(s.Value, "hunter2") {
			t.Errorf("the setting %s shows a secret: %s", s.Name, s.Value)
		}
	}
}

func TestEnvFile(t *testing.T) {
	file := write(t, ".env", strings.Join([]string{
		"# a comment", "", "export STEM_NAMESPACE = 'shop' # why", `STEM_DEFAULT_QUEUE="a.b"`, "STEM_BROKER_URL=sqlite:my.db # here\r",
		"STEM_TASKS_CONFIG=dir#1/tasks.yaml",
	}, "\n"))
	l, err := connect.Load(connect.Sources{EnvFile: file})
	if err != nil {
		t.Fatal(err)
	}
	c := l.Config
	if c.Namespace != "shop" || c.DefaultQueue != "a.b" || c.Broker != "sqlite:my.db" || c.TasksFile != "dir#1/tasks.yaml" {
		t.Errorf("configuration: %+v", c)
	}
	for content, want := range map[string]string{
		"STEM_NAMESPACE":             "line 1: want KEY=VALUE",
		"A=1\n'x=2":                  "line 2: want KEY=VALUE",
		"A=1\n\nSTEM_NAMESPACE=\"ab": "line 3: the value of STEM_NAMESPACE has a quote that is not closed",
		"A='b' c":                    "line 1",
	} {
		_, err := connect.Load(connect.Sources{EnvFile: write(t, ".env", content)})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", content, err, want)
		}
	}
	if _, err := connect.Load(connect.Sources{EnvFile: file + ".no"}); err == nil {
		t.Error("an env file that is not there is accepted")
	}
}

func TestVariablesAreComplete(t *testing.T) {
	seen := map[string]bool{}
	for _, v := range connect.Variables() {
		if seen[v.Name] || !strings.HasPrefix(v.Name, "STEM_") || v.Meaning == "" || v.Default == "" {
			t.Errorf("row %+v", v)
		}
		if v.Later == "" && v.Form == "" {
			t.Errorf("%s has no form", v.Name)
		}
		seen[v.Name] = true
		if !strings.Contains(string(connect.Document()), "`"+v.Name+"`") {
			t.Errorf("%s is not in the documentation", v.Name)
		}
	}
}
