package relay

import (
	"fmt"
	"time"

	"gantry/internal/runtime/component"
)

// start starts a relay and returns when it, or another one, listens.
func start(opts *Options, deadline time.Time) error {
	program, err := opts.Program()
	if err != nil {
		return err
	}
	defer program.Close()
	build, err := opts.Build()
	if err != nil {
		return err
	}
	cgroup, err := opts.Cgroup()
	if err != nil {
		return fmt.Errorf("make the relay's cgroup: %w", err)
	}
	// It connects to containers and asks name servers from the host's namespace, and is born there.
	c := component.Component{Name: "relay", Dir: opts.Dir, Build: build, Program: program, Cgroup: &cgroup, In: opts.Host.Do}
	if err := c.Start(deadline); err != nil {
		return fmt.Errorf("start the relay: %w", err)
	}
	return nil
}
