package volume

import (
	"context"
	"errors"
	"fmt"

	"github.com/moby/moby/api/types/volume"
	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/flags"
	"gantry/internal/cli/parse"
)

// Create is `volume create`.
var Create = &command.Command{
	Name: "create", Args: "[OPTIONS] [VOLUME]", Short: "Create a volume",
	Max: 1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		r := &volume.CreateRequest{}
		fs.StringVarP(&r.Driver, "driver", "d", "local", "What keeps the volume: local")
		fs.StringVar(&r.Name, "name", "", "Its name, as an option")
		fs.Lookup("name").Hidden = true
		labels, options := flags.NewList("list", nil), flags.NewList("map", nil)
		fs.Var(labels, "label", "Label")
		fs.VarP(options, "opt", "o", "Driver option: type=, device= and o= of mount(8), or size=")
		protect := fs.Bool("protect", false, "Keep it from rm and prune")
		return func(ctx context.Context, env *command.Env, args []string) error {
			if len(args) == 1 {
				if r.Name != "" {
					return errors.New("conflicting options: cannot specify a volume-name through both --name and as a positional arg")
				}
				r.Name = args[0]
			}
			r.Labels, r.DriverOpts = parse.Pairs(labels.Values), parse.Pairs(options.Values)
			c, err := env.Client()
			if err != nil {
				return err
			}
			x, err := c.VolumeCreate(ctx, r, *protect)
			if err != nil {
				return err
			}
			fmt.Fprintln(env.IO.Out, x.Name)
			return nil
		}
	},
}
