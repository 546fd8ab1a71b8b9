package demo

import (
	"fmt"
	"io"
	"time"

	"github.com/schollz/progressbar/v3"
)

// progress shows how many tasks have ended: a bar on a terminal, a line every
// second elsewhere.
type progress struct {
	out   io.Writer
	total int
	bar   *progressbar.ProgressBar // nil: lines
	next  time.Time
}

func newProgress(out io.Writer, terminal bool, total int) *progress {
	p := &progress{out: out, total: total, next: time.Now().Add(time.Second)}
	if terminal {
		p.bar = progressbar.NewOptions(total, progressbar.OptionSetWriter(out), progressbar.OptionSetWidth(40),
			progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString("tasks"),
			progressbar.OptionClearOnFinish())
	}
	return p
}

func (p *progress) set(done int) {
	if p.bar != nil {
		_ = p.bar.Set(done) // a terminal that is gone is no reason to stop
		return
	}
	if now := time.Now(); now.After(p.next) {
		p.next = now.Add(time.Second)
		fmt.Fprintf(p.out, "%d of %d tasks done\n", done, p.total)
	}
}

func (p *progress) say(format string, args ...any) {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
	fmt.Fprintf(p.out, format+"\n", args...)
}

func (p *progress) end() {
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}
