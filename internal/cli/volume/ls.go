package volume

import (
	"context"
	"fmt"

	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/formatter"
	"gantry/internal/client"
)

// List is `volume ls`.
var List = &command.Command{
	Name: "ls", Aliases: []string{"list"}, Args: "[OPTIONS]", Short: "List volumes",
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		var filters client.Filters
		command.Filters(fs, &filters, "f", "Only those that meet a condition, such as dangling=true")
		format := fs.String("format", "", "table, json, or a Go template; table TEMPLATE has headers")
		quiet := fs.BoolP("quiet", "q", false, "Only names")
		return func(ctx context.Context, env *command.Env, args []string) error {
			c, err := env.Client()
			if err != nil {
				return err
			}
			list, err := c.VolumeList(ctx, filters)
			if err != nil {
				return err
			}
			for _, w := range list.Warnings {
				fmt.Fprintln(env.IO.Err, "WARNING:", w)
			}
			if *quiet && *format == "" {
				for _, v := range list.Volumes {
					fmt.Fprintln(env.IO.Out, v.Name)
				}
				return nil
			}
			return formatter.Volumes(env.IO.Out, formatter.Format(*format), list.Volumes)
		}
	},
}
