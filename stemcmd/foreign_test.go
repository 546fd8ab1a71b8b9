package stemcmd_test

import (
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/stemjobs/stem/internal/redistest"
)

// TestKeysOfAnotherType runs commands on a Redis server in which keys are of another
// type than Stem's.
func TestKeysOfAnotherType(t *testing.T) {
	server := redistest.Start(t, redistest.Options{})
	params := scripts()
	params.Dir = filepath.Join("testdata", "foreign")
	setup := params.Setup
	params.Setup = func(env *testscript.Env) error {
		env.Setenv("STEM_BROKER_URL", "redis://"+server.Addr)
		return setup(env)
	}
	params.Cmds["redis"] = func(ts *testscript.TestScript, _ bool, args []string) {
		words := make([]any, len(args))
		for i, w := range args {
			words[i] = w
		}
		_, err := server.Try(words...)
		ts.Check(err)
	}
	testscript.Run(t, params)
}
