// Package faultproxy is a TCP proxy for tests that misbehaves on demand, as
// networks do: it cuts connections, delays and throttles what passes, lets a
// connection go silent without closing it, and loses or holds up the reply to a
// request that has arrived.
package faultproxy

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"
)

// Faults is how a proxy misbehaves. The zero value passes everything on.
type Faults struct {
	// Cut closes connections, and new ones as soon as they come.
	Cut bool
	// Silent keeps connections open and passes nothing on, as when a cable is
	// pulled: what arrives meanwhile is passed on later.
	Silent bool
	// Delay is how much later everything arrives, in each direction.
	Delay time.Duration
	// Rate is how many bytes a second pass in each direction of a connection;
	// 0: any number.
	Rate int
}

// Proxy passes connections on to one server. Its methods are safe for
// concurrent use.
type Proxy struct {
	Addr string // host:port that clients connect to

	target   string
	listener net.Listener
	ctx      context.Context
	cancel   context.CancelFunc
	running  sync.WaitGroup

	mu       sync.Mutex
	faults   Faults
	changed  chan struct{} // closed when faults change
	links    map[*link]bool
	accepted int
	lose     *Loss
}

// Start starts a proxy in front of host:port. It ends with the test.
func Start(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &Proxy{
		Addr: l.Addr().String(), target: target, listener: l, ctx: ctx, cancel: cancel,
		changed: make(chan struct{}), links: map[*link]bool{},
	}
	p.running.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

func (p *Proxy) close() {
	p.cancel()
	_ = p.listener.Close()
	p.drop()
	p.running.Wait()
}

// Set makes the proxy misbehave like this from now on.
func (p *Proxy) Set(f Faults) {
	p.mu.Lock()
	p.faults = f
	close(p.changed)
	p.changed = make(chan struct{})
	p.mu.Unlock()
	if f.Cut {
		p.drop()
	}
}

// Accepted is how many connections clients have made so far.
func (p *Proxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// Loss is a reply that gets lost, or is held up.
type Loss struct {
	pattern []byte
	done    chan struct{}
	release chan struct{} // nil: the reply is lost
}

// Done is closed when the request has been executed and its reply lost or held up.
func (l *Loss) Done() <-chan struct{} { return l.done }

// Release lets a reply go on that was held up. Call it once.
func (l *Loss) Release() { close(l.release) }

// LoseReply waits for the next request that has this text in it, lets the
// server answer it, and resets the connection in place of the answer.
func (p *Proxy) LoseReply(pattern string) *Loss {
	return p.meet(&Loss{pattern: []byte(pattern), done: make(chan struct{})})
}

// HoldReply waits for the next request that has this text in it, lets the server
// answer it, and holds the answer up until Release.
func (p *Proxy) HoldReply(pattern string) *Loss {
	return p.meet(&Loss{pattern: []byte(pattern), done: make(chan struct{}), release: make(chan struct{})})
}

func (p *Proxy) meet(l *Loss) *Loss {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose = l
	return l
}

// take returns the loss that the request meets, once.
func (p *Proxy) take(request []byte) *Loss {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lose == nil || !bytes.Contains(request, p.lose.pattern) {
		return nil
	}
	l := p.lose
	p.lose = nil
	return l
}

func (p *Proxy) state() (Faults, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.faults, p.changed
}

func (p *Proxy) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.reset()
	}
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		p.mu.Lock()
		p.accepted++
		cut := p.faults.Cut
		p.mu.Unlock()
		if cut {
			(&link{client: client}).reset()
			continue
		}
		p.running.Go(func() { p.serve(client) })
	}
}

// link is a client's connection and the one it is passed on to.
type link struct {
	client, server net.Conn
	end            context.CancelFunc

	mu   sync.Mutex
	loss *Loss
}

// reset closes both ends as a crash does, without a farewell.
func (l *link) reset() {
	if l.end != nil {
		l.end()
	}
	for _, c := range []net.Conn{l.client, l.server} {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
			_ = tcp.Close()
		}
	}
}

func (p *Proxy) serve(client net.Conn) {
	ctx, end := context.WithCancel(p.ctx)
	defer end()
	server, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.target)
	l := &link{client: client, server: server, end: end}
	if err != nil {
		l.server = nil
		l.reset()
		return
	}
	p.mu.Lock()
	p.links[l] = true
	if p.faults.Cut { // since it was accepted
		l.reset()
	}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.links, l)
		p.mu.Unlock()
		l.reset()
	}()
	var both sync.WaitGroup
	both.Go(func() { defer l.reset(); p.pass(ctx, l, client, server, true) })
	both.Go(func() { defer l.reset(); p.pass(ctx, l, server, client, false) })
	both.Wait()
}

// chunk is what was read at once.
type chunk struct {
	data []byte
	at   time.Time
}

// pass copies one direction of a link until either end closes.
func (p *Proxy) pass(ctx context.Context, l *link, from, to net.Conn, request bool) {
	const most, piece = 1024, 32 << 10
	chunks := make(chan chunk, most)
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(chunks)
		for {
			data := make([]byte, piece)
			n, err := from.Read(data)
			if n > 0 {
				select {
				case chunks <- chunk{data[:n], time.Now()}:
				case <-ctx.Done():
					return
				}
			}
			if err != nil {
				return
			}
		}
	})
	for c := range chunks {
		if p.deliver(ctx, l, to, c, request) != nil {
			break
		}
	}
	l.reset() // ends the reader
	reader.Wait()
}

var errLost = errors.New("the reply is lost")

func (p *Proxy) deliver(ctx context.Context, l *link, to net.Conn, c chunk, request bool) error {
	if err := p.hold(ctx, c.at); err != nil {
		return err
	}
	l.mu.Lock()
	if request && l.loss == nil {
		l.loss = p.take(c.data)
	}
	loss := l.loss
	l.mu.Unlock()
	if loss == nil || request {
		return p.write(ctx, to, c.data)
	}
	if loss.release == nil {
		l.reset()
		close(loss.done)
		return errLost
	}
	l.mu.Lock()
	l.loss = nil
	l.mu.Unlock()
	close(loss.done)
	select {
	case <-loss.release:
	case <-ctx.Done():
		return ctx.Err()
	}
	return p.write(ctx, to, c.data)
}

// hold waits until what was read at a moment may go on.
func (p *Proxy) hold(ctx context.Context, read time.Time) error {
	for {
		f, changed := p.state()
		wait := time.Until(read.Add(f.Delay))
		if !f.Silent && wait <= 0 {
			return ctx.Err()
		}
		var timer <-chan time.Time
		if !f.Silent {
			timer = time.After(wait)
		}
		select {
		case <-timer:
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// write writes data at the rate that holds.
func (p *Proxy) write(ctx context.Context, to net.Conn, data []byte) error {
	const pace = 20 * time.Millisecond
	for len(data) > 0 {
		f, _ := p.state()
		n := len(data)
		if f.Rate > 0 {
			n = min(n, max(1, f.Rate/int(time.Second/pace)))
		}
		if _, err := to.Write(data[:n]); err != nil {
			return err
		}
		data = data[n:]
		if f.Rate > 0 {
			select {
			case <-time.After(pace):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}
