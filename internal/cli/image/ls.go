// Package image is the verbs of images, one file each.
package image

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/formatter"
	"gantry/internal/client"
)

// List is `image ls`, known as images.
var List = &command.Command{
	Name: "ls", Top: "images", Aliases: []string{"list"}, Args: "[OPTIONS] [REPOSITORY[:TAG]]", Short: "List images",
	Max: 1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		var filters client.Filters
		all := fs.BoolP("all", "a", false, "Those in between, too")
		command.Filters(fs, &filters, "f", "Only those that meet a condition, such as dangling=true")
		format := fs.String("format", "", "table, json, or a Go template; table TEMPLATE has headers")
		digests := fs.Bool("digests", false, "Digests, too")
		noTrunc := fs.Bool("no-trunc", false, "Do not shorten anything")
		quiet := fs.BoolP("quiet", "q", false, "Only IDs")
		asTree := fs.Bool("tree", false, "With the platforms of each, and what they take")
		return func(ctx context.Context, env *command.Env, args []string) error {
			if *asTree && (*quiet || *digests || *noTrunc || *format != "") {
				return errors.New("--tree shows everything in a form of its own: it goes with no --quiet, --digests, --no-trunc or --format")
			}
			c, err := env.Client()
			if err != nil {
				return err
			}
			if len(args) > 0 {
				filters.Add("reference", args[0])
			}
			if *asTree {
				list, err := c.ImageManifests(ctx, *all, filters)
				if err != nil {
					return err
				}
				showTree(env, list)
				return nil
			}
			list, err := c.ImageList(ctx, *all, filters)
			if err != nil {
				return err
			}
			f := formatter.Format(*format)
			if f == "" && !*quiet {
				f = formatter.Format(env.Config().ImagesFormat)
			}
			if *quiet && f.IsTable() {
				f = "{{.ID}}"
			}
			if *quiet && *format == "" {
				for i := range list {
					id := list[i].ID
					if !*noTrunc {
						id = formatter.ShortID(id)
					}
					for range max(1, len(list[i].RepoTags)) { // a line for each name, as in the table
						fmt.Fprintln(env.IO.Out, id)
					}
				}
				return nil
			}
			return formatter.Images(env.IO.Out, f, *digests, *noTrunc, list)
		}
	},
}
