package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"gantry/internal/cli/command"
)

// TestMain makes the commands of the scripts: this very package, called by either of its names.
func TestMain(m *testing.M) {
	run := func() {
		os.Exit(Main(os.Args, Build{Version: "1.2.3", Commit: "abc"}, func(_ context.Context, env *command.Env) error {
			fmt.Fprintln(env.IO.Err, "would start the engine")
			return errors.New("but this is a test")
		}))
	}
	testscript.Main(m, map[string]func(){"gantry": run, "docker": run})
}

// TestScripts runs testdata/script: what the command line says without any engine.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			return nil
		},
	})
}
