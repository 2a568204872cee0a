package container

import (
	"context"
	"fmt"

	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/formatter"
	"gantry/internal/client"
)

// List is `container ls`, known as ps.
var List = &command.Command{
	Name: "ls", Top: "ps", Aliases: []string{"list", "ps"}, Args: "[OPTIONS]", Short: "List containers",
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		var o client.ListOptions
		fs.BoolVarP(&o.All, "all", "a", false, "Those that do not run, too")
		command.Filters(fs, &o.Filters, "f", "Only those that meet a condition, such as status=exited")
		format := fs.String("format", "", "table, json, or a Go template; table TEMPLATE has headers")
		last := fs.IntP("last", "n", -1, "Only the last n created, whatever their state")
		latest := fs.BoolP("latest", "l", false, "Only the last created, whatever its state")
		noTrunc := fs.Bool("no-trunc", false, "Do not shorten anything")
		quiet := fs.BoolP("quiet", "q", false, "Only IDs")
		fs.BoolVarP(&o.Size, "size", "s", false, "Sizes of files, too")
		return func(ctx context.Context, env *command.Env, args []string) error {
			c, err := env.Client()
			if err != nil {
				return err
			}
			if o.Limit = *last; *latest && *last == -1 {
				o.Limit = 1
			}
			if *quiet && *format != "" {
				fmt.Fprintln(env.IO.Err, "WARNING: Ignoring custom format, because both --format and --quiet are set.")
			}
			f := formatter.Format(*format)
			if f == "" && !*quiet {
				f = formatter.Format(env.Config().PsFormat)
			}
			if *quiet && f.IsTable() {
				f = "{{.ID}}"
			}
			size := o.Size
			uses, err := formatter.UsesSize(f)
			if err != nil {
				return err
			}
			o.Size = size || uses && !*quiet
			list, err := c.ContainerList(ctx, o)
			if err != nil {
				return err
			}
			if *quiet && *format == "" {
				for i := range list {
					id := list[i].ID
					if !*noTrunc {
						id = formatter.ShortID(id)
					}
					fmt.Fprintln(env.IO.Out, id)
				}
				return nil
			}
			return formatter.Containers(env.IO.Out, f, size, *noTrunc, list)
		}
	},
}
