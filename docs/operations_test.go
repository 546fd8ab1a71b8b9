//go:build unix

package docs_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/stemjobs/stem/stemcmd"
)

// update writes into the guide what commands print now, where that is not what it says.
var update = flag.Bool("update", false, "correct the text blocks of operations.md")

// TestMain also is the program stem that the guide's commands start.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"stem": func() { os.Exit(stemcmd.Main(stemcmd.App{Name: "stem", Demo: true})) },
	})
}

const (
	guide  = "operations.md"
	decade = "1850" // begins the guide's ports, 18500 to 18509
)

// step is a block of commands, and what they print.
type step struct {
	line     int
	heading  string
	commands string
	prints   []string // nil: nothing is said of it
	from, to int      // where prints stands: lines of the page
}

// steps reads the page: each sh block, and the text block that follows it with
// nothing but blank lines between them.
func steps(t *testing.T, lines []string) []step {
	t.Helper()
	var all []step
	heading, last := "", -1 // last: the line after the newest sh block
	for i := 0; i < len(lines); i++ {
		kind, opens := strings.CutPrefix(lines[i], "```")
		switch {
		case strings.HasPrefix(lines[i], "#"):
			heading = lines[i]
		case opens:
			end := i + 1 + slices.Index(lines[i+1:], "```")
			block := lines[i+1 : end]
			switch {
			case kind == "sh":
				all = append(all, step{line: i + 2, heading: heading, commands: strings.Join(block, "\n") + "\n"})
				last = end
			case kind == "text" && last >= 0 && strings.TrimSpace(strings.Join(lines[last+1:i], "")) == "":
				s := &all[len(all)-1]
				s.prints, s.from, s.to = block, i+1, end
			}
			i = end
		}
	}
	return all
}

// TestOperationsGuide follows the guide from top to bottom, as somebody would who
// copies each block into a shell, and compares what is printed with what it says.
func TestOperationsGuide(t *testing.T) {
	page, err := os.ReadFile(guide)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(page), "\n")
	all := steps(t, lines)
	if len(all) < 40 {
		t.Fatalf("found %d blocks of commands only", len(all))
	}
	ports := freeDecade(t)
	var script strings.Builder
	for i, s := range all {
		if i == 0 || s.heading != all[i-1].heading {
			fmt.Fprintf(&script, "%s\n", s.heading)
		}
		fmt.Fprintf(&script, "step %d\n", i)
	}
	path := filepath.Join(t.TempDir(), "operations.txtar")
	if err := os.WriteFile(path, []byte(script.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	corrected := map[int]string{}
	testscript.Run(t, testscript.Params{
		Files: []string{path}, RequireExplicitExec: true, Setup: prepare,
		Deadline: patience(),
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"step": func(ts *testscript.TestScript, _ bool, args []string) {
				var n int
				_, err := fmt.Sscan(args[0], &n)
				ts.Check(err)
				printed := run(ts, all[n], ports)
				if all[n].prints == nil || fits(all[n].prints, printed) {
					return
				}
				if !*update {
					ts.Fatalf("%s:%d prints\n%s\nand the guide says\n%s", guide, all[n].line, printed, strings.Join(all[n].prints, "\n"))
				}
				corrected[n] = printed
			},
		},
	})
	t.Cleanup(func() { correct(t, lines, all, corrected) }) // when the script has ended, which is later
}

// patience is when a script ends that waits for what does not come.
func patience() time.Time { return time.Now().Add(4 * time.Minute) }

// correct writes the page with what was printed.
func correct(t *testing.T, lines []string, all []step, corrected map[int]string) {
	for n := len(all) - 1; n >= 0; n-- {
		if printed, ok := corrected[n]; ok {
			lines = slices.Replace(lines, all[n].from, all[n].to, strings.Split(strings.TrimSuffix(printed, "\n"), "\n")...)
		}
	}
	if len(corrected) > 0 {
		if err := os.WriteFile(guide, []byte(strings.Join(lines, "\n")), 0o644); err != nil {
			t.Error(err)
		}
	}
}

// prepare gives the shell what the guide's reader has, and sees to it that what the
// guide starts ends, also when this process dies.
func prepare(env *testscript.Env) error {
	root, err := filepath.Abs("..")
	if err != nil {
		return err
	}
	env.Setenv("HOME", env.WorkDir)
	env.Setenv("SRC", root)
	env.Setenv("GORACE", "atexit_sleep_ms=0") // else each command sleeps a second at its end
	env.Setenv("STEM_CONTROL_TIMEOUT", "1m")  // a busy machine may be slow to reply
	watcher := exec.Command("/bin/sh", "-c", `read -r _; kill -KILL $(cat run/*.pid) 2>/dev/null; true`)
	watcher.Dir = env.WorkDir
	watcher.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := watcher.StdinPipe()
	if err != nil {
		return err
	}
	if err := watcher.Start(); err != nil {
		return err
	}
	env.Defer(func() {
		_ = in.Close()
		_ = watcher.Wait()
	})
	return nil
}

// run executes a block in the shell's session, and returns what it printed with the
// guide's own ports.
func run(ts *testscript.TestScript, s step, ports string) string {
	const before, after = "exec 2>&1\nif [ -f .session ]; then . ./.session; fi\nset -e\n", "export -p >.session\n"
	commands := before + strings.ReplaceAll(s.commands, decade, ports) + after
	ts.Check(os.WriteFile(ts.MkAbs("step.sh"), []byte(commands), 0o600))
	err := ts.Exec("sh", "step.sh")
	const host = "127.0.0.1:" // before a port: the same digits elsewhere are no port
	printed := strings.ReplaceAll(ts.ReadFile("stdout"), host+ports, host+decade)
	printed = strings.ReplaceAll(printed, ts.MkAbs("."), "/home/you/tour")
	if err != nil {
		ts.Fatalf("%s:%d: %v\n%s", guide, s.line, err, printed)
	}
	return printed
}

var (
	moment  = regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?(Z|[+-]\d\d:\d\d))?|\d{8}T\d{6}(\.\d+)?Z`)
	span    = regexp.MustCompile(`\b(in )?(\d+(\.\d+)? ?(d|h|ms|m|s|µs|ns))+\b( ago)?|\bnow\b`)
	taskID  = regexp.MustCompile(`\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b`)
	between = regexp.MustCompile(`\s+`)
)

// plain is a line without what differs each time.
func plain(line string) string {
	line = moment.ReplaceAllString(line, "<moment>")
	line = taskID.ReplaceAllString(line, "<id>")
	line = span.ReplaceAllString(line, "<span>")
	return strings.TrimSpace(between.ReplaceAllString(line, " "))
}

// fits reports whether that was printed. … in the guide stands for anything within a
// line, and alone for any number of lines; moments, spans of time and ids that were
// made up are not compared.
func fits(says []string, printed string) bool {
	var pattern strings.Builder
	pattern.WriteString(`\A`)
	for _, line := range says {
		if strings.TrimSpace(line) == "…" {
			pattern.WriteString(`(.*\n)*?`)
			continue
		}
		parts := strings.Split(plain(line), "…")
		for i := range parts {
			parts[i] = regexp.QuoteMeta(parts[i])
		}
		pattern.WriteString(strings.Join(parts, `.*`) + `\n`)
	}
	pattern.WriteString(`\z`)
	var got strings.Builder
	for line := range strings.Lines(printed) {
		got.WriteString(plain(line) + "\n")
	}
	return regexp.MustCompile(pattern.String()).MatchString(got.String())
}

// freeDecade is the beginning of ten ports in a row that are free now.
func freeDecade(t *testing.T) string {
	t.Helper()
	const first, count = 1000, 100 // 10000 to 10999: redistest begins above
	for range 200 {
		d := first + rand.IntN(count)
		if !slices.ContainsFunc([]int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, func(i int) bool { return taken(10*d + i) }) {
			return fmt.Sprint(d)
		}
	}
	t.Fatal("found no ten ports in a row that are free")
	return ""
}

func taken(port int) bool {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return true
	}
	return l.Close() != nil
}
