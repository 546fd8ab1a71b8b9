package stemcmd

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem/connect"
)

func (s *session) configCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "config",
		Short: "Prints the effective configuration, and where each value comes from",
		Long: `Prints the effective configuration, and where each value comes from: a flag, the
environment, the env file, or the default. Secrets are not shown. A wrong value is
told, and the exit code is 2.`,
		Example: `  {{stem}} config
  {{stem}} config --env-file prod.env --output json`,
		Args: noArguments,
	}
	addTasksFlag(c.Flags())
	c.RunE = s.configShow
	c.AddCommand(s.configShowCommand(), s.configValidateCommand())
	return c
}

func (s *session) configShowCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "show",
		Short:   "Prints the effective configuration: the same as config",
		Example: `  {{stem}} config show --env-file prod.env`,
		Args:    noArguments,
	}
	addTasksFlag(c.Flags())
	c.RunE = s.configShow
	return c
}

func (s *session) configShow(cmd *cobra.Command, _ []string) error {
	err := s.load(cmd)
	if s.conf == nil {
		return err
	}
	s.warn()
	if _, listErr := list(s, settingView(), one(s.conf.Settings)); listErr != nil {
		return listErr
	}
	if err == nil {
		_, err = s.apiTokens()
	}
	return err
}

func (s *session) configValidateCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "validate",
		Short: "Checks the configuration and the files that it names, without opening a store",
		Long: `Checks the configuration: every variable, the API's tokens, and the tasks file. No
store is opened. Each mistake is told, and the exit code is then 2; a variable that
nobody knows, or that this version does not use, is a warning.`,
		Example: `  {{stem}} config validate
  {{stem}} config validate --env-file prod.env --tasks tasks.yaml`,
		Args: noArguments,
	}
	addTasksFlag(c.Flags())
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		err := s.load(cmd)
		if s.conf == nil {
			return err
		}
		s.warn()
		if err != nil {
			return err
		}
		_, tokens := s.apiTokens()
		_, tasks := s.knownTasks()
		if err := errors.Join(tokens, tasks); err != nil {
			return err
		}
		if done, err := s.object(validated{OK: true, Warnings: append([]string{}, s.conf.Warnings...)}); done {
			return err
		}
		fmt.Fprintln(s.stdout, "the configuration is valid")
		return nil
	}
	return c
}

// validated is what config validate says, as JSON.
type validated struct {
	OK       bool     `json:"ok"`
	Warnings []string `json:"warnings"`
}

func settingView() view[connect.Setting] {
	type row = connect.Setting
	return view[row]{
		columns: []column[row]{
			{head: "VARIABLE", cell: func(x *row) string { return x.Name }},
			{head: "VALUE", cell: func(x *row) string { return x.Value }},
			{head: "SOURCE", cell: func(x *row) string { return x.Source }, paint: func(x *row) string {
				if !x.Set {
					return faint
				}
				return ""
			}},
		},
		name: func(x *row) string { return x.Name },
	}
}

// versionInfo is what version prints, as JSON.
type versionInfo struct {
	Name     string `json:"name"`
	Version  string `json:"version"`
	Stem     string `json:"stem,omitempty"` // of the library, in a program of its own
	Revision string `json:"revision,omitempty"`
	Modified bool   `json:"modified"` // built from files that differ from the revision
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

const modulePath = "github.com/stemjobs/stem"

// describeBuild reads what the toolchain wrote into the program.
func (s *session) describeBuild() versionInfo {
	v := versionInfo{Name: s.app.Name, Version: s.app.Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if v.Version == "" {
		v.Version = info.Main.Version
	}
	for _, m := range info.Deps {
		if m.Path == modulePath {
			v.Stem = m.Version
		}
	}
	for _, x := range info.Settings {
		switch x.Key {
		case "vcs.revision":
			v.Revision = x.Value
		case "vcs.modified":
			v.Modified = x.Value == "true"
		}
	}
	return v
}

func (s *session) versionCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "version",
		Short: "Prints the version",
		Example: `  {{stem}} version
  {{stem}} version --output json`,
		Args: noArguments,
	}
	c.RunE = s.plain(func(context.Context, []string) error {
		v := s.describeBuild()
		if v.Version == "" {
			v.Version = "(unknown)"
		}
		if done, err := s.object(v); done {
			return err
		}
		text := v.Name + " " + v.Version
		if v.Stem != "" {
			text += ", stem " + v.Stem
		}
		if v.Revision != "" {
			text += ", revision " + v.Revision[:min(len(v.Revision), 12)]
			if v.Modified {
				text += " with changes"
			}
		}
		fmt.Fprintf(s.stdout, "%s, %s, %s\n", text, v.Go, v.Platform)
		return nil
	})
	return c
}

// plain makes a command that needs no configuration.
func (s *session) plain(run do) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if err := s.checkOutput(); err != nil {
			return err
		}
		return run(cmd.Context(), args)
	}
}

func (s *session) completionCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Prints a script that completes commands, flags, tasks and queues in a shell",
		Example: `  source <({{stem}} completion bash)
  {{stem}} completion zsh > "${fpath[1]}/_{{stem}}"
  {{stem}} completion fish > ~/.config/fish/completions/{{stem}}.fish`,
		Args:                  arguments(1, 1, "bash, zsh or fish"),
		ValidArgs:             []string{"bash", "zsh", "fish"},
		DisableFlagsInUseLine: true,
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		root := cmd.Root()
		switch args[0] {
		case "bash":
			return root.GenBashCompletionV2(s.stdout, true)
		case "zsh":
			return root.GenZshCompletion(s.stdout)
		case "fish":
			return root.GenFishCompletion(s.stdout, true)
		default:
			return usage("completion for %q: want bash, zsh or fish", args[0])
		}
	}
	return c
}
