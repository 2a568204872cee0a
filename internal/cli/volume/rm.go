package volume

import (
	"context"
	"errors"
	"fmt"

	"github.com/moby/moby/api/types/volume"
	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/client"
)

// Remove is `volume rm`.
var Remove = &command.Command{
	Name: "rm", Aliases: []string{"remove"}, Args: "[OPTIONS] VOLUME [VOLUME...]", Short: "Remove volumes",
	Min: 1, Max: -1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		force := fs.BoolP("force", "f", false, "Do not mind those that are not there")
		choose := command.Removal(fs, env)
		return func(ctx context.Context, env *command.Env, args []string) error {
			ctx = choose(ctx)
			c, err := env.Client()
			if err != nil {
				return err
			}
			return command.Each(args, func(name string) error {
				err := c.VolumeRemove(ctx, name, *force)
				if err == nil {
					fmt.Fprintln(env.IO.Out, name)
				}
				return err
			})
		}
	},
}

// Prune is `volume prune`.
var Prune = &command.Command{
	Name: "prune", Args: "[OPTIONS]", Short: "Remove the volumes that no container uses",
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		var which client.Filters
		command.Filters(fs, &which, "", "Only those that meet a condition, such as label=keep=no")
		force := fs.BoolP("force", "f", false, "Do not ask")
		all := fs.BoolP("all", "a", false, "Also those that have a name")
		choose := command.Removal(fs, env)
		return func(ctx context.Context, env *command.Env, args []string) error {
			ctx = choose(ctx)
			question := "WARNING! This will remove anonymous local volumes not used by at least one container."
			if *all {
				if which.Has("all") {
					return errors.New("conflicting options: cannot specify both --all and --filter all=1")
				}
				question = "WARNING! This will remove all local volumes not used by at least one container."
				which.Add("all", "true")
			}
			c, err := env.Client()
			if err != nil {
				return err
			}
			if !*force {
				command.ShowPrunable(ctx, env, c, which, "volumes")
				if !command.Confirm(env, question) {
					return nil
				}
			}
			var report volume.PruneReport
			if err := c.Prune(ctx, "volumes", which, &report); err != nil {
				return err
			}
			command.Removed(env, "Deleted Volumes:", report.VolumesDeleted)
			command.Reclaimed(env, report.SpaceReclaimed)
			return nil
		}
	},
}

// Update is `volume update`. Docker has it for swarm's volumes only; here it also says whether a volume is protected.
var Update = &command.Command{
	Name: "update", Args: "[OPTIONS] VOLUME", Short: "Change a volume",
	Min: 1, Max: 1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		fs.String("availability", "active", `Of a cluster volume ("active", "pause", "drain")`)
		protect := fs.Bool("protect", false, "Keep it from rm and prune; --protect=false does so no longer")
		return func(ctx context.Context, env *command.Env, args []string) error {
			c, err := env.Client()
			if err != nil {
				return err
			}
			if fs.Changed("protect") {
				return c.VolumeProtect(ctx, args[0], *protect)
			}
			if _, err := c.VolumeInspect(ctx, args[0]); err != nil {
				return err
			}
			return errors.New("Can only update cluster volumes") // docker's word for word
		}
	},
}
