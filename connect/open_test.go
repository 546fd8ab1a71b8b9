package connect_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/connect"
)

func TestMask(t *testing.T) {
	for raw, want := range map[string]string{
		"sqlite:stem.db":                                "sqlite:stem.db",
		"sqlite:/abs/p@th.db?synchronous=normal":        "sqlite:/abs/p@th.db?synchronous=normal",
		"memory:":                                       "memory:",
		"redis://user:hunter2@host:6379/0":              "redis://user:***@host:6379/0",
		"redis://:hunter2@host":                         "redis://:***@host",
		"nats://hunter2@host":                           "nats://***@host",
		"postgres://u:hunter2@h/db?sslmode=require":     "postgres://u:***@h/db?sslmode=require",
		"postgres://h/db?user=u&password=hunter2&x=1":   "postgres://h/db?user=u&password=***&x=1",
		"redis://user:hunter2#/%zz@host":                "redis:***",
		"user:hunter2@host:6379":                        "user:***",
		"postgres://u:p%40hunter2@h/db":                 "postgres://u:***@h/db",
		"hunter":                                        "hunter",
		"":                                              "",
		"redis+sentinel://u:hunter2@h1:1,h2:2/master/0": "redis+sentinel://u:***@h1:1,h2:2/master/0",
	} {
		got := connect.Mask(raw)
		if strings.Contains(got, "hunter2") {
			t.Errorf("Mask(%q) = %q shows the secret", raw, got)
		}
		if got != want {
			t.Errorf("Mask(%q) = %q, want %q", raw, got, want)
		}
	}
}

func TestOpenSharesOneStore(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	path := filepath.Join(dir, "stem.db")
	b, err := connect.Open(ctx, connect.Options{Broker: "sqlite:" + path, Results: "sqlite://" + dir + "/./stem.db"})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if len(b.Stores) != 1 || len(b.Stores[0].Roles) != 3 || b.Stores[0].URL != "sqlite:"+path {
		t.Errorf("stores: %+v", b.Stores)
	}
	if _, err := stem.NewClient(b, stem.ClientOptions{}); err != nil {
		t.Error(err)
	}
}

func TestOpenTwoStores(t *testing.T) {
	ctx := context.Background()
	b, err := connect.Open(ctx, connect.Options{Broker: "memory:", Results: "sqlite:" + filepath.Join(t.TempDir(), "results.db")})
	if err != nil {
		t.Fatal(err)
	}
	if len(b.Stores) != 2 {
		t.Errorf("stores: %+v", b.Stores)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// TestOpenSchedules: schedules live with the tasks, or in a store of their own.
func TestOpenSchedules(t *testing.T) {
	ctx := context.Background()
	for _, url := range []string{"", "memory:", "sqlite:" + filepath.Join(t.TempDir(), "schedules.db")} {
		b, err := connect.Open(ctx, connect.Options{Broker: "memory:", Schedules: url})
		if err != nil {
			t.Fatal(err)
		}
		want := 1
		if strings.HasPrefix(url, "sqlite:") {
			want = 2
		}
		last := b.Stores[len(b.Stores)-1]
		if len(b.Stores) != want || last.Roles[len(last.Roles)-1] != "schedules" {
			t.Errorf("%q: stores: %+v", url, b.Stores)
		}
		if want == 1 && (b.Schedules() == nil || b.Locks() == nil) {
			t.Errorf("%q: no schedules", url)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestOpenRefusesURLs(t *testing.T) {
	for raw, want := range map[string]string{
		"":                               "no store is named",
		"stem.db":                        "one of memory:, redis://localhost:6379/0, sqlite:stem.db",
		"sqlit:stem.db":                  "sqlite:stem.db?",
		"nats://u:hunter2@h":             "nats comes in a later version",
		"postgres://u:hunter2@h/db":      "postgres comes in a later version",
		"nats://h":                       "nats comes in a later version",
		"mysql://root:hunter2@h":         "one of memory:, redis://localhost:6379/0, sqlite:stem.db, toy:…",
		"memory:x":                       "memory: alone",
		"sqlite:":                        "the path is missing",
		"sqlite::memory:":                "say memory:",
		"sqlite://stem.db":               "leave out the //",
		"sqlite:a%zz.db":                 "%25",
		"sqlite:a.db?synchronous=off":    `not "off"`,
		"sqlite:a.db?mode=ro":            `"mode" is no option`,
		"sqlite:a.db?synchronous=normal": "the same options",
	} {
		_, err := connect.Open(context.Background(), connect.Options{
			Broker: raw, Results: map[bool]string{true: "sqlite:a.db"}[strings.HasSuffix(raw, "normal")],
			Openers: map[string]connect.Opener{"toy": nil},
		})
		var wrong *connect.URLError
		if !errors.As(err, &wrong) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", raw, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error shows the secret: %v", err)
		}
	}
}

func TestOpenRefusesPlaces(t *testing.T) {
	dir := t.TempDir()
	note := filepath.Join(dir, "note.txt")
	if err := os.WriteFile(note, []byte(strings.Repeat("this is no database\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, raw := range []string{"sqlite:" + dir, "sqlite:" + note, "sqlite:" + filepath.Join(dir, "no", "stem.db")} {
		_, err := connect.Open(context.Background(), connect.Options{Broker: raw})
		var open *connect.OpenError
		if !errors.As(err, &open) || !strings.Contains(err.Error(), raw) {
			t.Errorf("%s: error %v", raw, err)
		}
	}
	missing := filepath.Join(dir, "missing.db")
	if _, err := connect.Open(context.Background(), connect.Options{Broker: "sqlite:" + missing, MustExist: true}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that must exist: %v", err)
	}
	if _, err := os.Stat(missing); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a command that only looks made the file")
	}
}

func TestOpenUsesOpeners(t *testing.T) {
	var asked []string
	openers := map[string]connect.Opener{"toy": func(_ context.Context, raw string, o connect.Options) (stem.Backend, error) {
		if o.Logger == nil || o.Namespace != "shop" {
			t.Errorf("options: %+v", o)
		}
		asked = append(asked, raw)
		return memory.New(), nil
	}}
	b, err := connect.Open(context.Background(), connect.Options{Broker: "toy:a", Namespace: "shop", Openers: openers})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if len(asked) != 1 || asked[0] != "toy:a" {
		t.Errorf("asked %q", asked)
	}
}
