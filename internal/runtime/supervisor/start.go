package supervisor

import (
	"fmt"
	"os"
	"time"

	"gantry/internal/runtime/component"
)

// start starts a supervisor as opts say and returns when it, or another one, listens.
func start(opts *Options, deadline time.Time) error {
	program, err := opts.Program()
	if err != nil {
		return err
	}
	defer program.Close()
	init, err := opts.Init()
	if err != nil {
		return err
	}
	defer init.Close()
	c := component.Component{Name: "supervisor", Dir: opts.ExecRoot, Build: opts.Build, Program: program, Files: []*os.File{init}, Cgroup: &opts.Cgroup}
	if err := c.Start(deadline); err != nil {
		return fmt.Errorf("start the supervisor: %w", err)
	}
	return nil
}
