package volume

import (
	"context"

	"github.com/moby/moby/api/types/volume"
	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/formatter"
)

// Inspect is `volume inspect`.
var Inspect = &command.Command{
	Name: "inspect", Args: "[OPTIONS] VOLUME [VOLUME...]", Short: "Show all that is known of volumes",
	Min: 1, Max: -1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		format := fs.StringP("format", "f", "", "json, or a Go template")
		return func(ctx context.Context, env *command.Env, args []string) error {
			c, err := env.Client()
			if err != nil {
				return err
			}
			return formatter.Inspect(env.IO.Out, *format, args, func(name string) (any, []byte, error) {
				raw, err := c.InspectRaw(ctx, "volumes", name, false)
				return &volume.Volume{}, raw, err
			})
		}
	},
}
