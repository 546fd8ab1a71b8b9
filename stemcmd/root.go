package stemcmd

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stemjobs/stem/internal/nearest"
)

// rootCommand makes the tree of commands.
func (s *session) rootCommand() *cobra.Command {
	short := s.app.Short
	if short == "" {
		short = "Runs work in the background, and shows what became of it"
	}
	root := &cobra.Command{
		Use:           s.app.Name,
		Short:         short,
		Long:          short + ".\n\n" + rootHelp,
		Example:       rootExamples,
		Version:       s.describeBuild().Version, // of --version
		SilenceErrors: true, SilenceUsage: true,
		Args: cobra.ArbitraryArgs, // checkWords has looked at them
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },

		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.SetFlagErrorFunc(flagError)
	root.SetHelpCommand(helpCommand())
	s.addGlobalFlags(root.PersistentFlags())
	root.AddCommand(
		s.devCommand(), s.serveCommand(), s.workerCommand(), s.beatCommand(), s.scheduleCommand(), s.enqueueCommand(), s.tasksCommand(), s.queueCommand(), s.dlqCommand(),
		s.observeCommand(),
		s.healthCommand(), s.doctorCommand(), s.auditCommand(), s.benchCommand(), s.configCommand(), s.versionCommand(), s.completionCommand(),
	)
	if s.app.Demo {
		root.AddCommand(s.demoCommand(), s.demoWorkerCommand())
	}
	for _, c := range root.Commands() {
		if err := c.RegisterFlagCompletionFunc("output", fixed(formats()...)); err != nil {
			continue // every command inherits the flag
		}
	}
	root.InitDefaultHelpCmd() // so that it is among the commands
	nameExamples(root, s.app.Name)
	return root
}

const rootHelp = `Where tasks live is said by --broker or STEM_BROKER_URL, such as sqlite:stem.db.

Data goes to standard output, everything else to standard error. Exit codes:
  0  done
  1  failed
  2  wrong usage, configuration or input
  3  a backend cannot be reached or opened
  4  not found
  5  refused, or not confirmed
  6  partly done`

const rootExamples = `  {{stem}} dev
  {{stem}} enqueue email.send --args '{"to":"a@example.com"}' --broker sqlite:stem.db
  {{stem}} tasks ls state:failed
  {{stem}} dlq replay --queue default --limit 10 --dry-run`

func (s *session) addGlobalFlags(f *pflag.FlagSet) {
	f.String("broker", "", "`URL` of the store of tasks (STEM_BROKER_URL)")
	f.String("backend", "", "`URL` of the store of statuses; default: the broker's (STEM_RESULT_BACKEND_URL)")
	f.String("schedules", "", "`URL` of the store of schedules; default: the broker's (STEM_SCHEDULE_STORE_URL)")
	f.String("namespace", "", "`NAME` under which everything lives; default: stem (STEM_NAMESPACE)")
	f.StringVar(&s.flags.envFile, "env-file", "", "`FILE` of KEY=VALUE lines, weaker than the environment")
	f.StringVarP(&s.flags.output, "output", "o", asTable, "`FORMAT`: table, wide, json, jsonl or name")
	f.BoolP("help", "h", false, "show this help") // cobra finds it too late for "stem --help dlq"
	f.BoolVar(&s.flags.noColor, "no-color", false, "no colours, as NO_COLOR does")
	f.Var(&s.flags.timeout, "timeout", "give up after this long; default: 30s where a command only asks, never where it waits or works")
}

// nameExamples puts the program's own name into the examples. A command that
// only holds others shows the first example of each of them.
func nameExamples(c *cobra.Command, name string) {
	var first []string
	for _, sub := range c.Commands() {
		nameExamples(sub, name)
		if line, _, _ := strings.Cut(sub.Example, "\n"); line != "" && sub.IsAvailableCommand() {
			first = append(first, line)
		}
	}
	if c.Example == "" {
		c.Example = strings.Join(first, "\n")
	}
	c.Example = strings.ReplaceAll(c.Example, "{{stem}}", name)
}

// group makes a command that only holds others.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs}
	c.AddCommand(subs...)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		return usage("%s needs a command: %s", path(cmd), strings.Join(words(cmd), ", ")).
			hinted("See %s --help", cmd.CommandPath())
	}
	return c
}

// path names a command in messages that begin with the program's name.
func path(cmd *cobra.Command) string {
	return strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" ")
}

// words lists the names of a command's subcommands.
func words(c *cobra.Command) []string {
	var names []string
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	return names
}

// checkWords refuses an unknown command before its flags are looked at, with
// the nearest one there is.
func checkWords(root *cobra.Command, args []string) error {
	root.InitDefaultHelpCmd()
	cmd, rest, err := root.Find(args)
	if err != nil || !cmd.HasSubCommands() {
		return err
	}
	word := firstWord(cmd, rest)
	if word == "" || strings.HasPrefix(word, "__complete") {
		return nil
	}
	full := strings.TrimPrefix(cmd.CommandPath()+" "+word, root.Name()+" ")
	e := usage("unknown command %q: want one of %s", full, strings.Join(words(cmd), ", "))
	if n := nearest.Word(word, words(cmd)); n != "" {
		e = usage("unknown command %q: did you mean %s?", full, n)
	}
	return e.hinted("See %s --help", cmd.CommandPath())
}

// firstWord returns the first argument that is no flag, nor a flag's value.
func firstWord(cmd *cobra.Command, args []string) string {
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "--":
			return ""
		case !strings.HasPrefix(a, "-"):
			return a
		case strings.Contains(a, "="):
		default:
			name := strings.TrimLeft(a, "-")
			f := cmd.InheritedFlags().Lookup(name)
			if f == nil {
				f = cmd.Flags().Lookup(name)
			}
			if f == nil && len(name) == 1 {
				f = cmd.InheritedFlags().ShorthandLookup(name)
			}
			if f != nil && f.NoOptDefVal == "" {
				i++ // its value
			}
		}
	}
	return ""
}

// flagError makes an error of the command line of what the flag parser says,
// with the nearest flag there is.
func flagError(cmd *cobra.Command, err error) error {
	e := usage("%w", err)
	var unknown *pflag.NotExistError
	var wrong *pflag.InvalidValueError
	switch {
	case errors.As(err, &unknown):
		e = usage("unknown flag --%s", unknown.GetSpecifiedName())
		if n := nearest.Word(unknown.GetSpecifiedName(), flagNames(cmd)); n != "" {
			e = usage("unknown flag --%s: did you mean --%s?", unknown.GetSpecifiedName(), n)
		}
	case errors.As(err, &wrong):
		e = usage("--%s %q: %w", wrong.GetFlag().Name, wrong.GetValue(), errors.Unwrap(wrong))
	}
	return e.hinted("See %s --help", cmd.CommandPath())
}

func flagNames(cmd *cobra.Command) []string {
	var names []string
	add := func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	}
	cmd.Flags().VisitAll(add)
	cmd.InheritedFlags().VisitAll(add)
	return names
}

// annotationApart lists groups of flags that exclude the first of them.
const annotationApart = "apart"

// notTogether refuses a flag beside each of the others.
func notTogether(c *cobra.Command, flag string, others ...string) {
	if c.Annotations == nil {
		c.Annotations = map[string]string{}
	}
	for _, other := range others {
		c.Annotations[annotationApart] += flag + " " + other + ";"
	}
}

// checkApart refuses flags that were given together and must not.
func checkApart(cmd *cobra.Command) error {
	for pair := range strings.SplitSeq(cmd.Annotations[annotationApart], ";") {
		a, b, _ := strings.Cut(pair, " ")
		if b != "" && cmd.Flags().Changed(a) && cmd.Flags().Changed(b) {
			return usage("--%s and --%s exclude each other", a, b).hinted("See %s --help", cmd.CommandPath())
		}
	}
	return nil
}

// arguments checks how many there are; what names them.
func arguments(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usage("%s needs %s", path(cmd), what).hinted("See %s --help", cmd.CommandPath())
		case most >= 0 && len(args) > most:
			return usage("%s: %q is one argument too many: want %s", path(cmd), args[most], what).
				hinted("See %s --help", cmd.CommandPath())
		}
		return nil
	}
}

// noArguments refuses all.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage("%s takes no arguments, and was given %q", path(cmd), args[0]).
			hinted("See %s --help", cmd.CommandPath())
	}
	return nil
}

// helpCommand is cobra's, but an unknown topic is an error.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "Shows the help of a command",
		Example: "  {{stem}} help dlq replay",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkWords(cmd.Root(), args); err != nil {
				return err
			}
			found, _, err := cmd.Root().Find(args)
			if err != nil {
				return fmt.Errorf("find the help: %w", err)
			}
			return found.Help()
		},
	}
}

// fixed completes from a fixed list.
func fixed(values ...string) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return values, cobra.ShellCompDirectiveNoFileComp
	}
}
