package network

import (
	"context"
	"fmt"

	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/client"
)

// Remove is `network rm`.
var Remove = &command.Command{
	Name: "rm", Aliases: []string{"remove"}, Args: "NETWORK [NETWORK...]", Short: "Remove networks",
	Min: 1, Max: -1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		force := fs.BoolP("force", "f", false, "Do not mind those that are not there")
		return func(ctx context.Context, env *command.Env, args []string) error {
			c, err := env.Client()
			if err != nil {
				return err
			}
			return each(args, func(name string) error {
				err := c.NetworkRemove(ctx, name)
				if err != nil && *force && client.IsNotFound(err) {
					return nil
				}
				if err == nil {
					fmt.Fprintln(env.IO.Out, name)
				}
				return err
			})
		}
	},
}

// Prune is `network prune`.
var Prune = &command.Command{
	Name: "prune", Args: "[OPTIONS]", Short: "Remove the networks that no container uses",
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		filters := pruneFilters(fs)
		force := fs.BoolP("force", "f", false, "Do not ask")
		return func(ctx context.Context, env *command.Env, args []string) error {
			if !*force {
				fmt.Fprint(env.IO.Out, "WARNING! This will remove all custom networks not used by at least one container.\nAre you sure you want to continue? [y/N] ")
				var answer string
				fmt.Fscanln(env.IO.In, &answer)
				if answer != "y" && answer != "Y" {
					return nil
				}
			}
			c, err := env.Client()
			if err != nil {
				return err
			}
			report, err := c.NetworkPrune(ctx, *filters)
			if err != nil {
				return err
			}
			if len(report.NetworksDeleted) > 0 {
				fmt.Fprintln(env.IO.Out, "Deleted Networks:")
				for _, n := range report.NetworksDeleted {
					fmt.Fprintln(env.IO.Out, n)
				}
				fmt.Fprintln(env.IO.Out)
			}
			return nil
		}
	},
}
