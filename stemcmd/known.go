package stemcmd

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/internal/nearest"
	"github.com/stemjobs/stem/internal/tasksfile"
)

// knownTasks are the tasks that this program has handlers for.
type knownTasks struct {
	tasks    []stem.Registration
	complete bool            // no others can come: a name that is not among them is a mistake
	file     *tasksfile.File // where some of them are from; nil: nowhere
}

func addTasksFlag(f *pflag.FlagSet) {
	f.String("tasks", "", "`FILE` of tasks that are commands or HTTP calls (STEM_TASKS_CONFIG)")
}

// knownTasks returns the program's own tasks and those of the tasks file.
func (s *session) knownTasks() (*knownTasks, error) {
	k := &knownTasks{tasks: slices.Clone(s.app.Tasks)}
	if path := s.conf.Config.TasksFile; path != "" {
		file, err := tasksfile.Load(path)
		if err != nil {
			return nil, &exitError{code: ExitUsage, err: err}
		}
		k.file = file
		k.tasks = append(k.tasks, fileTasks(file)...)
	}
	k.complete = len(k.tasks) > 0 && s.app.Setup == nil
	return k, nil
}

// open tells whether the tasks can be executed here. What it returns frees
// what their executions leave.
func (k *knownTasks) open() (closing func(), err error) {
	if k.file == nil {
		return func() {}, nil
	}
	if err := k.file.Check(); err != nil {
		return nil, &exitError{code: ExitUsage, err: err}
	}
	return k.file.Close, nil
}

// find returns the task that answers to the name.
func (k *knownTasks) find(name string) (stem.Registration, bool) {
	for _, r := range k.tasks {
		if r.Name() == name || slices.Contains(r.Info().Aliases, name) {
			return r, true
		}
	}
	return stem.Registration{}, false
}

func (k *knownTasks) names() []string {
	names := make([]string, len(k.tasks))
	for i, r := range k.tasks {
		names[i] = r.Name()
	}
	slices.Sort(names)
	return names
}

// item makes an item of a task by its name, with the options that its
// declaration has. A name that the program must know and does not is an error,
// unless anyTask is set: tasks can belong to other programs.
func (k *knownTasks) item(name string, args json.RawMessage, anyTask bool, opts []stem.Option) (stem.Item, error) {
	if r, ok := k.find(name); ok {
		return r.Item(args, opts...), nil
	}
	if !k.complete || anyTask {
		return stem.NewItem(name, args, opts...), nil
	}
	e := usage("unknown task %.80q: this program has %s", name, strings.Join(k.names(), ", "))
	if n := nearest.Word(name, k.names()); n != "" {
		e = usage("unknown task %.80q: did you mean %s?", name, n)
	}
	return stem.Item{}, e.hinted("A task of another program is enqueued with --any-task")
}

// queues lists where the known tasks are sent, the default queue first.
func (k *knownTasks) queues(defaultQueue string) []string {
	queues := []string{defaultQueue}
	for _, r := range k.tasks {
		if q := r.Info().Queue; q != "" && !slices.Contains(queues, q) {
			queues = append(queues, q)
		}
	}
	return queues
}

// quietly loads the configuration for completion, which says nothing of what
// is wrong.
func (s *session) quietly(cmd *cobra.Command) bool { return s.load(cmd) == nil }

// completeTasks completes the names of known tasks.
func (s *session) completeTasks(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 || !s.quietly(cmd) {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	known, err := s.knownTasks()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return known.names(), cobra.ShellCompDirectiveNoFileComp
}

// completeQueues completes the names of queues that hold something.
func (s *session) completeQueues(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return s.completeFrom(cmd, func(ctx context.Context, c *stem.Client) (names []string, err error) {
		infos, err := c.Queues(ctx)
		for _, q := range infos {
			names = append(names, fmt.Sprintf("%s\t%d ready, %d dead", q.Name, q.Ready, q.Dead))
		}
		return names, err
	})
}

// completeFrom completes what the store tells within a moment, or nothing.
func (s *session) completeFrom(cmd *cobra.Command, ask func(context.Context, *stem.Client) ([]string, error)) ([]string, cobra.ShellCompDirective) {
	if !s.quietly(cmd) {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
	defer cancel()
	client, err := s.client(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names, err := ask(ctx, client)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeQueueFlag completes the command's --queue.
func (s *session) completeQueueFlag(c *cobra.Command) {
	if err := c.RegisterFlagCompletionFunc("queue", s.completeQueues); err != nil {
		panic("stemcmd: " + err.Error()) // the command has no such flag: a mistake in its code
	}
}
