package store_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stemjobs/stem/store"
	"github.com/stemjobs/stem/task"
)

// One Apply takes so many changes that every store can take them in one step.
func TestCheckChanges(t *testing.T) {
	at := time.Now().Add(time.Hour)
	changes := make([]store.ScheduleChange, store.MaxChanges+1)
	for i := range changes {
		changes[i] = store.ScheduleChange{ID: fmt.Sprint("s", i), Definition: []byte("{}"), NextDue: at, NextAt: at}
	}
	if err := store.CheckChanges(changes[1:]); err != nil {
		t.Errorf("%d changes: %v", store.MaxChanges, err)
	}
	if err := store.CheckChanges(changes); !errors.Is(err, task.ErrInvalid) {
		t.Errorf("%d changes: got %v, want it refused", store.MaxChanges+1, err)
	}
}
