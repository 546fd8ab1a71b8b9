package cases

import (
	"context"

	"github.com/stemjobs/stem/bench/internal/meter"
)

// measuring measures this process, and the store's server where there is one,
// from run.measure on.
type measuring struct {
	*meter.Meter
	prober Prober // nil: the store has no server
	before Probe
	err    error // why the server could not be asked
}

func (r *run) measure(ctx context.Context) *measuring {
	m := &measuring{}
	if p, ok := r.sys.(Prober); ok {
		m.prober = p
		m.before, m.err = p.Probe(ctx)
	}
	m.Meter = meter.Start()
	return m
}

// used is what the server used since the beginning; false: there is none.
func (m *measuring) used(ctx context.Context) (Probe, bool) {
	if m.prober == nil || m.err != nil {
		return Probe{}, false
	}
	p, err := m.prober.Probe(ctx)
	if err != nil {
		m.err = err
		return Probe{}, false
	}
	return Probe{
		CPU: p.CPU - m.before.CPU, Commands: p.Commands - m.before.Commands,
		Scripts: p.Scripts - m.before.Scripts, Messages: p.Messages - m.before.Messages, Bytes: p.Bytes - m.before.Bytes,
	}, true
}

// done fills what every case measures the same way.
func (m *measuring) done(ctx context.Context, n int) *Result {
	took, cpu := m.Elapsed(), m.CPU()
	r := &Result{N: n, Seconds: took.Seconds(), RSS: meter.PeakRSS()}
	if n == 0 {
		return r
	}
	r.Rate = float64(n) / took.Seconds()
	r.CPU = float64(cpu.Microseconds()) / float64(n)
	if used, ok := m.used(ctx); ok {
		r.ServerCPU = float64(used.CPU.Microseconds()) / float64(n)
		r.set("commandsPerTask", float64(used.Commands)/float64(n))
	}
	if m.err != nil {
		r.Note = m.err.Error()
	}
	return r
}

// idle fills what the cases measure that do nothing.
func (m *measuring) idle(ctx context.Context) *Result {
	took, cpu := m.Elapsed(), m.CPU()
	r := &Result{Seconds: took.Seconds(), RSS: meter.PeakRSS()}
	r.CPUIdle = float64(cpu.Microseconds()) / 1000 / took.Seconds()
	if used, ok := m.used(ctx); ok {
		r.set("serverCpuMsPerS", float64(used.CPU.Microseconds())/1000/took.Seconds())
		r.set("commandsPerS", float64(used.Commands)/took.Seconds())
		r.set("scriptsPerS", float64(used.Scripts)/took.Seconds())
		// Each heartbeat is a script that publishes, and nothing else does while
		// nothing happens: the other scripts look for work.
		r.set("looksPerS", float64(used.Scripts-used.Messages)/took.Seconds())
	}
	return r
}
