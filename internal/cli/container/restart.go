package container

import (
	"context"

	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/client"
)

// Restart is `container restart`.
var Restart = &command.Command{
	Name: "restart", Top: "restart", Args: "[OPTIONS] CONTAINER [CONTAINER...]", Short: "Stop containers and start them again",
	Min: 1, Max: -1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		options := stopFlags(fs, env)
		return func(ctx context.Context, env *command.Env, args []string) error {
			o := options()
			return forEach(ctx, env, args, func(ctx context.Context, c *client.Client, name string) error {
				return c.ContainerRestart(ctx, name, o)
			})
		}
	},
}
