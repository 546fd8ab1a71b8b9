package stemcmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem/connect"
	"github.com/stemjobs/stem/task"
)

// multiFlags are the flags of worker multi.
type multiFlags struct {
	pid, log string
	mode     string
	grace    duration
}

const multiHelp = `
%n in a template is the worker's name, %h this host's, %d its domain, %I the number at
the end of the worker's name or else its place among the names, %% a percent sign.`

func (s *session) workerMultiCommand() *cobra.Command {
	f := &multiFlags{grace: duration(multiGrace)}
	c := group("multi", "Starts, stops and restarts several workers of this host, by name",
		s.multiCommand(f, "start", "Starts workers in the background",
			"Starts workers in the background, each with a file of its process id and a log. The\n"+
				"command is STEM_WORKER_COMMAND, or this program's own worker run with the name as\n"+
				"its id. One that runs already is left alone.",
			`  {{stem}} worker multi start w1 w2
  STEM_WORKER_COMMAND='{{stem}} worker run --id %n --queues critical' {{stem}} worker multi start web-1
  {{stem}} worker multi start w1 w2 --pid-file /run/stem/%n.pid --log-file /var/log/stem/%n.log`, s.multiStart),
		s.multiCommand(f, "stop", "Stops workers, and waits until they have ended",
			"Stops workers, all at once, and waits until they have ended. A warm stop finishes what\n"+
				"runs and gives back the rest. The exit code is 6 when one does not end within --grace.",
			`  {{stem}} worker multi stop w1 w2
  {{stem}} worker multi stop w1 --mode soft`, s.multiStop),
		s.multiCommand(f, "restart", "Restarts workers one after the other, without losing a task",
			"Restarts workers one after the other: each finishes what runs, gives back the rest to\n"+
				"the others, and starts anew. One that does not end within --grace is not started\n"+
				"twice; those after it stay as they are, and the exit code is 6.",
			`  {{stem}} worker multi restart w1 w2 w3`, s.multiRestart),
		s.multiCommand(f, "status", "Tells which workers run",
			"Tells which workers run, by their process ids. The exit code is 1 when one does not.",
			`  {{stem}} worker multi status w1 w2
  {{stem}} worker multi status w1 w2 --output json`, s.multiStatus),
	)
	return c
}

// multiGrace is how long a stop may take: a worker's own grace, and a little.
const multiGrace = 30 * time.Second

func (s *session) multiCommand(f *multiFlags, verb, short, long, example string, run func(context.Context, *multiFlags, []node) error) *cobra.Command {
	c := &cobra.Command{
		Use: verb + " NAME...", Short: short, Long: long + multiHelp, Example: example,
		Args: arguments(1, -1, "the NAME of a worker"),
	}
	c.Flags().StringVar(&f.pid, "pid-file", "%n.pid", "`TEMPLATE` of the file of a process id")
	c.Flags().StringVar(&f.log, "log-file", "%n.log", "`TEMPLATE` of the file of a log, which is appended to")
	if verb == "stop" || verb == "restart" {
		c.Flags().StringVar(&f.mode, "mode", "warm", "`MODE` of the stop: warm, soft or hard")
		c.Flags().Var(&f.grace, "grace", "how long a worker may take to end")
	}
	c.RunE = s.long(func(ctx context.Context, args []string) error {
		nodes, err := f.nodes(args)
		if err != nil {
			return err
		}
		if _, ok := stopSignal(f.mode); !ok && f.mode != "" {
			return usage("--mode %q: want warm, soft or hard", f.mode)
		}
		return run(ctx, f, nodes)
	})
	return c
}

// node is one worker of this host, as JSON.
type node struct {
	Name    string `json:"name"`
	State   string `json:"state"` // running, started, stopped, failed, or "still running"
	PID     int    `json:"pid,omitempty"`
	PIDFile string `json:"pidFile"`
	LogFile string `json:"logFile"`
	Detail  string `json:"detail,omitempty"`

	place int
}

// nodes expands the templates for each name.
func (f *multiFlags) nodes(names []string) ([]node, error) {
	var out []node
	for i, name := range names {
		if err := task.ValidateID(name); err != nil {
			return nil, usage("name of a worker: %q: want 1–128 of A-Z a-z 0-9 ._:-", name)
		}
		n := node{Name: name, place: i + 1}
		var err error
		if n.PIDFile, err = n.expand(f.pid); err != nil {
			return nil, usage("--pid-file: %w", err)
		}
		if n.LogFile, err = n.expand(f.log); err != nil {
			return nil, usage("--log-file: %w", err)
		}
		if slices.ContainsFunc(out, func(o node) bool { return o.PIDFile == n.PIDFile }) {
			return nil, usage("workers would share the file %s: put %%n into --pid-file, and name each once", n.PIDFile)
		}
		out = append(out, n)
	}
	return out, nil
}

// expand fills in a template.
func (n *node) expand(template string) (string, error) {
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("ask for this host's name: %w", err)
	}
	_, domain, _ := strings.Cut(host, ".")
	number := n.Name[len(strings.TrimRight(n.Name, "0123456789")):]
	if number == "" {
		number = strconv.Itoa(n.place)
	}
	var b strings.Builder
	for i := 0; i < len(template); i++ {
		if template[i] != '%' {
			b.WriteByte(template[i])
			continue
		}
		if i++; i == len(template) {
			return "", fmt.Errorf("template %q ends with a %%: a percent sign is %%%%", template)
		}
		word, ok := map[byte]string{'n': n.Name, 'h': host, 'd': domain, 'I': number, '%': "%"}[template[i]]
		if !ok {
			return "", fmt.Errorf("template %q has %%%c: want %%n, %%h, %%d, %%I or %%%%", template, template[i])
		}
		b.WriteString(word)
	}
	return b.String(), nil
}

// look finds out whether the worker runs.
func (n *node) look() {
	n.State, n.PID, n.Detail = stateStopped, 0, ""
	info, err := os.Stat(n.PIDFile)
	if err != nil {
		return
	}
	pid, err := readPID(n.PIDFile)
	switch {
	case err != nil:
		n.Detail = err.Error()
	case !runs(pid) || bornAfter(pid, info.ModTime()):
		n.Detail = fmt.Sprintf("process %d died without a word", pid)
	default:
		n.State, n.PID = "running", pid
	}
}

// runs reports whether a process is there and has not ended: one whose end
// nobody has taken note of is still there.
func runs(pid int) bool {
	if !processLives(pid) {
		return false
	}
	f := processStat(pid)
	return len(f) == 0 || f[0] != "Z"
}

// bornAfter reports whether a process began after the file of its id was written:
// then it is another one, that got the same number.
func bornAfter(pid int, written time.Time) bool {
	const startTicks, ticks = 19, 100 // after the name; a second, on every Linux
	f := processStat(pid)
	if len(f) <= startTicks {
		return false
	}
	n, err := strconv.ParseInt(f[startTicks], 10, 64)
	uptime, e := os.ReadFile("/proc/uptime")
	text, _, _ := strings.Cut(string(uptime), " ")
	up, e2 := strconv.ParseFloat(text, 64)
	if errors.Join(err, e, e2) != nil {
		return false
	}
	age := time.Duration((up - float64(n)/ticks) * float64(time.Second))
	return time.Now().Add(-age).After(written.Add(2 * time.Second))
}

// processStat is what Linux tells of a process, from its state on; elsewhere
// nothing.
func processStat(pid int) []string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	return strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
}

// workerCommand is the command line of a worker.
func (s *session) workerCommandLine(n *node) ([]string, error) {
	if s.conf.Config.WorkerCommand == "" {
		line := []string{s.p.Executable, "worker", "run", "--id", n.Name}
		if s.flags.envFile != "" {
			line = append(line, "--env-file", s.flags.envFile)
		}
		return line, nil
	}
	words, err := connect.SplitCommand(s.conf.Config.WorkerCommand)
	if err != nil {
		return nil, usage("STEM_WORKER_COMMAND: %w", err)
	}
	for i := range words {
		if words[i], err = n.expand(words[i]); err != nil {
			return nil, usage("STEM_WORKER_COMMAND: %w", err)
		}
	}
	return words, nil
}

// environment is this process's, with what was said by flags.
func (s *session) environment() []string {
	env := slices.Clone(s.p.Env)
	for _, v := range connect.Variables() {
		if f := s.cmd.Flags().Lookup(v.Flag); v.Flag != "" && f != nil && f.Changed {
			env = append(env, v.Name+"="+f.Value.String())
		}
	}
	return env
}

// settleTime is how long a worker is watched after its start: one whose
// configuration is wrong ends within it.
const settleTime = 500 * time.Millisecond

// launch starts the worker, apart from this process and its terminal.
func (s *session) launch(ctx context.Context, n *node) error {
	line, err := s.workerCommandLine(n)
	if err != nil {
		return err
	}
	fail := func(err error) error {
		n.State, n.Detail = "failed", err.Error()
		return nil
	}
	for _, path := range []string{n.PIDFile, n.LogFile} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fail(err)
		}
	}
	log, err := os.OpenFile(n.LogFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return fail(err)
	}
	defer log.Close() // the worker has its own
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = s.environment(), log, log
	detach(cmd)
	if err := cmd.Start(); err != nil {
		return fail(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // ends with the worker, or with this process
	if err := os.WriteFile(n.PIDFile, []byte(strconv.Itoa(cmd.Process.Pid)+"\n"), 0o644); err != nil {
		return errors.Join(fmt.Errorf("write the process id of %s: %w", n.Name, err), cmd.Process.Signal(os.Interrupt))
	}
	timer := time.NewTimer(settleTime)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case err := <-ended:
		_ = os.Remove(n.PIDFile) // a file too many does no harm
		return fail(fmt.Errorf("it ended at once (%w): %s", errors.Join(err, errEnded), lastLine(n.LogFile)))
	case <-timer.C:
		n.State, n.PID = "started", cmd.Process.Pid
	}
	return nil
}

var errEnded = errors.New("its log says more")

// lastLine is the end of a log.
func lastLine(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	text := strings.TrimSpace(string(data[max(0, len(data)-2000):]))
	return text[strings.LastIndexByte(text, '\n')+1:]
}
