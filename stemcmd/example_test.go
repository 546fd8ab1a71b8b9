package stemcmd_test

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/stemjobs/stem"
	"github.com/stemjobs/stem/stemcmd"
)

// A program with a task of its own has all the commands for it. Its main would
// be os.Exit(stemcmd.Main(app)).
func Example() {
	upper := stem.NewTask[string, string]("text.upper", stem.MaxRetries(5))
	app := stemcmd.App{
		Name: "texts",
		Tasks: []stem.Registration{
			upper.With(func(_ context.Context, text string) (string, error) { return strings.ToUpper(text), nil }),
		},
	}
	code := stemcmd.Run(context.Background(), app, stemcmd.Process{
		Args: []string{"tasks", "names"}, Stdout: os.Stdout, Stderr: os.Stderr,
	})
	fmt.Println("exit code", code)
	// Output:
	// TASK        QUEUE    PRIORITY  RETRIES  SOFT LIMIT  HARD LIMIT
	// text.upper  default         5        5  -           -
	// exit code 0
}
