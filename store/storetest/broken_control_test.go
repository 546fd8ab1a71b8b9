package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// bentControl is a channel to workers with a bend in it.
type bentControl struct {
	store.Control
	listened func(x bentControl, ctx context.Context)
	ask      func(c store.Command) store.Command
	asked    func(x bentControl, ctx context.Context, c store.Command, r store.Replies) (store.Replies, error)
	reply    func(r store.Reply) (store.Reply, bool)
}

func (x bentControl) Listen(ctx context.Context, worker string) (store.Commands, error) {
	l, err := x.Control.Listen(ctx, worker)
	if err == nil && x.listened != nil {
		x.listened(x, ctx)
	}
	return bentCommands{l, x}, err
}

func (x bentControl) Ask(ctx context.Context, c store.Command) (store.Replies, error) {
	bent := c
	if x.ask != nil {
		bent = x.ask(c)
	}
	r, err := x.Control.Ask(ctx, bent)
	if err == nil && x.asked != nil {
		return x.asked(x, ctx, c, r)
	}
	return r, err
}

type bentCommands struct {
	store.Commands
	x bentControl
}

func (l bentCommands) Reply(ctx context.Context, r store.Reply) error {
	if l.x.reply != nil {
		var send bool
		if r, send = l.x.reply(r); !send {
			return nil
		}
	}
	return l.Commands.Reply(ctx, r)
}

// bentBeats is a store of heartbeats whose followers are told something else.
type bentBeats struct {
	store.Heartbeats
	beat   func(h store.Heartbeat) store.Heartbeat
	follow func(s store.Beats) store.Beats
}

func (b bentBeats) Beat(ctx context.Context, h store.Heartbeat, ttl time.Duration) error {
	if b.beat != nil {
		h = b.beat(h)
	}
	return b.Heartbeats.Beat(ctx, h, ttl)
}

func (b bentBeats) Follow(ctx context.Context) (store.Beats, error) {
	s, err := b.Heartbeats.(store.BeatFollower).Follow(ctx)
	if err == nil && b.follow != nil {
		s = b.follow(s)
	}
	return s, err
}

// deafBeats tells of nothing that another process stored, or once only.
type deafBeats struct {
	store.Beats
	n *int
}

func (d deafBeats) Next(ctx context.Context) (store.Heartbeat, error) {
	for {
		h, err := d.Beats.Next(ctx)
		if *d.n++; err != nil || *d.n%2 == 1 {
			return h, err
		}
	}
}

func brokenControls() []broken {
	with := func(x bentControl) func(t testing.TB) Backend {
		return func(t testing.TB) Backend {
			b := openMemory(t)
			x.Control = b.Control
			b.Control = x
			return b
		}
	}
	beats := func(x bentBeats) func(t testing.TB) Backend {
		return func(t testing.TB) Backend {
			b := openMemory(t)
			x.Heartbeats = b.Heartbeats
			b.Heartbeats = x
			return b
		}
	}
	return []broken{
		{name: "tells commands to everybody", rule: "C1", open: with(bentControl{ask: func(c store.Command) store.Command {
			if c.To != "" {
				c.To = "*"
			}
			return c
		}})},
		{name: "does not know patterns", rule: "C1", also: "C3", open: with(bentControl{ask: func(c store.Command) store.Command {
			if c.To == "*" || c.To == "a*" {
				c.To = "a1"
			}
			return c
		}})},
		{name: "keeps commands for who is away", rule: "C2", also: "C4", open: func(t testing.TB) Backend {
			var kept []store.Command
			return with(bentControl{
				ask: func(c store.Command) store.Command { kept = append(kept, c); return c },
				listened: func(x bentControl, ctx context.Context) {
					for _, c := range kept {
						if r, err := x.Control.Ask(ctx, c); err == nil {
							_ = r.Close()
						}
					}
				},
			})(t)
		}},
		{name: "forgets what is replied", rule: "C3", open: with(bentControl{reply: func(r store.Reply) (store.Reply, bool) {
			r.Data = nil
			return r, true
		}})},
		{name: "drops refusals", rule: "C3", also: "C5", open: with(bentControl{reply: func(r store.Reply) (store.Reply, bool) { return r, r.Error == "" }})},
		{name: "delivers however late", rule: "C4", also: "C1", open: with(bentControl{ask: func(c store.Command) store.Command {
			if c.For > 0 {
				c.For = long
			}
			return c
		}})},
		{name: "sends whatever it is given", rule: "C5", open: with(bentControl{ask: func(c store.Command) store.Command {
			if c.Check() != nil {
				c = store.Command{ID: task.NewID(), To: "nobody", Kind: "x", For: long}
			}
			return c
		}})},
		{name: "does not end its streams", rule: "C6", open: with(bentControl{
			asked: func(_ bentControl, _ context.Context, _ store.Command, r store.Replies) (store.Replies, error) {
				return endless{r}, nil
			},
		})},
		{name: "tells half of the heartbeats", rule: "H1", open: beats(bentBeats{follow: func(s store.Beats) store.Beats { return deafBeats{s, new(int)} }})},
		{name: "lists who has stopped", rule: "H1", open: beats(bentBeats{beat: func(h store.Heartbeat) store.Heartbeat {
			h.Stopped = false
			return h
		}})},
	}
}

// endless goes on after its first Close.
type endless struct{ store.Replies }

func (endless) Close() error { return nil }
