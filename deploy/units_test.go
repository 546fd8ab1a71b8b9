package deploy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stemjobs/stem/connect"
)

// unit are the settings of a unit by their name, in their order.
type unit map[string][]string

func readUnit(t *testing.T, path string) unit {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	u := unit{}
	for line := range strings.Lines(string(text)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok && !strings.HasPrefix(key, "#") {
			u[key] = append(u[key], value)
		}
	}
	return u
}

func (u unit) one(t *testing.T, key string) string {
	t.Helper()
	if len(u[key]) != 1 {
		t.Fatalf("%s is there %d times", key, len(u[key]))
	}
	return u[key][0]
}

// TestUnits: systemd understands them, finds them well locked up, and waits
// longer for a stop than the program may take.
func TestUnits(t *testing.T) {
	paths, err := filepath.Glob("systemd/*.service")
	if err != nil || len(paths) != 3 {
		t.Fatal(paths, err)
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "stem") // systemd wants it to be there
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	var copies []string
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		copied := filepath.Join(dir, filepath.Base(path))
		if err := os.WriteFile(copied, []byte(strings.ReplaceAll(string(text), "/usr/local/bin/stem ", program+" ")), 0o600); err != nil {
			t.Fatal(err)
		}
		copies = append(copies, copied)
	}
	said := tool(t, "systemd", "systemd-analyze", append([]string{"verify", "--man=no"}, copies...)...)
	for line := range strings.Lines(said) {
		if strings.Contains(line, dir) { // not what it says of this machine's own units
			t.Error(strings.TrimSpace(line))
		}
	}
	for _, path := range copies {
		tool(t, "systemd", "systemd-analyze", "security", "--offline=true", "--threshold=20", path)
	}
}

func TestUnitsStopAndStart(t *testing.T) {
	for _, name := range []string{"stem-worker@", "stem-beat", "stem-api"} {
		t.Run(name, func(t *testing.T) {
			u := readUnit(t, "systemd/"+name+".service")
			line := u.one(t, "ExecStart")
			for _, assignment := range u["Environment"] {
				key, value, _ := strings.Cut(strings.Trim(assignment, `"`), "=")
				line = strings.ReplaceAll(line, "$"+key, value)
				if strings.HasPrefix(key, "STEM_") {
					checkVariable(t, name, key)
				}
			}
			args := words(strings.NewReplacer("%i", "1", "%H", "host").Replace(line))
			checkCommand(t, name, args[1:])
			lasts := stopTime(t, args)
			var stop int
			if _, err := fmt.Sscan(u.one(t, "TimeoutStopSec"), &stop); err != nil || time.Duration(stop)*time.Second < lasts+5*time.Second {
				t.Errorf("systemd waits %d s for a stop that may take %s", stop, lasts)
			}
			if u.one(t, "Type") != "notify" || u.one(t, "KillMode") != "mixed" || u.one(t, "User") != "stem" || u.one(t, "Restart") != "always" {
				t.Error("not of type notify, or not restarted, or not as stem")
			}
		})
	}
	text, err := os.ReadFile("systemd/stem.env")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range variableName.FindAllString(string(text), -1) {
		checkVariable(t, "stem.env", name)
	}
}

var variableName = regexp.MustCompile(`\bSTEM_[A-Z_]+\b`)

// checkVariable: this version reads it.
func checkVariable(t *testing.T, where, name string) {
	t.Helper()
	for _, v := range connect.Variables() {
		if v.Name == name && v.Later == "" {
			return
		}
	}
	t.Errorf("%s: nothing reads %s", where, name)
}

// stopTime is how long a process with this command line may take to stop.
func stopTime(t *testing.T, args []string) time.Duration {
	t.Helper()
	var sum time.Duration
	for i, a := range args[:len(args)-1] {
		if a == "--grace" || a == "--drain-delay" {
			d, err := time.ParseDuration(args[i+1])
			if err != nil {
				t.Fatal(err)
			}
			sum += d
		}
	}
	return sum
}
