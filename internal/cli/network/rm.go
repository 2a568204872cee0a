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
			return command.Each(args, func(name string) error {
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
		var filters client.Filters
		command.Filters(fs, &filters, "", "Only those that meet a condition, such as until=24h")
		force := fs.BoolP("force", "f", false, "Do not ask")
		return func(ctx context.Context, env *command.Env, args []string) error {
			if !*force && !command.Confirm(env, "WARNING! This will remove all custom networks not used by at least one container.") {
				return nil
			}
			c, err := env.Client()
			if err != nil {
				return err
			}
			report, err := c.NetworkPrune(ctx, filters)
			if err != nil {
				return err
			}
			command.Removed(env, "Deleted Networks:", report.NetworksDeleted)
			return nil
		}
	},
}
