//go:build unix

package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/connect"
	"github.com/stemjobs/stem/internal/faultproxy"
	"github.com/stemjobs/stem/internal/redistest"
)

// storesFile has the URLs of a test's stores: of tasks, of statuses, and of
// schedules. cutFile has those of a beat that can be cut from them.
const (
	storesFile = "stores.json"
	cutFile    = "cut.json"
)

// storeURLs name a test's stores; those that are empty are the tasks'.
type storeURLs struct{ Tasks, Results, Schedules string }

func (u storeURLs) open(ctx context.Context) (*connect.Backend, *stem.Client, error) {
	return u.openLogged(ctx, nil)
}

func (u storeURLs) openLogged(ctx context.Context, log *slog.Logger) (*connect.Backend, *stem.Client, error) {
	b, err := connect.Open(ctx, connect.Options{Broker: u.Tasks, Results: u.Results, Schedules: u.Schedules, Logger: log})
	if err != nil {
		return nil, nil, err
	}
	c, err := stem.NewClient(b, stem.ClientOptions{Retention: stem.Forever})
	return b, c, err
}

// readStores reads what place.write wrote.
func readStores(dir, file string) (storeURLs, error) {
	var urls storeURLs
	raw, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return urls, err
	}
	return urls, json.Unmarshal(raw, &urls)
}

// openStores opens the stores of a test in one of its processes.
func openStores(ctx context.Context, log *slog.Logger) (*connect.Backend, *stem.Client, error) {
	urls, err := readStores(os.Getenv(dirEnv), storesFile)
	if err != nil {
		return nil, nil, err
	}
	return urls.openLogged(ctx, log)
}

// place is where a test's tasks and schedules live.
type place struct {
	urls, cut storeURLs         // cut: as a beat sees them that can be cut off; zero: none can
	proxy     *faultproxy.Proxy // between that beat and the store
	server    *redistest.Server // nil: there is none to restart
}

// write tells a test's processes where their stores are.
func (p place) write(t *testing.T, dir string) {
	t.Helper()
	for file, urls := range map[string]storeURLs{storesFile: p.urls, cutFile: p.cut} {
		raw, err := json.Marshal(urls)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// find makes a place for a test that has that directory.
type find func(t *testing.T, dir string) place

func file(dir, name string) string { return "sqlite:" + filepath.Join(dir, name) }

// places are the kinds of stores that the fault tests of schedules run on.
func places() map[string]find {
	return map[string]find{
		"SQLite": func(_ *testing.T, dir string) place {
			return place{urls: storeURLs{Tasks: file(dir, "stem.db")}}
		},
		"SQLite, two stores": func(_ *testing.T, dir string) place {
			return place{urls: storeURLs{Tasks: file(dir, "stem.db"), Schedules: file(dir, "schedules.db")}}
		},
		"Redis": func(t *testing.T, _ string) place {
			server := redistest.Start(t, redistest.Options{AOF: "always"})
			proxy := faultproxy.Start(t, server.Addr)
			return place{
				urls: storeURLs{Tasks: server.URL(0)}, cut: storeURLs{Tasks: "redis://" + proxy.Addr + "/0"},
				proxy: proxy, server: server,
			}
		},
		"Redis, two stores": func(t *testing.T, _ string) place {
			server := redistest.Start(t, redistest.Options{AOF: "always"})
			return place{urls: storeURLs{Tasks: server.URL(0), Schedules: server.URL(1)}, server: server}
		},
	}
}

// taskPlaces are those that the fault tests of tasks run on.
func taskPlaces() map[string]find {
	return map[string]find{
		"SQLite": func(_ *testing.T, dir string) place {
			return place{urls: storeURLs{Tasks: file(dir, "stem.db")}}
		},
		"Redis": func(t *testing.T, _ string) place {
			return place{urls: storeURLs{Tasks: redistest.Start(t, redistest.Options{}).URL(0)}}
		},
		"Redis, statuses in another database": func(t *testing.T, _ string) place {
			server := redistest.Start(t, redistest.Options{})
			return place{urls: storeURLs{Tasks: server.URL(0), Results: server.URL(1)}}
		},
	}
}

// everywhere runs a test side by side on each kind of store.
func everywhere(t *testing.T, test func(s *stage)) {
	t.Helper()
	kinds := taskPlaces()
	for _, name := range slices.Sorted(maps.Keys(kinds)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			test(newStage(t, dir, kinds[name](t, dir)))
		})
	}
}

// checkStores runs each store's own check.
func checkStores(ctx context.Context, b *connect.Backend) error {
	for i := range b.Stores {
		c, ok := b.Stores[i].Backend.(interface {
			Check(ctx context.Context) error
		})
		if !ok {
			return fmt.Errorf("%s has no check", b.Stores[i].URL)
		}
		if err := c.Check(ctx); err != nil {
			return fmt.Errorf("%s: %w", b.Stores[i].URL, err)
		}
	}
	return nil
}
