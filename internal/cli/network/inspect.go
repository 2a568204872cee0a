package network

import (
	"context"

	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/formatter"
)

// Inspect is `network inspect`.
var Inspect = &command.Command{
	Name: "inspect", Args: "[OPTIONS] NETWORK [NETWORK...]", Short: "Show all that is known of networks",
	Min: 1, Max: -1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		format := fs.StringP("format", "f", "", "json, or a Go template")
		fs.BoolP("verbose", "v", false, "Accepted for docker's sake: it says more of swarm's networks only")
		return func(ctx context.Context, env *command.Env, args []string) error {
			c, err := env.Client()
			if err != nil {
				return err
			}
			return formatter.Inspect(env.IO.Out, *format, args, func(name string) (any, []byte, error) {
				raw, err := c.InspectRaw(ctx, "networks", name, false)
				return &formatter.Network{}, raw, err
			})
		}
	},
}
