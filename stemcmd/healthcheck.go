package stemcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stemjobs/stem"
)

// checkFlags say which worker of this host is meant, and how it is asked.
type checkFlags struct {
	http    string
	pidFile string
	id      string
	live    bool
}

func (s *session) workerHealthcheckCommand() *cobra.Command {
	f := &checkFlags{}
	c := &cobra.Command{
		Use:   "healthcheck",
		Short: "Checks a worker of this host, for probes",
		Long: `Checks a worker of this host, for the probes of containers and supervisors:
  --http ADDR      asks the listener of worker run --http: is it ready, or with --live,
                   does it live. The store is not asked by this command.
  --pid-file FILE  looks whether that process lives, and whether its heartbeat in the
                   store is fresh
  --id ID          looks whether that worker's heartbeat is fresh
The exit code is 0 when it is well, 1 when it is not; what is wrong, and what to do
about it, is said. --timeout bounds it (5s).`,
		Example: `  {{stem}} worker healthcheck --http 127.0.0.1:9090
  {{stem}} worker healthcheck --http 127.0.0.1:9090 --live
  {{stem}} worker healthcheck --pid-file /run/stem/worker.pid`,
		Args: noArguments,
	}
	c.Flags().StringVar(&f.http, "http", "", "`ADDR` of the worker's own listener, such as 127.0.0.1:9090")
	c.Flags().StringVar(&f.pidFile, "pid-file", "", "`FILE` with the process id, as worker run --pid-file writes it")
	c.Flags().StringVar(&f.id, "id", "", "`ID` of the worker")
	c.Flags().BoolVar(&f.live, "live", false, "whether it lives, not whether it is ready")
	notTogether(c, "http", "pid-file", "id")
	notTogether(c, "pid-file", "id")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		limit := probeTime
		if cmd.Flags().Changed("timeout") {
			limit = time.Duration(s.flags.timeout)
		}
		return s.within(cmd, limit, args, func(ctx context.Context, _ []string) error { return s.healthcheck(ctx, f) })
	}
	return c
}

// probeTime is how long a probe takes at most.
const probeTime = 5 * time.Second

// checked is the result as JSON.
type checked struct {
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	Advice string `json:"advice,omitempty"`
}

func (s *session) healthcheck(ctx context.Context, f *checkFlags) error {
	var r checked
	var err error
	switch {
	case f.http != "":
		r, err = probe(ctx, f.http, f.live)
	case f.pidFile != "":
		r, err = s.checkPID(ctx, f)
	case f.id != "":
		r, err = s.checkBeat(ctx, f.live, func(h *stem.Heartbeat) bool { return h.Worker == f.id }, "worker "+f.id)
	default:
		return usage("say which worker: --http, --pid-file or --id")
	}
	if err != nil {
		return err
	}
	if done, err := s.object(r); err != nil || done {
		if err == nil && !r.OK {
			err = &exitError{code: ExitFailed, err: errQuiet}
		}
		return err
	}
	if !r.OK {
		return fail(ExitFailed, "%s", r.Detail).hinted("%s", r.Advice)
	}
	fmt.Fprintln(s.stdout, clean(r.Detail))
	return nil
}

// probe asks the worker's listener.
func probe(ctx context.Context, addr string, live bool) (checked, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return checked{}, usage("--http %q: want HOST:PORT, such as 127.0.0.1:9090", addr)
	}
	if host == "" || host == "0.0.0.0" || host == "::" {
		host = "127.0.0.1" // it listens on all addresses
	}
	path := "/readyz"
	if live {
		path = "/healthz"
	}
	url := "http://" + net.JoinHostPort(host, port) + path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return checked{}, usage("--http %q: want HOST:PORT, such as 127.0.0.1:9090", addr)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, Proxy: nil}}
	resp, err := client.Do(req)
	if err != nil {
		return checked{
			Detail: fmt.Sprintf("nothing answers at %s: %v", url, err),
			Advice: "Is the worker running, with --http " + addr + "? Its log says why it ended; a supervisor should start it again",
		}, nil
	}
	defer resp.Body.Close() // it was only read
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return checked{Detail: fmt.Sprintf("%s: %v", url, err)}, nil
	}
	text := strings.TrimSpace(string(body))
	if resp.StatusCode != http.StatusOK {
		return checked{
			Detail: fmt.Sprintf("%s says %d: %s", path, resp.StatusCode, text),
			Advice: "A worker that drains is not ready, and need not be; one that does not hear of its store for long should look at it: stem health",
		}, nil
	}
	return checked{OK: true, Detail: "ok"}, nil
}

// checkPID looks for the process, and for its heartbeat.
func (s *session) checkPID(ctx context.Context, f *checkFlags) (checked, error) {
	pid, err := readPID(f.pidFile)
	if errors.Is(err, fs.ErrNotExist) {
		return checked{
			Detail: "there is no file " + f.pidFile,
			Advice: "Is the worker running, with --pid-file " + f.pidFile + "? It removes the file when it ends",
		}, nil
	}
	if err != nil {
		return checked{}, err
	}
	if !processLives(pid) {
		return checked{
			Detail: fmt.Sprintf("process %d is not there: the worker died without a word", pid),
			Advice: "Look at its log, and at the kernel's for out of memory; leases bring its tasks back by themselves. Start it again",
		}, nil
	}
	if f.live {
		return checked{OK: true, Detail: "ok"}, nil
	}
	host, err := os.Hostname()
	if err != nil {
		return checked{}, fmt.Errorf("ask for this host's name: %w", err)
	}
	is := func(h *stem.Heartbeat) bool { return h.PID == pid && h.Host == host }
	return s.checkBeat(ctx, false, is, fmt.Sprintf("process %d", pid))
}

// checkBeat looks whether a worker's heartbeat is fresh.
func (s *session) checkBeat(ctx context.Context, live bool, is func(*stem.Heartbeat) bool, what string) (checked, error) {
	client, err := s.client(ctx)
	if err != nil {
		return checked{}, err
	}
	workers, err := client.Workers(ctx)
	if err != nil {
		return checked{}, err
	}
	for i := range workers {
		h := &workers[i]
		if !is(h) {
			continue
		}
		switch row := workerRowOf(*h, time.Since(h.At)); {
		case row.State == stateLate || row.State == stateGone:
			return checked{
				Detail: fmt.Sprintf("worker %s has said nothing for %s", h.Worker, span(row.silent)),
				Advice: "Is it stopped, or starved of CPU, or cut off from the store? Its log says; after three intervals it is taken for dead",
			}, nil
		case h.Draining && !live:
			return checked{
				Detail: fmt.Sprintf("worker %s is stopping", h.Worker),
				Advice: "It takes no more tasks, and ends when what runs has ended",
			}, nil
		}
		return checked{OK: true, Detail: "ok"}, nil
	}
	return checked{
		Detail: what + " has no heartbeat in " + s.where(),
		Advice: "Does the worker use the same store and namespace? Its log says whether it can store heartbeats",
	}, nil
}

func readPID(path string) (int, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid < 1 {
		return 0, fail(ExitFailed, "%s has %.40q, and no process id", path, data)
	}
	return pid, nil
}

// writePID writes this process's id, and returns what removes the file again.
// Another process's file is not overwritten while that process lives.
func writePID(path string) (remove func(), err error) {
	if path == "" {
		return func() {}, nil
	}
	if pid, err := readPID(path); err == nil && pid != os.Getpid() && processLives(pid) {
		return nil, fail(ExitRefused, "%s belongs to process %d, which is running", path, pid)
	}
	temporary, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return nil, fmt.Errorf("write the process id: %w", err)
	}
	_, err = fmt.Fprintln(temporary, os.Getpid())
	err = errors.Join(err, temporary.Chmod(0o644), temporary.Close())
	if err == nil {
		err = os.Rename(temporary.Name(), path) // nobody ever reads half of it
	}
	if err != nil {
		return nil, fmt.Errorf("write the process id: %w", errors.Join(err, os.Remove(temporary.Name())))
	}
	return func() { _ = os.Remove(path) }, nil // a file too many does no harm
}
