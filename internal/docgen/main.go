// Command docgen writes the pages of docs/ that come from the code, so that
// they say what is true:
//
//	go run ./internal/docgen
//
// Its test fails while a page is not what the code says. A new page is a line
// in pages, with the function that makes it beside the code it describes.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/stemjobs/stem/connect"
	"github.com/stemjobs/stem/stemcmd"
)

// page is one generated file.
type page struct {
	path string // from the root of the module
	make func() ([]byte, error)
}

// pages lists what is generated.
func pages() []page {
	return []page{
		{"docs/metrics.md", whole(metricsPage)},
		{"docs/backends.md", backendsPage},
		{"docs/configuration.md", whole(connect.Document)},
		{"docs/cli.md", whole(stemcmd.Document)},
	}
}

// whole adapts a page that cannot fail.
func whole(f func() []byte) func() ([]byte, error) {
	return func() ([]byte, error) { return f(), nil }
}

func main() {
	if err := write("."); err != nil {
		fmt.Fprintln(os.Stderr, "docgen:", err)
		os.Exit(1)
	}
}

// write makes every page under root, and says which have changed.
func write(root string) error {
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil {
		return fmt.Errorf("run it in the root of the module: %w", err)
	}
	for _, p := range pages() {
		content, err := p.make()
		if err != nil {
			return fmt.Errorf("make %s: %w", p.path, err)
		}
		file := filepath.Join(root, filepath.FromSlash(p.path))
		old, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err == nil && bytes.Equal(old, content) {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, content, 0o644); err != nil {
			return err
		}
		fmt.Println("wrote", p.path)
	}
	return nil
}
