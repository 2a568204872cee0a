package container

import (
	"errors"
	"testing"

	"gantry/internal/cli/command"
)

// TestRunSaysWhatIsMissing: whoever has imported a file system, and runs it as any other image, is told what it lacks.
func TestRunSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	err := runError(&command.Env{Prog: "gantry"}, errors.New("Error response from daemon: No command specified"), "run")
	var hint *command.Hint
	var status *command.StatusError
	if !errors.As(err, &hint) || hint.Line == "" || !errors.As(err, &status) || status.Code != 125 {
		t.Errorf("%#v", err)
	}
	if err := runError(&command.Env{Prog: "gantry"}, errors.New("something else"), "run"); errors.As(err, &hint) {
		t.Errorf("%#v", err)
	}
}
