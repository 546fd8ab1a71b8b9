package weight

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const self = "github.com/stemjobs/stem"

// What the binary may weigh. Raising one of these is a decision: say why in
// the commit.
const (
	maxModules = 36       // the last of them for OpenTelemetry, which observe/otel alone needs
	maxBinary  = 28 << 20 // bytes, stripped
)

const root = "../.."

// lookAtSources reads the module's directories. The go command keeps a passed
// test's result until a file that the test looked at has changed, and it does
// not see what the go commands below look at.
func lookAtSources(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && (d.Name() == ".git" || d.Name() == "bin") {
			return fs.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// goCommand runs the go command in the module's root.
func goCommand(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	return string(out)
}

// dependencies lists what a package needs beside the standard library and
// itself: packages of this module by their path within it, and the other
// modules.
func dependencies(t *testing.T, pkg string) (rooms, modules []string) {
	t.Helper()
	path := self
	if pkg != "." {
		path += "/" + pkg
	}
	out := goCommand(t, "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}} {{.Module.Path}}{{end}}", path)
	for line := range strings.Lines(out) {
		dep, module, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case dep == path || dep == "":
		case module != self:
			modules = append(modules, module)
		case dep == self:
			rooms = append(rooms, ".")
		default:
			rooms = append(rooms, strings.TrimPrefix(dep, self+"/"))
		}
	}
	slices.Sort(modules)
	return rooms, slices.Compact(modules)
}

// TestLightRooms holds the packages that programs import to what they may
// bring along, with all that their imports import.
func TestLightRooms(t *testing.T) {
	lookAtSources(t)
	const uuid = "github.com/google/uuid"
	contracts := []string{"task", "broker", "store"}
	tests := []struct {
		pkg     string
		rooms   []string
		modules []string
	}{
		{"task", nil, []string{uuid}},
		{"measure", nil, nil},
		{"schedule", nil, nil},
		{"broker", []string{"task"}, []string{uuid}},
		{"store", []string{"task", "broker"}, []string{uuid}},
		{"encode/gzip", []string{"task", "encode"}, []string{uuid}},
		{"internal/coalesce", nil, nil},
		{"internal/fingerprint", nil, nil},
		{"internal/runner", append([]string{"measure"}, contracts...), []string{uuid}},
		{"internal/pair", append([]string{"measure"}, contracts...), []string{uuid}},
		{"internal/ledger", contracts, []string{uuid}},
		{"backend/memory", append([]string{"internal/ledger"}, contracts...), []string{uuid}},
		{"backend/sqlite", append([]string{"internal/ledger"}, contracts...), []string{
			uuid, "github.com/ncruces/go-sqlite3", "github.com/ncruces/go-sqlite3-wasm/v6",
			"github.com/ncruces/julianday", "github.com/gofrs/flock", "golang.org/x/sys",
		}},
		{"backend/redis", append([]string{"internal/ledger"}, contracts...), []string{uuid, "github.com/redis/rueidis", "golang.org/x/sys"}},
		{".", append([]string{"measure", "encode", "internal/coalesce", "internal/fingerprint", "internal/pair", "internal/runner"}, contracts...), []string{uuid}},
		{"observe", append([]string{"measure"}, contracts...), []string{uuid}},
		{"observe/admin", nil, nil},
		{"observe/systemd", nil, nil},
	}
	for _, tt := range tests {
		t.Run(strings.ReplaceAll(tt.pkg, "/", "_"), func(t *testing.T) {
			rooms, modules := dependencies(t, tt.pkg)
			for _, r := range rooms {
				if !slices.Contains(tt.rooms, r) {
					t.Errorf("%s depends on %s, which it may not", tt.pkg, r)
				}
			}
			for _, m := range modules {
				if !slices.Contains(tt.modules, m) {
					t.Errorf("%s brings the module %s along", tt.pkg, m)
				}
			}
		})
	}
}

func TestTheBinaryStaysSmall(t *testing.T) {
	lookAtSources(t)
	_, modules := dependencies(t, "cmd/stem")
	if len(modules) > maxModules {
		t.Errorf("cmd/stem has %d modules, at most %d:\n%s", len(modules), maxModules, strings.Join(modules, "\n"))
	}

	file := filepath.Join(t.TempDir(), "stem")
	goCommand(t, "build", "-ldflags", "-s -w", "-o", file, "./cmd/stem")
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > maxBinary {
		t.Errorf("the binary has %d MiB, at most %d", info.Size()>>20, maxBinary>>20)
	}
	t.Logf("%d modules, %.1f MiB", len(modules), float64(info.Size())/(1<<20))
}
