package demo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/stemjobs/stem"
)

// File is the argument of Digest.
type File struct {
	Path string `json:"path"`
}

// Summary is its result.
type Summary struct {
	SHA256 string `json:"sha256"`
	Bytes  int    `json:"bytes"`
	Lines  int    `json:"lines"`

	Redelivered bool `json:"redelivered,omitempty"` // an earlier worker was lost with it
}

// Digest is the demo's task.
var Digest = stem.NewTask[File, Summary]("demo.digest")

// digest is its handler.
func digest(ctx context.Context, f File) (Summary, error) {
	s, err := summarize(f.Path)
	if err != nil {
		return s, stem.Permanent(err)
	}
	s.Redelivered = stem.Current(ctx).Redelivered()
	return s, nil
}

func summarize(path string) (Summary, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Summary{}, err
	}
	sum := sha256.Sum256(data)
	return Summary{SHA256: hex.EncodeToString(sum[:]), Bytes: len(data), Lines: bytes.Count(data, []byte("\n"))}, nil
}

// listFiles returns the regular files under dir, or under the Go toolchain's
// src.
func listFiles(ctx context.Context, dir string) ([]string, error) {
	if dir == "" {
		out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
		if err != nil {
			return nil, fmt.Errorf("find the Go toolchain's sources: %w; choose a directory with --dir", err)
		}
		dir = filepath.Join(strings.TrimSpace(string(out)), "src")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find the files: %w", err)
	}
	var files []string
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrPermission) && path != dir {
			return nil
		}
		if err == nil && e.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("find the files: %w", err)
	}
	return files, nil
}
