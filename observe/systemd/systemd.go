// Package systemd tells a supervisor that speaks systemd's protocol how a
// process is: ready, stopping, alive. See sd_notify(3); units have Type=notify,
// and WatchdogSec where a process whose loops hang is to be killed.
//
// The package imports the standard library only.
package systemd

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"
)

// Notifier sends to the supervisor of this process.
type Notifier struct {
	socket   string
	watchdog time.Duration // 0: nobody watches
	log      *slog.Logger
}

// New reads the variables that the supervisor set for process pid:
// NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID. It returns nil when there is no
// supervisor. log hears when it cannot be told something.
func New(env func(string) string, pid int, log *slog.Logger) *Notifier {
	n := &Notifier{socket: env("NOTIFY_SOCKET"), log: log}
	if n.socket == "" {
		return nil
	}
	whose := env("WATCHDOG_PID")
	if usec, err := strconv.ParseInt(env("WATCHDOG_USEC"), 10, 64); err == nil && usec > 0 && (whose == "" || whose == strconv.Itoa(pid)) {
		n.watchdog = time.Duration(usec) * time.Microsecond
	}
	return n
}

const (
	readyEvery  = 50 * time.Millisecond // between two looks whether it is ready yet
	extendEvery = 5 * time.Second       // between two requests for more time to start
	extendBy    = "EXTEND_TIMEOUT_USEC=30000000"
)

// Run tells READY=1 once ready says so, STOPPING=1 when stopping is closed or ctx ends, and
// WATCHDOG=1 at half of the watchdog's time for as long as live says that the
// loops live, until ctx ends. A process that lives and is not ready yet, since
// its store is away say, asks for more time, so that it is not started anew in
// vain.
func (n *Notifier) Run(ctx context.Context, stopping <-chan struct{}, ready, live func() error) {
	look := time.NewTicker(readyEvery)
	defer look.Stop()
	var watch <-chan time.Time
	if n.watchdog > 0 {
		t := time.NewTicker(n.watchdog / 2)
		defer t.Stop()
		watch = t.C
		n.feed(live)
	}
	looks, extended := look.C, time.Now()
	for {
		select {
		case <-ctx.Done():
			if stopping != nil { // it ended before that was heard, or by itself
				n.send("STOPPING=1")
			}
			return
		case <-stopping:
			stopping, looks = nil, nil
			n.send("STOPPING=1")
		case <-watch:
			n.feed(live)
		case <-looks:
			why := ready()
			switch {
			case why == nil:
				looks = nil
				n.send("READY=1\nSTATUS=ready")
			case time.Since(extended) >= extendEvery && live() == nil:
				extended = time.Now()
				n.send(extendBy + "\nSTATUS=" + line(why.Error()))
			}
		}
	}
}

// feed tells the watchdog that the loops live, if they do.
func (n *Notifier) feed(live func() error) {
	if err := live(); err != nil {
		n.log.Error("not alive: the watchdog is not fed", "error", err)
		return
	}
	n.send("WATCHDOG=1")
}

// line keeps a text from being read as more than one assignment.
func line(s string) string {
	out := []rune(s)
	for i, r := range out {
		if r < ' ' {
			out[i] = ' '
		}
	}
	return string(out)
}

func (n *Notifier) send(state string) {
	if err := n.Send(state); err != nil {
		n.log.Warn("cannot tell the supervisor", "state", state, "error", err)
	}
}

// Send sends a state, lines of NAME=VALUE.
func (n *Notifier) Send(state string) error {
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("tell the supervisor: %w", err)
	}
	defer c.Close() // what was written has been handed over
	if _, err := c.Write([]byte(state)); err != nil {
		return fmt.Errorf("tell the supervisor: %w", err)
	}
	return nil
}
