package main

import (
	"os"
	"strings"
	"testing"
)

// TestReadmeShowsThisProgram holds the README's program to the one that is
// compiled here.
func TestReadmeShowsThisProgram(t *testing.T) {
	source, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, program, found := strings.Cut(string(source), "\n)\n\n")
	if !found || !strings.Contains(string(readme), "```go\n"+program+"```") {
		t.Error("the README's program is not examples/quickstart/main.go")
	}
}

// TestItRuns runs it.
func TestItRuns(t *testing.T) {
	out := os.Stdout
	defer func() { os.Stdout = out }()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	os.Stdout = w
	main()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 100)
	n, err := r.Read(line)
	if got := string(line[:n]); err != nil || got != "Hello, Ada <nil>\n" {
		t.Errorf("it printed %q, %v", got, err)
	}
}
