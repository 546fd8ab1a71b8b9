package sqlite_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ncruces/go-sqlite3"

	"github.com/stemjobs/stem/backend/sqlite"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/task"
)

// roleVariable makes the test's own program play another process.
const roleVariable = "STEM_SQLITE_TEST_ROLE"

func TestMain(m *testing.M) {
	roles := map[string]func(path string) error{"churn": churn, "single": single, "consume": consume, "limited": limited, "beat": beat}
	if role := os.Getenv(roleVariable); role != "" {
		if err := roles[role](os.Args[1]); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// churn publishes and works off tasks until it is killed. It prints each id
// that it was told is stored.
func churn(path string) error {
	db, err := sqlite.Open(context.Background(), sqlite.Config{Path: path})
	if err != nil {
		return err
	}
	b := db.Broker()
	ctx := context.Background()
	c, err := b.Open(ctx, broker.Subscription{Worker: "w", Queues: []string{"q"}, Lease: 300 * time.Millisecond})
	if err != nil {
		return err
	}
	var done []broker.Settlement
	for n := 0; ; n++ {
		var batch []broker.Publication
		for i := range 20 {
			batch = append(batch, broker.Publication{Envelope: envelope(fmt.Sprintf("%d-%d-%d", os.Getpid(), n, i), "q")})
		}
		if _, err := b.Publish(ctx, batch); err != nil {
			return err
		}
		for _, p := range batch {
			fmt.Println(p.Envelope.ID)
		}
		x, err := c.Exchange(ctx, done, nil, broker.Want{Count: 15})
		if err != nil {
			return err
		}
		done = done[:0]
		for i, d := range x.Deliveries {
			state := []task.State{task.Succeeded, task.Succeeded, task.Failed, task.Retried, task.Queued}[i%5]
			done = append(done, broker.Settlement{Receipt: d.Receipt, Outcome: task.Outcome{
				State: state, Attempt: d.Attempt + 1, Keep: task.Forever, Worker: "w", Error: &task.Error{Type: "t"},
			}})
		}
	}
}

// single publishes one at a time until its input ends, and prints how many.
func single(path string) error {
	db, err := sqlite.Open(context.Background(), sqlite.Config{Path: path})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	in := bufio.NewReader(os.Stdin)
	if _, err := in.ReadString('\n'); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_, _ = in.ReadString('\n') // either way it is over
		close(ended)
	}()
	var slowest time.Duration
	for n := 0; ; n++ {
		select {
		case <-ended:
			fmt.Println(n, slowest)
			return db.Close()
		default:
		}
		start := time.Now()
		e := envelope(fmt.Sprintf("%d-%d", os.Getpid(), n), "q")
		if _, err := db.Broker().Publish(context.Background(), []broker.Publication{{Envelope: e}}); err != nil {
			return err
		}
		slowest = max(slowest, time.Since(start))
	}
}

// consume waits for one task, without ever looking by itself, and prints it.
func consume(path string) error {
	db, err := sqlite.Open(context.Background(), sqlite.Config{Path: path})
	if err != nil {
		return err
	}
	ctx := context.Background()
	c, err := db.Broker().Open(ctx, broker.Subscription{Worker: "w", Queues: []string{"q"}})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		x, err := c.Exchange(ctx, nil, nil, broker.Want{Count: 1})
		if err != nil {
			return err
		}
		if len(x.Deliveries) > 0 {
			fmt.Println("got", x.Deliveries[0].Envelope.ID)
			return db.Close()
		}
		if err := c.Wait(ctx, time.Hour); err != nil {
			return err
		}
	}
}

// process is another process in one of the roles.
type process struct {
	*exec.Cmd
	in    io.WriteCloser
	lines *bufio.Scanner
}

func startProcess(t *testing.T, role, path string) *process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, path)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	p := &process{Cmd: cmd}
	if p.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.lines = bufio.NewScanner(out)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it has ended, if all went well
		_ = cmd.Wait()
	})
	return p
}

func (p *process) line(t *testing.T) string {
	t.Helper()
	if !p.lines.Scan() {
		t.Fatalf("process %d ended: %v", p.Process.Pid, p.lines.Err())
	}
	return p.lines.Text()
}

// killed kills the process and returns the rest of what it printed.
func (p *process) killed(t *testing.T) (lines []string) {
	t.Helper()
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for p.lines.Scan() {
		lines = append(lines, p.lines.Text())
	}
	return lines
}

// TestKilledWhileWriting: processes are killed at random moments; what they
// were told is stored is there, and the file is sound. So are copies of the
// file that were taken while they wrote.
func TestKilledWhileWriting(t *testing.T) {
	path := newPath(t)
	copies := t.TempDir()
	var stored []string
	for round := range 4 {
		one, two := startProcess(t, "churn", path), startProcess(t, "churn", path)
		for range 100 + 150*round { // lines: a moment that differs each time
			stored = append(stored, one.line(t))
		}
		stored = append(stored, two.line(t))
		checkCopy(t, path, filepath.Join(copies, fmt.Sprint(round, ".db")))
		stored = append(stored, one.killed(t)...)
		stored = append(stored, two.killed(t)...)
	}
	db := open(t, sqlite.Config{Path: path})
	found, err := db.Results().Get(t.Context(), whole(stored)...)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range found {
		if f.Err != nil {
			t.Fatalf("%s, which was stored: %v", stored[i], f.Err)
		}
	}
	t.Logf("%d tasks", len(found))
}

// whole drops the last line of a killed process where it was cut.
func whole(ids []string) []string {
	var list []string
	for _, id := range ids {
		if strings.Count(id, "-") == 2 && !strings.HasSuffix(id, "-") {
			list = append(list, id)
		}
	}
	return list
}

// checkCopy copies the files while others write, as an operator may: under a
// read transaction, which keeps the WAL from beginning anew, first the file and
// then the WAL.
func checkCopy(t *testing.T, path, to string) {
	t.Helper()
	c, err := sqlite3.Open("file:" + path)
	if err != nil {
		t.Fatal(err)
	}
	run(t, c, "PRAGMA busy_timeout = 5000; BEGIN; SELECT count(*) FROM stem_meta")
	for _, suffix := range []string{"", "-wal"} {
		data, err := os.ReadFile(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to+suffix, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run(t, c, "ROLLBACK")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := sqlite.Open(t.Context(), sqlite.Config{Path: to})
	if err != nil {
		t.Fatalf("a copy taken while others wrote: %v", err)
	}
	closeChecked(t, db)
}

// TestProcessesWriteFairly: of four processes that write all the time each
// gets its share.
func TestProcessesWriteFairly(t *testing.T) {
	path := newPath(t)
	open(t, sqlite.Config{Path: path})
	var all []*process
	for range 4 {
		p := startProcess(t, "single", path)
		p.line(t)
		all = append(all, p)
	}
	for range 2 { // one line begins, the next ends
		for _, p := range all {
			if _, err := p.in.Write([]byte("\n")); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(700 * time.Millisecond) // for as long they compete
	}
	total, least := 0, 1<<62
	for _, p := range all {
		text := p.line(t)
		count, slowest, _ := strings.Cut(text, " ")
		n, err := strconv.Atoi(count)
		if err != nil {
			t.Fatalf("process said %q", text)
		}
		t.Logf("%d commits, the slowest took %s", n, slowest)
		total, least = total+n, min(least, n)
	}
	if least*20 < total {
		t.Errorf("one process got %d of %d commits", least, total)
	}
}

// TestOneProcessWakesAnother: a consumer that waits is called by a publisher
// elsewhere; alone it would look in an hour.
func TestOneProcessWakesAnother(t *testing.T) {
	path := newPath(t)
	b := open(t, sqlite.Config{Path: path}).Broker()
	one, two := startProcess(t, "consume", path), startProcess(t, "consume", path)
	one.line(t)
	two.line(t)
	eventually(t, "both wait", func() bool {
		idle, err := filepath.Glob(path + "-wake/*.idle")
		return err == nil && len(idle) == 2
	})
	publish(t, b, envelope("a", "q"))
	publish(t, b, envelope("b", "q"))
	got := one.line(t) + ", " + two.line(t)
	if got != "got a, got b" && got != "got b, got a" {
		t.Errorf("two waiting processes said %q", got)
	}
}
