package container

import (
	"context"

	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/formatter"
)

// Inspect is `container inspect`.
var Inspect = &command.Command{
	Name: "inspect", Args: "[OPTIONS] CONTAINER [CONTAINER...]", Short: "Show all that is known of containers",
	Min: 1, Max: -1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		format := fs.StringP("format", "f", "", "json, or a Go template")
		size := fs.BoolP("size", "s", false, "Sizes of files, too")
		return func(ctx context.Context, env *command.Env, args []string) error {
			c, err := env.Client()
			if err != nil {
				return err
			}
			return formatter.Inspect(env.IO.Out, *format, args, func(name string) (any, []byte, error) {
				raw, err := c.InspectRaw(ctx, "containers", name, *size)
				return &formatter.Container{}, raw, err
			})
		}
	},
}
