package connect_test

import (
	"slices"
	"testing"

	"github.com/stemjobs/stem/connect"
)

func TestSplitCommand(t *testing.T) {
	for line, want := range map[string][]string{
		"stem worker run":                  {"stem", "worker", "run"},
		"  a\t'b c'  \"d 'e'\" f\\ g\n":    {"a", "b c", "d 'e'", "f g"},
		`a '' "" 'x\y' "x\"y" $HOME ; é%n`: {"a", "", "", `x\y`, `x"y`, "$HOME", ";", "é%n"},
	} {
		if got, err := connect.SplitCommand(line); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q, error %v; want %q", line, got, err, want)
		}
	}
	for _, line := range []string{"", "  ", "''", "a 'b", `a "b`, `a \`} {
		if got, err := connect.SplitCommand(line); err == nil {
			t.Errorf("%q: %q, want an error", line, got)
		}
	}
}
