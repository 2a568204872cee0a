package build

import (
	"context"
	"fmt"
	"os"
	"os/exec"

	"gantry/internal/cli/command"
	"gantry/internal/client"
)

// shell opens one in the state before the step that failed. It is a container of an image that nobody else has, and both are gone
// when it ends.
func (p *plan) shell(ctx context.Context, env *command.Env, c *client.Client) {
	built := p.last.Built
	switch {
	case !p.request.Debug:
		fmt.Fprintln(env.IO.Err, "--debug opens a shell on a terminal, and stdin and stdout are not both one")
		return
	case built == nil || built.Debug == "":
		fmt.Fprintln(env.IO.Err, "--debug: there is no state before this step that a shell could run in")
		return
	}
	image := built.Debug.String()
	defer func() {
		if _, err := c.ImageRemove(context.WithoutCancel(ctx), image, true, false); err != nil {
			fmt.Fprintln(env.IO.Err, "--debug: remove the state before the step:", err)
		}
	}()
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(env.IO.Err, "--debug:", err)
		return
	}
	args := []string{"--host", c.Host(), "run", "--rm", "-it"}
	if n := p.request.Network; n != "" {
		args = append(args, "--network", n)
	}
	for _, h := range p.request.ExtraHosts {
		args = append(args, "--add-host", h)
	}
	fmt.Fprintln(env.IO.Err, "the state before this step; exit ends it:")
	cmd := exec.CommandContext(ctx, self, append(args, image)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	_ = cmd.Run() // how the shell ends is the user's
}
