package faultproxy_test

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stemjobs/stem/internal/faultproxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo serves lines in upper case, and tells of each that arrived.
func echo(t *testing.T) (addr string, arrived chan string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	arrived = make(chan string, 100)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				for lines := bufio.NewScanner(c); lines.Scan(); {
					arrived <- lines.Text()
					if _, err := fmt.Fprintln(c, strings.ToUpper(lines.Text())); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return l.Addr().String(), arrived
}

type client struct {
	net.Conn
	in *bufio.Reader
}

func dial(t *testing.T, p *faultproxy.Proxy) client {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return client{c, bufio.NewReader(c)}
}

func (c client) ask(line string, within time.Duration) (string, error) {
	if err := c.SetDeadline(time.Now().Add(within)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintln(c, line); err != nil {
		return "", err
	}
	reply, err := c.in.ReadString('\n')
	return strings.TrimSpace(reply), err
}

func start(t *testing.T) (*faultproxy.Proxy, chan string) {
	addr, arrived := echo(t)
	return faultproxy.Start(t, addr), arrived
}

func TestPasses(t *testing.T) {
	p, _ := start(t)
	if got, err := dial(t, p).ask("hello", time.Minute); got != "HELLO" || err != nil {
		t.Error(got, err)
	}
}

func TestCut(t *testing.T) {
	p, _ := start(t)
	c := dial(t, p)
	p.Set(faultproxy.Faults{Cut: true})
	if _, err := c.ask("hello", time.Minute); err == nil {
		t.Error("a cut connection answers")
	}
	if again, err := net.Dial("tcp", p.Addr); err == nil { // or it is reset already
		if _, err := (client{again, bufio.NewReader(again)}).ask("hello", time.Minute); err == nil {
			t.Error("a new connection answers")
		}
		again.Close()
	}
	p.Set(faultproxy.Faults{})
	if got, err := dial(t, p).ask("hello", time.Minute); got != "HELLO" || err != nil {
		t.Error("afterwards", got, err)
	}
	if n := p.Accepted(); n < 2 {
		t.Errorf("accepted %d", n)
	}
}

func TestSilent(t *testing.T) {
	p, arrived := start(t)
	c := dial(t, p)
	p.Set(faultproxy.Faults{Silent: true})
	if _, err := fmt.Fprintln(c, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.in.ReadString('\n'); err == nil {
		t.Error("a silent connection answers")
	}
	p.Set(faultproxy.Faults{})
	if got := <-arrived; got != "hello" {
		t.Errorf("arrived %q", got)
	}
}

func TestDelayAndRate(t *testing.T) {
	p, _ := start(t)
	c := dial(t, p)
	p.Set(faultproxy.Faults{Delay: 40 * time.Millisecond})
	began := time.Now()
	if got, err := c.ask("hello", time.Minute); got != "HELLO" || err != nil {
		t.Error(got, err)
	}
	if took := time.Since(began); took < 80*time.Millisecond {
		t.Errorf("there and back took %s", took)
	}
	p.Set(faultproxy.Faults{Rate: 10_000})
	began = time.Now()
	if got, err := c.ask(strings.Repeat("x", 2000), time.Minute); len(got) != 2000 || err != nil {
		t.Error(len(got), err)
	}
	if took := time.Since(began); took < 150*time.Millisecond {
		t.Errorf("2,000 bytes at 10,000 a second took %s", took)
	}
}

func TestLosesAReply(t *testing.T) {
	p, arrived := start(t)
	c := dial(t, p)
	loss := p.LoseReply("second")
	if got, err := c.ask("first", time.Minute); got != "FIRST" || err != nil {
		t.Error(got, err)
	}
	if got, err := c.ask("second", time.Minute); err == nil {
		t.Errorf("it was answered: %q", got)
	}
	<-loss.Done()
	if a, b := <-arrived, <-arrived; a != "first" || b != "second" {
		t.Error(a, b)
	}
	if got, err := dial(t, p).ask("second", time.Minute); got != "SECOND" || err != nil {
		t.Error("again", got, err)
	}
}

func TestHoldsAReplyUp(t *testing.T) {
	p, arrived := start(t)
	c := dial(t, p)
	held := p.HoldReply("first")
	answer := make(chan string, 1)
	go func() {
		got, _ := c.ask("first", time.Minute)
		answer <- got
	}()
	<-held.Done()
	<-arrived
	if got, err := dial(t, p).ask("another", time.Minute); got != "ANOTHER" || err != nil {
		t.Error("another connection", got, err)
	}
	select {
	case got := <-answer:
		t.Errorf("it was answered: %q", got)
	default:
	}
	held.Release()
	if got := <-answer; got != "FIRST" {
		t.Errorf("after its release the answer is %q", got)
	}
	if got, err := c.ask("second", time.Minute); got != "SECOND" || err != nil {
		t.Error("again", got, err)
	}
}
