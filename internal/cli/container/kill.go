package container

import (
	"context"

	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/client"
)

// Kill is `container kill`.
var Kill = &command.Command{
	Name: "kill", Top: "kill", Args: "[OPTIONS] CONTAINER [CONTAINER...]", Short: "Send a signal to running containers",
	Min: 1, Max: -1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		signal := fs.StringP("signal", "s", "", "Signal to send (KILL)")
		return func(ctx context.Context, env *command.Env, args []string) error {
			return forEach(ctx, env, args, func(ctx context.Context, c *client.Client, name string) error {
				return c.ContainerKill(ctx, name, *signal)
			})
		}
	},
}
