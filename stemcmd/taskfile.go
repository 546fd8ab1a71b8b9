package stemcmd

import (
	"errors"

	"github.com/stemjobs/stem"
)

// loadTasksFile returns the tasks of a tasks file.
func loadTasksFile(path string) ([]stem.Registration, error) {
	return nil, errors.New("tasks files are not there yet")
}
