package task_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/stemjobs/stem/task"
)

// TestMoves holds the table of legal moves as the documentation says it.
func TestMoves(t *testing.T) {
	legal := map[[2]task.State]bool{
		{task.Queued, task.Running}: true, {task.Queued, task.Cancelled}: true, {task.Queued, task.Failed}: true,
		{task.Running, task.Succeeded}: true, {task.Running, task.Retried}: true, {task.Running, task.Failed}: true,
		{task.Running, task.Cancelled}: true, {task.Running, task.Queued}: true, {task.Running, task.Running}: true,
		{task.Retried, task.Running}: true, {task.Retried, task.Cancelled}: true, {task.Retried, task.Failed}: true,
		{task.Failed, task.Queued}: true,
	}
	for _, from := range task.States() {
		for _, to := range task.States() {
			if got := task.CanMove(from, to); got != legal[[2]task.State{from, to}] {
				t.Errorf("CanMove(%s, %s) = %v", from, to, got)
			}
		}
	}
	if task.CanMove("", task.Queued) || task.CanMove(task.Queued, "") || task.CanMove("lost", "lost") {
		t.Error("a move from or to a state that does not exist is legal")
	}
}

// TestWalks takes random walks from queued along legal moves.
func TestWalks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		state, replays, deaths := task.Queued, 0, 0
		for range rapid.IntRange(0, 50).Draw(t, "steps") {
			next := slices.DeleteFunc(task.States(), func(to task.State) bool { return !task.CanMove(state, to) })
			if len(next) == 0 {
				if !state.Terminal() {
					t.Fatalf("%s is a dead end and not terminal", state)
				}
				return
			}
			to := rapid.SampledFrom(next).Draw(t, "to")
			switch {
			case state.Terminal() && (state != task.Failed || to != task.Queued):
				t.Fatalf("%s, which is terminal, may become %s", state, to)
			case state.Terminal():
				replays++
			case to == task.Failed:
				deaths++
			}
			if to == task.Succeeded && state != task.Running {
				t.Fatalf("a task succeeds that was %s", state)
			}
			state = to
		}
		if replays > deaths {
			t.Fatalf("%d replays of %d dead letters", replays, deaths)
		}
	})
}

// TestEveryStateCanEnd: no task is stuck for ever, wherever it is.
func TestEveryStateCanEnd(t *testing.T) {
	for _, from := range task.States() {
		reached := []task.State{from}
		for i := 0; i < len(reached); i++ {
			for _, to := range task.States() {
				if task.CanMove(reached[i], to) && !slices.Contains(reached, to) {
					reached = append(reached, to)
				}
			}
		}
		if !slices.ContainsFunc(reached, task.State.Terminal) {
			t.Errorf("from %s no terminal state can be reached", from)
		}
	}
}
