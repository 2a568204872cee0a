package image

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/moby/moby/api/types/image"
	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/flags"
	"gantry/internal/cli/formatter"
	"gantry/internal/client"
)

// Save is `image save`.
var Save = &command.Command{
	Name: "save", Top: "save", Args: "[OPTIONS] IMAGE [IMAGE...]", Short: "Write images to an archive", Min: 1, Max: -1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		output := fs.StringP("output", "o", "", "Write to this file instead of stdout")
		return func(ctx context.Context, env *command.Env, args []string) error {
			if err := command.CheckOutput(env, *output, "save image"); err != nil {
				return err
			}
			c, err := env.Client()
			if err != nil {
				return err
			}
			body, err := c.ImageSave(ctx, args)
			if err != nil {
				return err
			}
			defer body.Close()
			return command.WriteOutput(env, *output, body)
		}
	},
}

// Import is `image import`.
var Import = &command.Command{
	Name: "import", Top: "import", Args: "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]", Short: "Make an image of an archive of files", Min: 1, Max: 2,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		var o client.ImportOptions
		changes := flags.NewList("list", nil)
		fs.VarP(changes, "change", "c", "Apply a Dockerfile instruction to the image")
		fs.StringVarP(&o.Message, "message", "m", "", "Set the commit message of the image")
		fs.StringVar(&o.Platform, "platform", "", "Set the platform of the image")
		return func(ctx context.Context, env *command.Env, args []string) error {
			o.Source, o.Changes = args[0], changes.Values
			if len(args) > 1 {
				o.Ref = args[1]
			}
			var in io.Reader
			switch {
			case args[0] == "-":
				in = env.IO.In
			case !strings.HasPrefix(args[0], "http://") && !strings.HasPrefix(args[0], "https://"):
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close()
				in, o.Source = f, "-"
			}
			c, err := env.Client()
			if err != nil {
				return err
			}
			resp, err := c.ImageImport(ctx, in, o)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			return ShowProgress(env.IO.Out, env.IO.OutIsTerminal(), resp.Body, nil)
		}
	},
}

// History is `image history`.
var History = &command.Command{
	Name: "history", Top: "history", Args: "[OPTIONS] IMAGE", Short: "Show how an image was made", Min: 1, Max: 1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		human := fs.BoolP("human", "H", true, "Sizes and times for humans")
		noTrunc := fs.Bool("no-trunc", false, "Do not shorten anything")
		quiet := fs.BoolP("quiet", "q", false, "Only IDs")
		format := fs.String("format", "", "table, json, or a Go template; table TEMPLATE has headers")
		return func(ctx context.Context, env *command.Env, args []string) error {
			c, err := env.Client()
			if err != nil {
				return err
			}
			list, err := c.ImageHistory(ctx, args[0])
			if err != nil {
				return err
			}
			f := formatter.Format(*format)
			if *quiet && f.IsTable() {
				f = "{{.ID}}"
			}
			return formatter.History(env.IO.Out, f, *human, *noTrunc, list)
		}
	},
}

// Prune is `image prune`.
var Prune = &command.Command{
	Name: "prune", Args: "[OPTIONS]", Short: "Remove unused images",
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		var filters client.Filters
		all := fs.BoolP("all", "a", false, "All that no container uses, not only those without a name")
		force := fs.BoolP("force", "f", false, "Do not ask")
		command.Filters(fs, &filters, "", "Only those that meet a condition (e.g. \"until=<timestamp>\")")
		choose := command.Removal(fs, env)
		return func(ctx context.Context, env *command.Env, args []string) error {
			question, kind := "WARNING! This will remove all dangling images.", "images"
			if *all {
				question, kind = "WARNING! This will remove all images without at least one container associated to them.", "all-images"
			}
			c, err := env.Client()
			if err != nil {
				return err
			}
			if !*force {
				command.ShowPrunable(ctx, env, c, filters, kind)
				if !command.Confirm(env, question) {
					return nil
				}
			}
			if filters.Add("dangling", fmt.Sprint(!*all)); *all {
				filters["dangling"] = map[string]bool{"false": true}
			}
			var out image.PruneReport
			if err := c.Prune(choose(ctx), "images", filters, &out); err != nil {
				return err
			}
			command.Removed(env, "Deleted Images:", command.Gone(out))
			command.Reclaimed(env, out.SpaceReclaimed)
			return nil
		}
	},
}
