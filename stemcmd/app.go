package stemcmd

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/connect"
)

// App is a program with tasks.
type App struct {
	Name    string // of the program, as it is called; "": "stem"
	Short   string // one line that says what it is
	Version string // "": that of the build

	// Tasks are the program's own, with their handlers.
	Tasks []stem.Registration
	// Setup, if there is one, returns more of them: for handlers that need the
	// client, or what takes long to make. It is called once, before the worker
	// starts, by worker run and dev alone.
	Setup func(ctx context.Context, c *stem.Client) ([]stem.Registration, error)

	// Client and Worker are the program's own options: encoders, middleware,
	// queues. A flag or a variable that is given wins over a field here.
	Client stem.ClientOptions
	Worker stem.WorkerOptions

	// Openers open stores of other kinds, by their URLs' scheme.
	Openers map[string]connect.Opener

	// Demo adds the demo command, which shows Stem at work.
	Demo bool
}

// Process is what a command sees of the process that it runs in.
type Process struct {
	Args   []string // without the program's own name
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	Env    []string // KEY=VALUE, as os.Environ

	// Signals are those that ask to stop; nil: none come.
	Signals <-chan os.Signal
	// Executable is the path of this program, which some commands start again.
	Executable string
}

// Main runs the command that the process was started with, and returns its
// exit code, for os.Exit.
func Main(app App) int {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, stopSignals()...)
	defer signal.Stop(signals)
	ignoreBrokenPipes()
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	return Run(context.Background(), app, Process{
		Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Env: os.Environ(),
		Signals: signals, Executable: self,
	})
}

// Run runs one command and returns its exit code. It touches nothing of the
// real process but what p has, so that tests can call it.
func Run(ctx context.Context, app App, p Process) int {
	if app.Name == "" {
		app.Name = "stem"
	}
	s := newSession(app, p)
	root := s.rootCommand()
	root.SetArgs(p.Args)
	root.SetOut(s.stdout)
	root.SetErr(s.stderr)
	root.SetIn(p.Stdin)

	err := checkWords(root, p.Args)
	if err == nil {
		err = root.ExecuteContext(ctx)
	}
	err = errors.Join(err, s.close())
	return s.report(err)
}
