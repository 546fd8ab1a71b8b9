// Command stem enqueues tasks, executes those that are commands, and looks
// after all of them: see stem --help.
package main

import (
	"os"

	"github.com/stemjobs/stem/stemcmd"
)

func main() {
	os.Exit(stemcmd.Main(stemcmd.App{Name: "stem", Demo: true}))
}
