package stemcmd_test

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/stemcmd"
)

// introduction is what dev says of itself.
type introduction struct {
	API, OpenAPI, Admin, Store string
	Tasks, Try                 []string
}

// introduce reads the introduction of a service that was started with
// --output jsonl.
func introduce(t *testing.T, s *service) introduction {
	t.Helper()
	var x introduction
	if err := json.Unmarshal([]byte(s.stdout.find(t, `"try":`)), &x); err != nil {
		t.Fatal(err)
	}
	return x
}

// try does what one of the curl lines says.
func (s *service) try(line string) string {
	s.t.Helper()
	var words []string
	for rest := strings.TrimSpace(line); rest != ""; rest = strings.TrimSpace(rest) {
		word := ""
		switch quote := rest[:1]; quote {
		case `'`, `"`:
			word, rest, _ = strings.Cut(rest[1:], quote)
		default:
			word, rest, _ = strings.Cut(rest, " ")
		}
		words = append(words, word)
	}
	method, url, body, want := "GET", "", "", http.StatusOK
	var headers []string
	for i := 1; i < len(words); i++ {
		switch words[i] {
		case "-s":
		case "-H":
			i++
			key, value, _ := strings.Cut(words[i], ": ")
			headers = append(headers, key, value)
		case "-d":
			i++
			method, body, want = "POST", words[i], http.StatusCreated
		default:
			url = words[i]
		}
	}
	if words[0] != "curl" {
		s.t.Fatalf("no curl: %s", line)
	}
	return s.must(want, method, url, body, headers...)
}

// readmeLines are the curl lines of the README that have one of the texts each,
// in this order, for a server elsewhere.
func readmeLines(t *testing.T, api string, texts ...string) []string {
	t.Helper()
	page, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(page)) {
		if len(found) < len(texts) && strings.HasPrefix(line, "curl ") && strings.Contains(line, texts[len(found)]) {
			found = append(found, strings.ReplaceAll(line, "localhost:8080", api))
		}
	}
	if len(found) < len(texts) {
		t.Fatalf("the README has no curl line with %s", texts[len(found)])
	}
	return found
}

// TestDevForNewcomers starts dev as it is, in an empty directory, and does what
// it and the README say.
func TestDevForNewcomers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	began := time.Now()
	s := process(t, dir, []string{"STEM_BROKER_URL="}, "stem", "dev", "--addr", "127.0.0.1:0", "--http", "127.0.0.1:0")
	api := strings.Fields(s.stdout.find(t, "  API "))[1]
	api = strings.TrimSuffix(api, ",")
	s.must(http.StatusOK, "GET", api+"/v1/queues", "")
	t.Logf("the API answered %s after the start of the process", time.Since(began).Round(time.Millisecond))
	for _, text := range []string{"sqlite:stem.db", "demo.echo", "demo.sleep", "demo.fail", api + "/openapi.json", "/readyz"} {
		s.stdout.find(t, text)
	}
	s.must(http.StatusOK, "GET", api+"/openapi.json", "")

	s.stdout.find(t, "tasks ls --broker sqlite:stem.db")
	var lines []string
	for line := range strings.Lines(s.stdout.String()) {
		if strings.Contains(line, "curl") {
			lines = append(lines, line)
		}
	}
	if len(lines) != 2 {
		t.Fatalf("%d lines with curl, want 2:\n%s", len(lines), s.stdout)
	}
	lines = append(lines, readmeLines(t, api, "demo.", "nap-1", "state=failed")...)
	s.must(http.StatusCreated, "POST", api+"/v1/tasks", `{"id":"f","name":"demo.fail","args":"no luck"}`)
	s.try(lines[0])
	s.try(lines[2])
	if got := s.try(lines[1]); !strings.Contains(got, `"result":"slept 2s"`) || !strings.Contains(got, `"percent":`) {
		t.Errorf("the task to try: %s", got)
	}
	if got := s.try(lines[3]); !strings.Contains(got, `"state":"succeeded"`) {
		t.Errorf("the task of the README: %s", got)
	}
	s.try(lines[4])
	s.must(http.StatusCreated, "POST", api+"/v1/tasks", `{"id":"e","name":"demo.echo","args":{"a":[1,null]}}`)
	if got := s.must(http.StatusOK, "GET", api+"/v1/tasks/e/wait", ""); !strings.Contains(got, `"result":{"a":[1,null]}`) {
		t.Errorf("demo.echo: %s", got)
	}
	if got := s.must(http.StatusOK, "GET", api+"/v1/tasks/f/wait", ""); !strings.Contains(got, `"state":"failed"`) || !strings.Contains(got, `"attempt":3`) {
		t.Errorf("demo.fail: %s", got)
	}
	s.must(http.StatusCreated, "POST", api+"/v1/tasks", `{"id":"s","name":"demo.sleep","args":"2 h"}`)
	if got := s.must(http.StatusOK, "GET", api+"/v1/tasks/s/wait", ""); !strings.Contains(got, `"reason":"permanent"`) {
		t.Errorf("demo.sleep for no duration: %s", got)
	}

	// What runs is finished before the process ends, and who waits is told at once.
	s.must(http.StatusCreated, "POST", api+"/v1/tasks", `{"id":"last","name":"demo.sleep","args":"1s"}`)
	s.must(http.StatusAccepted, "GET", api+"/v1/tasks/last/wait?timeout=300ms", "")
	s.signal(syscall.SIGTERM)
	s.ends(stemcmd.ExitDone)
	status, err := storeIn(t, dir).Get(t.Context(), "last")
	if err != nil || status.State != stem.Succeeded {
		t.Errorf("the task that ran at the stop: %+v, %v", status, err)
	}
}

// TestDevOfAProgram serves a program's own tasks, those of Setup and those of a
// tasks file, with tokens, on a store of the environment.
func TestDevOfAProgram(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	app := shop()
	holding, release := make(chan struct{}), make(chan struct{})
	app.Setup = func(_ context.Context, c *stem.Client) ([]stem.Registration, error) {
		hold := stem.NewTask[stem.None, stem.None]("shop.hold").Do(func(context.Context, stem.None) error {
			close(holding)
			<-release
			return nil
		})
		late := stem.NewTask[stem.None, string]("shop.late", stem.Queue("late")).
			With(func(ctx context.Context, _ stem.None) (string, error) {
				q, err := c.Queues(ctx, "late")
				return q[0].Name, err
			})
		return []stem.Registration{late, hold}, nil
	}
	app.Worker.Queues = stem.Strict("*")
	file := t.TempDir() + "/tasks.yaml"
	if err := os.WriteFile(file, []byte("tasks:\n  upper:\n    exec: [tr, a-z, A-Z]\n    queue: loud\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := here(t, app, []string{"STEM_BROKER_URL=memory:", "STEM_API_TOKENS=me:operate:$TOKEN-and-more-of-it", "PATH=" + os.Getenv("PATH")},
		"dev", "--addr", "127.0.0.1:0", "--http", "127.0.0.1:0", "--tasks", file, "--output", "jsonl")
	defer s.http.CloseIdleConnections()
	x := introduce(t, s)
	if x.Store != "memory:" || len(x.Tasks) != 12 || len(x.Try) != 2 || !strings.Contains(x.Try[0], `-H "Authorization: Bearer $TOKEN"`) {
		t.Errorf("introduction: %+v", x)
	}
	auth := []string{"Authorization", "Bearer $TOKEN-and-more-of-it"}
	s.must(http.StatusUnauthorized, "GET", x.API+"/v1/queues", "")
	for body, want := range map[string]string{
		`{"id":"1","name":"shop.say","args":"hi"}`: `"result":"hi"`,
		`{"id":"2","name":"shop.late"}`:            `"result":"late"`,
		`{"id":"3","name":"upper","args":"hi"}`:    `"result":"HI"`,
	} {
		s.must(http.StatusCreated, "POST", x.API+"/v1/tasks", body, auth...)
		id := strings.Split(body, `"`)[3]
		if got := s.must(http.StatusOK, "GET", x.API+"/v1/tasks/"+id+"/wait", "", auth...); !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", body, got, want)
		}
	}
	s.must(http.StatusOK, "GET", x.Admin+"/readyz", "")

	// A handler that does not listen is abandoned by a hard stop, and told of.
	s.must(http.StatusCreated, "POST", x.API+"/v1/tasks", `{"name":"shop.hold"}`, auth...)
	<-holding
	s.http.CloseIdleConnections()
	s.signal(os.Interrupt)
	s.signal(os.Interrupt)
	s.ends(stemcmd.ExitPartly)
	close(release)
	if !strings.Contains(s.log.String(), "shop: abandoned 1 task") {
		t.Errorf("what was abandoned is not told:\n%s", s.log)
	}
}
