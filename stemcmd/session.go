package stemcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/connect"
)

// session is one run of one command: what it was given, and what it opened.
type session struct {
	app    App
	p      Process
	stdout *pipe
	stderr *pipe
	env    map[string]string

	flags globalFlags
	cmd   *cobra.Command // that runs
	conf  *connect.Loaded
	log   *slog.Logger
	level slog.LevelVar // of log: a command may change a worker's

	backend *connect.Backend // of open; nil: nothing is open
	changes int              // how many things the command has changed, for the audit
	closers []func() error   // of what was opened, in order
}

// globalFlags are the flags of every command. Those that are variables too are
// kept as text, and read with the configuration.
type globalFlags struct {
	envFile string
	output  string
	noColor bool
	timeout duration
}

func newSession(app App, p Process) *session {
	s := &session{app: app, p: p, stdout: newPipe(p.Stdout), stderr: newPipe(p.Stderr), env: map[string]string{}}
	for _, kv := range p.Env {
		if key, value, ok := strings.Cut(kv, "="); ok {
			s.env[key] = value
		}
	}
	return s
}

// do is the body of a command.
type do func(ctx context.Context, args []string) error

// shortTimeout ends a command that only asks its stores.
const shortTimeout = 30 * time.Second

// short makes a command of what asks its stores and ends: after 30 seconds,
// unless --timeout says otherwise.
func (s *session) short(run do) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		limit := shortTimeout
		if cmd.Flags().Changed("timeout") {
			limit = time.Duration(s.flags.timeout)
		}
		return s.within(cmd, limit, args, run)
	}
}

// long makes a command of what waits or works: without a limit, unless
// --timeout gives one.
func (s *session) long(run do) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		return s.within(cmd, time.Duration(s.flags.timeout), args, run)
	}
}

// within loads the configuration and runs the body until it ends, the limit
// (0: none) is reached, or a signal asks to stop.
func (s *session) within(cmd *cobra.Command, limit time.Duration, args []string, run do) error {
	if err := s.load(cmd); err != nil {
		return err
	}
	s.cmd = cmd
	s.warn()
	ctx, cancel := context.WithCancelCause(cmd.Context())
	defer cancel(nil)
	if limit > 0 {
		cause := fmt.Errorf("%w after %s", errTimeout, limit)
		var stop context.CancelFunc
		ctx, stop = context.WithTimeoutCause(ctx, limit, cause)
		defer stop()
	}
	stopped := make(chan struct{})
	defer close(stopped)
	go func() {
		select {
		case <-s.p.Signals:
			cancel(errInterrupted)
		case <-stopped:
		}
	}()
	err := because(ctx, run(ctx, args))
	s.audit(ctx, args, err)
	return err
}

// load reads the configuration and makes the logger.
func (s *session) load(cmd *cobra.Command) error {
	if err := errors.Join(checkApart(cmd), s.checkOutput()); err != nil {
		return err
	}
	sources := connect.Sources{Flags: map[string]string{}, Env: s.p.Env, EnvFile: s.flags.envFile}
	for _, v := range connect.Variables() {
		if v.Flag == "" || v.Later != "" {
			continue
		}
		if f := cmd.Flags().Lookup(v.Flag); f != nil && f.Changed {
			sources.Flags[v.Name] = f.Value.String()
		}
	}
	conf, err := connect.Load(sources)
	s.conf = conf
	if err != nil {
		return &exitError{code: ExitUsage, err: err}
	}
	level := max(conf.Config.LogLevel, slog.LevelWarn)
	if conf.Config.LogLevelSet || isService(cmd) {
		level = conf.Config.LogLevel
	}
	s.level.Set(level)
	s.log = newLogger(s.stderr, &s.level, conf.Config.LogFormat, s.colour(s.p.Stderr), isTerminal(s.p.Stderr))
	return nil
}

func (s *session) checkOutput() error {
	if slices.Contains(formats(), s.flags.output) {
		return nil
	}
	return usage("--output %q: want one of %s", s.flags.output, strings.Join(formats(), ", "))
}

// isService reports whether a command runs for long and tells by its log; the
// log of the others has warnings alone unless STEM_LOG_LEVEL says otherwise.
func isService(cmd *cobra.Command) bool { return cmd.Annotations[annotationService] != "" }

const annotationService = "service"

// warn tells the warnings of the configuration.
func (s *session) warn() {
	for _, w := range s.conf.Warnings {
		if s.cmd != nil && isService(s.cmd) {
			s.log.Warn(w)
			continue
		}
		fmt.Fprintf(s.stderr, "%s: warning: %s\n", s.app.Name, clean(w))
	}
}

// changed reports whether the running command was given that flag.
func (s *session) changed(flag string) bool { return s.cmd.Flags().Changed(flag) }

// set reports whether somebody chose the variable, so that the program's own
// option gives way.
func (s *session) set(variable string) bool {
	return slices.ContainsFunc(s.conf.Settings, func(x connect.Setting) bool { return x.Name == variable && x.Set })
}

// open opens the configured stores; close closes them.
func (s *session) open(ctx context.Context, mustExist bool) (*connect.Backend, error) {
	o := s.conf.Config.Options()
	o.MustExist, o.Logger, o.Openers = mustExist, s.log, s.app.Openers
	b, err := connect.Open(ctx, o)
	if err != nil {
		return nil, err
	}
	s.backend = b
	s.closers = append(s.closers, b.Close)
	return b, nil
}

// client opens the stores for a command that looks at what is there: a store
// that is not there is an error.
func (s *session) client(ctx context.Context) (*stem.Client, error) {
	return s.clientOn(ctx, true, nil)
}

// clientOn opens the stores, and makes a client with the program's options;
// change, if there is one, has the last word.
func (s *session) clientOn(ctx context.Context, mustExist bool, change func(*stem.ClientOptions)) (*stem.Client, error) {
	b, err := s.open(ctx, mustExist)
	if err != nil {
		return nil, err
	}
	o := s.app.Client
	if o.DefaultQueue == "" || s.set("STEM_DEFAULT_QUEUE") {
		o.DefaultQueue = s.conf.Config.DefaultQueue
	}
	if o.MaxRetries == nil || s.set("STEM_DEFAULT_MAX_RETRIES") {
		o.MaxRetries = &s.conf.Config.MaxRetries
	}
	if o.Retention == 0 || s.set("STEM_RESULT_TTL") {
		o.Retention = s.conf.Config.Retention
	}
	if o.Logger == nil {
		o.Logger = s.log
	}
	if change != nil {
		change(&o)
	}
	return stem.NewClient(b, o)
}

// close closes what was opened, the newest first.
func (s *session) close() error {
	var errs []error
	for _, c := range slices.Backward(s.closers) {
		errs = append(errs, c())
	}
	s.closers = nil
	return errors.Join(errs...)
}

// where names the stores in questions to people.
func (s *session) where() string {
	c := &s.conf.Config
	text := connect.Mask(c.Broker)
	if c.Results != "" && c.Results != c.Broker {
		text += " and " + connect.Mask(c.Results)
	}
	if c.Schedules != "" && c.Schedules != c.Broker && c.Schedules != c.Results {
		text += " and " + connect.Mask(c.Schedules)
	}
	if c.Namespace != connect.DefaultNamespace {
		text += " (namespace " + c.Namespace + ")"
	}
	return text
}

// isTerminal reports whether a stream is a terminal.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// colour reports whether a stream gets colours: a terminal, unless NO_COLOR is
// set, or --no-color given.
func (s *session) colour(stream io.Writer) bool {
	return isTerminal(stream) && !s.flags.noColor && s.env["NO_COLOR"] == "" && s.env["TERM"] != "dumb"
}

// note tells something that is not data.
func (s *session) note(format string, args ...any) {
	fmt.Fprintln(s.stderr, clean(fmt.Sprintf(format, args...)))
}
