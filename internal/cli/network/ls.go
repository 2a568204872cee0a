package network

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/network"
	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/formatter"
	"gantry/internal/client"
)

// List is `network ls`.
var List = &command.Command{
	Name: "ls", Aliases: []string{"list"}, Args: "[OPTIONS]", Short: "List networks",
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		var filters client.Filters
		command.Filters(fs, &filters, "f", "Only those that meet a condition, such as driver=bridge")
		format := fs.String("format", "", "table, json, or a Go template; table TEMPLATE has headers")
		noTrunc := fs.Bool("no-trunc", false, "Do not shorten anything")
		quiet := fs.BoolP("quiet", "q", false, "Only IDs")
		return func(ctx context.Context, env *command.Env, args []string) error {
			c, err := env.Client()
			if err != nil {
				return err
			}
			list, err := c.NetworkList(ctx, filters)
			if err != nil {
				return err
			}
			slices.SortFunc(list, func(a, b network.Network) int { return strings.Compare(a.Name, b.Name) })
			if *quiet && *format == "" {
				for _, n := range list {
					if !*noTrunc {
						n.ID = formatter.ShortID(n.ID)
					}
					fmt.Fprintln(env.IO.Out, n.ID)
				}
				return nil
			}
			return formatter.Networks(env.IO.Out, formatter.Format(*format), *noTrunc, list)
		}
	},
}
