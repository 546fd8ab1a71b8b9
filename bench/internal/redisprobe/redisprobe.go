// Package redisprobe reads what a Redis server has used.
package redisprobe

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/stemjobs/stem/bench/internal/cases"
	"github.com/stemjobs/stem/internal/redistest"
)

// Prober asks one server, over a connection of its own.
type Prober struct {
	mu   sync.Mutex
	conn *redistest.Conn
}

// New connects to host:port.
func New(addr string) (*Prober, error) {
	c, err := redistest.Dial("tcp", addr)
	return &Prober{conn: c}, err
}

// Close closes the connection.
func (p *Prober) Close() error { return p.conn.Close() }

// Do runs a command.
func (p *Prober) Do(args ...any) (any, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conn.Do(args...)
}

// Probe reads INFO.
func (p *Prober) Probe(context.Context) (cases.Probe, error) {
	reply, err := p.Do("INFO", "everything")
	if err != nil {
		return cases.Probe{}, err
	}
	var out cases.Probe
	for line := range strings.SplitSeq(fmt.Sprint(reply), "\r\n") {
		key, value, _ := strings.Cut(line, ":")
		switch key {
		case "used_cpu_user", "used_cpu_sys":
			seconds, _ := strconv.ParseFloat(value, 64)
			out.CPU += time.Duration(seconds * float64(time.Second))
		case "used_memory":
			out.Bytes, _ = strconv.ParseInt(value, 10, 64)
		case "cmdstat_eval", "cmdstat_evalsha", "cmdstat_evalsha_ro", "cmdstat_fcall":
			out.Scripts += calls(value)
		case "cmdstat_publish":
			out.Messages += calls(value)
		}
		if strings.HasPrefix(key, "cmdstat_") && key != "cmdstat_info" {
			out.Commands += calls(value)
		}
	}
	return out, nil
}

// calls reads "calls=12,usec=…".
func calls(value string) int64 {
	n, _, _ := strings.Cut(strings.TrimPrefix(value, "calls="), ",")
	i, _ := strconv.ParseInt(n, 10, 64)
	return i
}
