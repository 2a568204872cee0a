package image

import (
	"context"

	"github.com/moby/moby/api/types/image"
	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/formatter"
)

// Inspect is `image inspect`.
var Inspect = &command.Command{
	Name: "inspect", Args: "[OPTIONS] IMAGE [IMAGE...]", Short: "Show all that is known of images",
	Min: 1, Max: -1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		format := fs.StringP("format", "f", "", "json, or a Go template")
		return func(ctx context.Context, env *command.Env, args []string) error {
			c, err := env.Client()
			if err != nil {
				return err
			}
			return formatter.Inspect(env.IO.Out, *format, args, func(name string) (any, []byte, error) {
				raw, err := c.InspectRaw(ctx, "images", name, false)
				return &image.InspectResponse{}, raw, err
			})
		}
	},
}
