package stemtest_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/stemtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type mail struct{ To, Text string }

var (
	signUp = stem.NewTask[string, stem.None]("user.signup")
	send   = stem.NewTask[mail, stem.None]("mail.send")
)

// handlers are those of a small program: a sign-up mails at once, and again a
// day later.
func handlers(sent *[]mail) []stem.Registration {
	return []stem.Registration{
		signUp.Do(func(ctx context.Context, user string) error {
			_, err := stem.Current(ctx).Enqueue(ctx, send.Item(mail{user, "remember us"}, stem.In(24*time.Hour)))
			return errors.Join(err, stem.OnSuccess(ctx, send.Item(mail{user, "welcome"})))
		}),
		send.Do(func(_ context.Context, m mail) error {
			*sent = append(*sent, m)
			return nil
		}),
	}
}

func TestAProgramIsDrivenATaskAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent []mail
		s := stemtest.New(t, handlers(&sent)...)
		if _, err := signUp.Enqueue(t.Context(), s.Client, "ada"); err != nil {
			t.Fatal(err)
		}
		stemtest.RequireNotEnqueued(t, s, send)
		if status := s.RunOne(); status.Name != "user.signup" || status.State != stem.Succeeded {
			t.Fatalf("RunOne: %+v", status)
		}
		reminder := stemtest.RequireEnqueued(t, s, send, func(m mail) bool { return m.Text == "remember us" })
		if reminder.To != "ada" || len(sent) != 0 {
			t.Errorf("%+v, sent %v", reminder, sent)
		}
		if ran := s.Drain(); len(ran) != 1 || len(sent) != 1 || sent[0].Text != "welcome" {
			t.Errorf("Drain ran %v and sent %v", ran, sent)
		}
		s.AdvanceTo(time.Now().Add(24 * time.Hour))
		if ran := s.Drain(); len(ran) != 1 || len(sent) != 2 {
			t.Errorf("a day later: ran %v, sent %v", ran, sent)
		}
		if ran := s.Drain(); len(ran) != 0 {
			t.Errorf("with nothing to do: ran %v", ran)
		}
	})
}

func TestFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent []mail
		s := stemtest.New(t, handlers(&sent)...)
		down := errors.New("the store is down")
		s.FailNextEnqueue(down)
		if _, err := send.Enqueue(t.Context(), s.Client, mail{}); !errors.Is(err, down) {
			t.Errorf("the failing enqueue: %v", err)
		}
		if _, err := send.Enqueue(t.Context(), s.Client, mail{To: "ada"}); err != nil {
			t.Fatal(err)
		}
		s.FailNext("mail.send", errors.New("no route"))
		if status := s.RunOne(); status.State != stem.Retried || status.Error == nil || status.Error.Message != "no route" {
			t.Errorf("after a failure: %+v", status)
		}
		if ran := s.Drain(); len(ran) != 0 || len(sent) != 0 {
			t.Errorf("the retry ran at once: %v", ran)
		}
		s.AdvanceTo(time.Now().Add(time.Second))
		if status := s.RunOne(); status.State != stem.Succeeded || len(sent) != 1 {
			t.Errorf("the retry: %+v", status)
		}
	})
}

// complaint is a testing.TB that remembers that it failed.
type complaint struct {
	testing.TB
	failed bool
}

func (c *complaint) Helper()               {}
func (c *complaint) Fatal(...any)          { c.failed = true; panic(c) }
func (c *complaint) Fatalf(string, ...any) { c.failed = true; panic(c) }

func TestRequirementsFail(t *testing.T) {
	fails := func(f func(t testing.TB)) (failed bool) {
		c := &complaint{TB: t}
		defer func() {
			if r := recover(); r != nil && r != any(c) {
				panic(r)
			}
			failed = c.failed
		}()
		f(c)
		return c.failed
	}
	synctest.Test(t, func(t *testing.T) {
		s := stemtest.New(t)
		if !fails(func(t testing.TB) { stemtest.RequireEnqueued(t, s, send) }) {
			t.Error("RequireEnqueued accepts nothing")
		}
		if _, err := send.Enqueue(t.Context(), s.Client, mail{To: "ada"}); err != nil {
			t.Fatal(err)
		}
		if !fails(func(t testing.TB) { stemtest.RequireEnqueued(t, s, send, func(m mail) bool { return m.To == "eve" }) }) {
			t.Error("RequireEnqueued accepts what match refuses")
		}
		if !fails(func(t testing.TB) { stemtest.RequireNotEnqueued(t, s, send) }) {
			t.Error("RequireNotEnqueued accepts an enqueued task")
		}
	})
}
