package exectask

import (
	"fmt"
	"strings"
	"time"
)

// Command is a command line with its environment.
type Command struct {
	// OpenValues lets arguments of a task that begin with - or @ into the
	// command line everywhere, and not only after a word "--".
	OpenValues bool
	Pass       []string          // environment variables to hand on
	Set        map[string]string // environment variables to set
	// HardTimeout is the time that an execution has; it is enforced by the
	// context and says here how long a command may take to end after a soft
	// time limit. 0: none.
	HardTimeout time.Duration
	Running     *Running // where its executions are kept while they run; nil: nowhere

	words []argument
	ended bool // a word "--" has ended the options
}

// Add appends a word to the command line. The first is the program. In the
// others {{.name}} stands for the task's argument of that name.
func (c *Command) Add(word string) error {
	a, err := parseArgument(word)
	if err != nil {
		return err
	}
	text, fixed := a.fixed()
	if len(c.words) == 0 && (!fixed || strings.TrimSpace(text) == "") {
		return fmt.Errorf("the program is %q: want a name or a path without {{}}", word)
	}
	a.open = c.OpenValues || c.ended
	c.ended = c.ended || len(c.words) > 0 && fixed && text == "--"
	c.words = append(c.words, a)
	return nil
}
