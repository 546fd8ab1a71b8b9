package stemcmd_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/backend/memory"
	"github.com/stemjobs/stem/broker"
	"github.com/stemjobs/stem/connect"
	"github.com/stemjobs/stem/stemcmd"
	"github.com/stemjobs/stem/store"
)

// restarting is a store that can be away, as a server is that is restarted.
type restarting struct {
	*memory.DB
	mu    sync.Mutex
	away  bool
	beats []store.Beats // that a restart ends
}

func (r *restarting) Close() error                 { return nil }
func (r *restarting) Heartbeats() store.Heartbeats { return restartingBeats{r.DB.Heartbeats(), r} }

func (r *restarting) set(away bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.away = away
	for _, b := range r.beats {
		_ = b.Close() // the connection is lost
	}
	r.beats = nil
}

type restartingBeats struct {
	store.Heartbeats
	r *restarting
}

func (b restartingBeats) Workers(ctx context.Context) ([]store.Heartbeat, error) {
	b.r.mu.Lock()
	defer b.r.mu.Unlock()
	if b.r.away {
		return nil, broker.ErrUnavailable
	}
	return b.Heartbeats.Workers(ctx)
}

func (b restartingBeats) Follow(ctx context.Context) (store.Beats, error) {
	b.r.mu.Lock()
	defer b.r.mu.Unlock()
	if b.r.away {
		return nil, broker.ErrUnavailable
	}
	s, err := b.Heartbeats.(store.BeatFollower).Follow(ctx)
	if err == nil {
		b.r.beats = append(b.r.beats, s)
	}
	return lostBeats{s}, err
}

type lostBeats struct{ store.Beats }

func (l lostBeats) Next(ctx context.Context) (store.Heartbeat, error) {
	h, err := l.Beats.Next(ctx)
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w: connection lost", broker.ErrUnavailable)
	}
	return h, err
}

// TestFollowSurvivesARestart follows heartbeats over a restart of the store:
// nobody is late while nobody could be heard, and who is silent after it is.
func TestFollowSurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &restarting{DB: memory.New()}
		defer r.DB.Close()
		beat := func(worker string) {
			t.Helper()
			h := store.Heartbeat{Worker: worker, At: time.Now(), Interval: 10_000}
			if err := r.DB.Heartbeats().Beat(t.Context(), h, time.Hour); err != nil {
				t.Error(err)
			}
		}
		beat("a")
		beat("b")
		var out, errs bytes.Buffer
		ended := make(chan int)
		go func() {
			ended <- stemcmd.Run(t.Context(), stemcmd.App{
				Openers: map[string]connect.Opener{"kept": func(context.Context, string, connect.Options) (stem.Backend, error) { return r, nil }},
			}, stemcmd.Process{
				Args: []string{"worker", "status", "--follow", "--timeout", "100s"}, Stdout: &out, Stderr: &errs,
				Env: []string{"STEM_BROKER_URL=kept:it"},
			})
		}()
		time.Sleep(10 * time.Second)
		beat("a")
		beat("b")
		time.Sleep(time.Second)
		r.set(true)
		time.Sleep(30 * time.Second) // nobody can be heard
		r.set(false)
		time.Sleep(5 * time.Second)
		beat("a") // and b is silent from now on
		for range 5 {
			time.Sleep(10 * time.Second)
			beat("a")
		}
		if code := <-ended; code != 0 {
			t.Errorf("exit code %d, want 0", code)
		}
		var events []string
		for line := range strings.Lines(out.String()) {
			var e struct{ Event, Worker string }
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			events = append(events, e.Worker+" "+e.Event)
		}
		got, want := strings.Join(events, ", "), "a beat, b beat, a beat, b beat, a beat, a beat, b late, a beat, b gone, a beat, a beat, a beat"
		if got != want {
			t.Errorf("events: %s\nwant: %s", got, want)
		}
		if text := errs.String(); strings.Count(text, "\n") != 2 || !strings.Contains(text, "cannot be reached") || !strings.Contains(text, "is back") {
			t.Errorf("it tells %q", text)
		}
	})
}
