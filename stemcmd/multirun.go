package stemcmd

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"
)

func (s *session) multiStart(ctx context.Context, _ *multiFlags, nodes []node) error {
	for i := range nodes {
		if nodes[i].look(); nodes[i].State == "running" {
			nodes[i].Detail = "it ran already"
			continue
		}
		if err := s.launch(ctx, &nodes[i]); err != nil {
			return err
		}
	}
	return s.tellNodes(nodes, ExitFailed, "failed")
}

func (s *session) multiStop(ctx context.Context, f *multiFlags, nodes []node) error {
	for i := range nodes {
		nodes[i].look()
		if err := nodes[i].ask(f.mode); err != nil {
			return err
		}
	}
	deadline := time.Now().Add(time.Duration(f.grace))
	for i := range nodes {
		if err := nodes[i].await(ctx, deadline); err != nil {
			return err
		}
	}
	return s.tellNodes(nodes, ExitPartly, stillRunning)
}

const stillRunning = "still running"

func (s *session) multiRestart(ctx context.Context, f *multiFlags, nodes []node) error {
	for i := range nodes {
		n := &nodes[i]
		n.look()
		if err := n.ask(f.mode); err != nil {
			return err
		}
		if err := n.await(ctx, time.Now().Add(time.Duration(f.grace))); err != nil {
			return err
		}
		if n.State == stillRunning {
			break
		}
		if err := s.launch(ctx, n); err != nil {
			return err
		}
		if n.State == "failed" {
			break // the others run on
		}
	}
	for i := range nodes {
		if nodes[i].State == "" {
			nodes[i].look()
			nodes[i].Detail = "left as it is"
		}
	}
	return s.tellNodes(nodes, ExitPartly, stillRunning, "failed")
}

func (s *session) multiStatus(_ context.Context, _ *multiFlags, nodes []node) error {
	for i := range nodes {
		nodes[i].look()
	}
	return s.tellNodes(nodes, ExitFailed, stateStopped)
}

// ask tells a worker that runs to stop.
func (n *node) ask(mode string) error {
	if n.PID == 0 {
		return nil
	}
	signal, _ := stopSignal(mode)
	p, err := os.FindProcess(n.PID)
	if err == nil {
		err = p.Signal(signal)
	}
	if err != nil && runs(n.PID) {
		return fmt.Errorf("stop worker %s, process %d: %w", n.Name, n.PID, err)
	}
	return nil
}

// endLook is how often a worker that was asked to stop is looked at. It is no
// child of this process, which could be told.
const endLook = 50 * time.Millisecond

// await waits until a worker has ended, and removes the file of its id.
func (n *node) await(ctx context.Context, deadline time.Time) error {
	tick := time.NewTicker(endLook)
	defer tick.Stop()
	for n.PID != 0 && runs(n.PID) {
		if time.Now().After(deadline) {
			n.State, n.Detail = stillRunning, "it has not ended in time: its log says what it waits for"
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
	n.State, n.PID = stateStopped, 0
	_ = os.Remove(n.PIDFile) // a file too many does no harm
	return nil
}

// tellNodes shows the workers, and fails with code when one is in a bad state.
func (s *session) tellNodes(nodes []node, code int, bad ...string) error {
	if _, err := list(s, nodeView(), one(nodes)); err != nil {
		return err
	}
	for i := range nodes {
		for _, state := range bad {
			if n := &nodes[i]; n.State == state {
				return fail(code, "worker %s: %s", n.Name, n.State)
			}
		}
	}
	return nil
}

func nodeView() view[node] {
	return view[node]{
		columns: []column[node]{
			{head: "NAME", cell: func(n *node) string { return n.Name }},
			{head: "STATE", cell: func(n *node) string { return n.State }, paint: func(n *node) string {
				switch n.State {
				case "running", "started":
					return green
				case stateStopped:
					return faint
				}
				return red
			}},
			{head: "PID", right: true, cell: func(n *node) string {
				if n.PID == 0 {
					return "-"
				}
				return strconv.Itoa(n.PID)
			}},
			{head: "LOG", cell: func(n *node) string { return n.LogFile }},
			{head: "DETAIL", cell: func(n *node) string { return n.Detail }},
			{head: "PID FILE", wide: true, cell: func(n *node) string { return n.PIDFile }},
		},
		name: func(n *node) string { return n.Name },
	}
}
