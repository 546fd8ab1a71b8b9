package stemcmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem"
)

// enqueueFlags are the flags of enqueue.
type enqueueFlags struct {
	args        string
	in          duration
	at          instant
	queue       string
	priority    whole
	id          string
	headers     pairs
	meta        pairs
	maxRetries  whole
	expiresIn   duration
	expiresAt   instant
	retention   duration
	idempotency string
	ignore      bool
	keepArgs    bool
	anyTask     bool
	stream      bool
	wait        bool
}

const enqueueExample = `  {{stem}} enqueue email.send --args '{"to":"a@example.com"}'
  {{stem}} enqueue report.build --args @report.json --in 5m --queue reports --priority 7
  {{stem}} enqueue email.send --args '{"to":"a@example.com"}' --idempotency-key welcome-42=24h
  {{stem}} enqueue thumbnail --args - --wait --timeout 30s < image.json
  jq -c '{task:"email.send",args:.}' users.jsonl | {{stem}} enqueue --stdin`

func (s *session) enqueueCommand() *cobra.Command {
	f := &enqueueFlags{priority: whole{most: 9}, maxRetries: whole{most: 1_000_000}}
	c := &cobra.Command{
		Use:   "enqueue TASK",
		Short: "Stores a task, or a stream of them",
		Long: `Stores a task and prints its id. With --wait it also waits for the end: it prints
the result, and exits with 1 when the task did not succeed.

With --stdin it reads JSON lines and stores them in batches. A line has the
fields "task" (or "name", as in the HTTP API), "args", "queue", "priority", "id",
"in", "at", "maxRetries", "headers", "meta", "expiresIn", "expiresAt",
"idempotencyKey" and "idempotencyTtl"; the flags give what a line leaves out. What is wrong with a
line is told with its number, and the others are stored all the same; the exit
code is 6 then.`,
		Example: enqueueExample,
		Args: func(cmd *cobra.Command, args []string) error {
			if f.stream {
				return arguments(0, 1, "TASK, the task of lines that name none")(cmd, args)
			}
			return arguments(1, 1, "TASK")(cmd, args)
		},
		ValidArgsFunction: s.completeTasks,
	}
	c.RunE = s.waiting(func() bool { return f.wait || f.stream }, func(ctx context.Context, args []string) error {
		if f.stream {
			return s.enqueueStream(ctx, f, args)
		}
		return s.enqueueOne(ctx, f, args[0])
	})
	flags := c.Flags()
	flags.StringVar(&f.args, "args", "", "`JSON` argument, @FILE, or - for standard input; default: null")
	flags.Var(&f.in, "in", "due so much later")
	flags.Var(&f.at, "at", "due at that moment, in RFC 3339; one that has passed is now")
	flags.StringVar(&f.queue, "queue", "", "`QUEUE`; default: the task's own, or the default queue")
	flags.Var(&f.priority, "priority", "0 to 9, 9 first; default: 5")
	flags.StringVar(&f.id, "id", "", "`ID` of your own: the same id is stored once")
	flags.Var(&f.headers, "header", "header; may be given again")
	flags.Var(&f.meta, "meta", "annotation, JSON or text; may be given again")
	flags.Var(&f.maxRetries, "max-retries", "attempts after the first; default: the task's own, or 3")
	flags.Var(&f.expiresIn, "expires-in", "cancelled, unless it started, after so long")
	flags.Var(&f.expiresAt, "expires-at", "cancelled, unless it started, at that moment")
	flags.Var(&f.retention, "retention", "how long the status is kept after the end; 0: not at all")
	flags.StringVar(&f.idempotency, "idempotency-key", "", "`KEY=TTL`: a repeat within TTL answers the first task's id")
	flags.BoolVar(&f.ignore, "ignore-result", false, "keep the task's state alone")
	flags.BoolVar(&f.keepArgs, "keep-args", true, "keep the arguments with the status after the end; =false: none")
	flags.BoolVar(&f.anyTask, "any-task", false, "also a task that this program does not know")
	flags.BoolVar(&f.stream, "stdin", false, "read JSON lines from standard input")
	flags.BoolVar(&f.wait, "wait", false, "wait for the end, and print the result")
	addTasksFlag(flags)
	notTogether(c, "in", "at")
	notTogether(c, "expires-in", "expires-at")
	notTogether(c, "stdin", "wait", "id", "args")
	s.completeQueueFlag(c)
	return c
}

// waiting is long where that function says so, else short.
func (s *session) waiting(waits func() bool, run do) func(*cobra.Command, []string) error {
	short, long := s.short(run), s.long(run)
	return func(cmd *cobra.Command, args []string) error {
		if waits() {
			return long(cmd, args)
		}
		return short(cmd, args)
	}
}

// options turns the flags that were given into options.
func (f *enqueueFlags) options(changed func(string) bool) ([]stem.Option, error) {
	var opts []stem.Option
	add := func(flag string, o stem.Option) {
		if changed(flag) {
			opts = append(opts, o)
		}
	}
	add("in", stem.In(time.Duration(f.in)))
	add("at", stem.At(time.Time(f.at)))
	add("queue", stem.Queue(f.queue))
	add("priority", stem.Priority(f.priority.value))
	add("id", stem.ID(f.id))
	add("max-retries", stem.MaxRetries(f.maxRetries.value))
	add("expires-in", stem.ExpiresIn(time.Duration(f.expiresIn)))
	add("expires-at", stem.ExpiresAt(time.Time(f.expiresAt)))
	add("retention", stem.Retention(time.Duration(f.retention)))
	add("ignore-result", stem.IgnoreResult())
	add("keep-args", stem.KeepArgs(f.keepArgs))
	for _, kv := range f.headers {
		opts = append(opts, stem.Header(kv[0], kv[1]))
	}
	for _, kv := range f.meta {
		opts = append(opts, stem.Meta(kv[0], jsonOrText(kv[1])))
	}
	if changed("idempotency-key") {
		key, ttl, err := parseIdempotency(f.idempotency)
		if err != nil {
			return nil, err
		}
		opts = append(opts, stem.Idempotency(key, ttl))
	}
	return opts, nil
}

// jsonOrText returns text as the JSON that it is, or as a string.
func jsonOrText(text string) any {
	if json.Valid([]byte(text)) {
		return json.RawMessage(text)
	}
	return text
}

// parseIdempotency reads KEY=TTL; the key may have further equals signs.
func parseIdempotency(text string) (string, time.Duration, error) {
	i := strings.LastIndexByte(text, '=')
	if i < 1 {
		return "", 0, usage("--idempotency-key %q: want KEY=TTL, such as welcome-42=24h", text)
	}
	ttl, err := time.ParseDuration(text[i+1:])
	if err != nil || ttl <= 0 {
		return "", 0, usage("--idempotency-key %q: want a duration after the last =, such as 24h", text)
	}
	return text[:i], ttl, nil
}

// maxArgs bounds what is read as arguments before the client checks their
// size: enough to say how large they are.
const maxArgs = 64 << 20

// readArgs returns the arguments: nil for null.
func (s *session) readArgs(ctx context.Context, from string) (json.RawMessage, error) {
	switch {
	case from == "":
		return nil, nil
	case from == "-":
		data, err := readAll(ctx, s.p.Stdin, maxArgs)
		if err != nil {
			return nil, fmt.Errorf("read the arguments from standard input: %w", err)
		}
		return data, nil
	case from[0] == '@':
		f, err := os.Open(from[1:])
		if err != nil {
			return nil, usage("--args %s: %w", from, err)
		}
		defer f.Close() // it was only read
		data, err := readAll(ctx, f, maxArgs)
		if err != nil {
			return nil, usage("--args %s: %w", from, err)
		}
		return data, nil
	default:
		return json.RawMessage(from), nil
	}
}

// enqueued is what enqueue says of one task, as JSON.
type enqueued struct {
	ID        string `json:"id"`
	Duplicate bool   `json:"duplicate"`
}

func (s *session) enqueueOne(ctx context.Context, f *enqueueFlags, name string) error {
	args, err := s.readArgs(ctx, f.args)
	if err != nil {
		return err
	}
	opts, err := f.options(s.changed)
	if err != nil {
		return err
	}
	known, err := s.knownTasks()
	if err != nil {
		return err
	}
	item, err := known.item(name, args, f.anyTask, opts)
	if err != nil {
		return err
	}
	client, err := s.producer(ctx)
	if err != nil {
		return err
	}
	receipts, err := client.EnqueueMany(ctx, []stem.Item{item})
	if len(receipts) == 0 {
		return err
	}
	r := receipts[0]
	if r.Err != nil {
		return enqueueError(&r)
	}
	if r.Duplicate {
		s.note("a task with this idempotency key was there already")
	}
	if f.wait {
		s.note("enqueued %s", r.ID)
		return s.waitFor(ctx, client, r.ID)
	}
	if done, err := s.object(enqueued{r.ID, r.Duplicate}); done {
		return err
	}
	fmt.Fprintln(s.stdout, r.ID)
	return nil
}

// producer opens the stores to enqueue. A store in this process's memory would
// lose the task when the command ends.
func (s *session) producer(ctx context.Context) (*stem.Client, error) {
	if strings.HasPrefix(s.conf.Config.Broker, "memory:") && s.app.Openers["memory"] == nil {
		return nil, usage("memory: lives in one process: the task would be gone when this command ends").
			hinted("Name a store that stays, as in --broker sqlite:stem.db")
	}
	tracer, err := s.openTracer(ctx)
	if err != nil {
		return nil, err
	}
	return s.clientOn(ctx, false, func(o *stem.ClientOptions) {
		if o.Tracer == nil {
			o.Tracer = tracer
		}
	})
}

// enqueueError adds how to repeat, where that is safe.
func enqueueError(r *stem.Receipt) error {
	if errors.Is(r.Err, stem.ErrOutcomeUnknown) {
		return fail(ExitUnreachable, "%w", r.Err).hinted("Repeat it with --id %s: it is stored once", r.ID)
	}
	return r.Err
}

// waitFor waits for a task's end, shows its result, and fails when it did not
// succeed.
func (s *session) waitFor(ctx context.Context, client *stem.Client, id string) error {
	status, err := client.Wait(ctx, id)
	if errors.Is(err, errTimeout) {
		return s.stillGoing(ctx, client, id, err)
	}
	if err != nil {
		return err
	}
	if done, err := s.object(normalised(status)); done {
		return errors.Join(err, outcomeError(&status))
	}
	if s.flags.output == asName {
		fmt.Fprintln(s.stdout, id)
	} else if status.State == stem.Succeeded {
		fmt.Fprintln(s.stdout, resultText(&status))
	}
	return outcomeError(&status)
}

// stillGoing says where a task is that did not end in time.
func (s *session) stillGoing(ctx context.Context, client *stem.Client, id string, err error) error {
	look, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	status, lookErr := client.Get(look, id)
	if lookErr != nil {
		return fail(ExitFailed, "%w", err)
	}
	return fail(ExitFailed, "task %s is still %s: %w", id, status.State, context.Cause(ctx)).
		hinted("Wait on with %s tasks wait %s", s.app.Name, id)
}

// outcomeError is nil for a task that succeeded.
func outcomeError(status *stem.Status) error {
	if status.State == stem.Succeeded {
		return nil
	}
	text := fmt.Sprintf("task %s %s: %s", status.ID, status.State, status.Reason)
	if status.Error != nil {
		text += ": " + status.Error.Message
	}
	return fail(ExitFailed, "%s", text)
}

// resultText is the result as people read it: JSON, indented where it is large.
func resultText(status *stem.Status) string {
	if status.Result == nil {
		return "null"
	}
	return string(status.Result)
}
