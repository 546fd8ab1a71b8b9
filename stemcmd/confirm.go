package stemcmd

import (
	"context"
	"fmt"
	"strings"
)

// plan is what a command is about to do to many things at once.
type plan struct {
	verb   string // "Purge"
	count  int
	thing  string // "dead letter"
	filter string // which of them
}

// String is the plan as a sentence without its end.
func (p plan) String() string {
	text := p.verb + " " + several(p.count, p.thing)
	if p.filter != "" {
		text += " (" + p.filter + ")"
	}
	return text
}

// several counts things.
func several(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// confirm returns nil when yes was given, or when a person at a terminal says
// yes to the plan. Elsewhere there is nobody to ask, and --yes it must be: a
// format of output never means yes.
func (s *session) confirm(ctx context.Context, p plan, yes bool) error {
	if yes {
		return nil
	}
	if !isTerminal(s.p.Stdin) || !isTerminal(s.p.Stderr) {
		return fail(ExitRefused, "%s of %s: not confirmed, and there is no terminal to ask", p, s.where()).
			hinted("Add --yes to do it, or --dry-run to see what it would do")
	}
	fmt.Fprintf(s.stderr, "%s of %s? [y/N] ", clean(p.String()), clean(s.where()))
	answer, err := readLine(ctx, s.p.Stdin)
	if err != nil {
		return err
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	default:
		return fail(ExitRefused, "not confirmed: nothing was changed")
	}
}
