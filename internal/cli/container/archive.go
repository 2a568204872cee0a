package container

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/flags"
	"gantry/internal/client"
)

// Diff is `container diff`.
var Diff = &command.Command{
	Name: "diff", Top: "diff", Args: "CONTAINER", Short: "Show what a container has changed of its image", Min: 1, Max: 1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		return func(ctx context.Context, env *command.Env, args []string) error {
			if args[0] == "" {
				return errors.New("Container name cannot be empty") //nolint:staticcheck // Docker's words
			}
			c, err := env.Client()
			if err != nil {
				return err
			}
			list, err := c.ContainerDiff(ctx, args[0])
			if err != nil {
				return err
			}
			var b strings.Builder
			for _, x := range list {
				fmt.Fprintf(&b, "%s %s\n", x.Kind, x.Path)
			}
			_, err = fmt.Fprint(env.IO.Out, b.String())
			return err
		}
	},
}

// Export is `container export`.
var Export = &command.Command{
	Name: "export", Top: "export", Args: "[OPTIONS] CONTAINER", Short: "Write a container's files as a tar archive", Min: 1, Max: 1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		output := fs.StringP("output", "o", "", "Write to this file instead of stdout")
		return func(ctx context.Context, env *command.Env, args []string) error {
			if err := command.CheckOutput(env, *output, "export container"); err != nil {
				return err
			}
			c, err := env.Client()
			if err != nil {
				return err
			}
			body, err := c.ContainerExport(ctx, args[0])
			if err != nil {
				return err
			}
			defer body.Close()
			return command.WriteOutput(env, *output, body)
		}
	},
}

// Commit is `container commit`.
var Commit = &command.Command{
	Name: "commit", Top: "commit", Args: "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]", Short: "Make an image of what a container has changed", Min: 1, Max: 2,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		var o client.CommitOptions
		pause := fs.BoolP("pause", "p", true, "Pause the container meanwhile")
		fs.StringVarP(&o.Comment, "message", "m", "", "What was changed")
		fs.StringVarP(&o.Author, "author", "a", "", "Who changed it (e.g., \"John Hannibal Smith <hannibal@a-team.com>\")")
		changes := flags.NewList("list", nil)
		fs.VarP(changes, "change", "c", "Apply a Dockerfile instruction to the image")
		return func(ctx context.Context, env *command.Env, args []string) error {
			c, err := env.Client()
			if err != nil {
				return err
			}
			o.Changes, o.NoPause = changes.Values, !*pause
			if len(args) > 1 {
				o.Repo = args[1]
				if i := strings.LastIndexByte(o.Repo, ':'); i > strings.LastIndexByte(o.Repo, '/') {
					o.Repo, o.Tag = o.Repo[:i], o.Repo[i+1:]
				}
			}
			if !env.AsDocker() {
				if list, err := c.ContainerList(ctx, client.ListOptions{All: true}); err == nil {
					warnVolumes(env, list, args[0])
				}
			}
			id, err := c.ContainerCommit(ctx, args[0], o)
			if err != nil {
				return err
			}
			fmt.Fprintln(env.IO.Out, id)
			return nil
		}
	},
}

// warnVolumes says what a commit leaves out: many have looked for their data in the image afterwards.
func warnVolumes(env *command.Env, list []container.Summary, ref string) {
	for _, x := range list {
		if x.ID != ref && !(len(ref) >= 4 && strings.HasPrefix(x.ID, ref)) && (len(x.Names) == 0 || x.Names[0] != "/"+strings.TrimPrefix(ref, "/")) {
			continue
		}
		for _, m := range x.Mounts {
			if m.Type == "volume" || m.Type == "bind" {
				fmt.Fprintf(env.IO.Err, "WARNING: what is in %s is not part of the image: it lies in a %s\n", m.Destination, m.Type)
			}
		}
		return
	}
}

func verb(name, short string) *command.Command {
	return &command.Command{
		Name: name, Top: name, Args: "CONTAINER [CONTAINER...]", Short: short, Min: 1, Max: -1,
		Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
			return func(ctx context.Context, env *command.Env, args []string) error {
				return forEach(ctx, env, args, func(ctx context.Context, c *client.Client, id string) error { return c.ContainerDo(ctx, id, name) })
			}
		},
	}
}

// Pause is `container pause`, Unpause its reverse.
var (
	Pause   = verb("pause", "Freeze all processes of containers")
	Unpause = verb("unpause", "Let the processes of paused containers run on")
)

// Rename is `container rename`.
var Rename = &command.Command{
	Name: "rename", Top: "rename", Args: "CONTAINER NEW_NAME", Short: "Rename a container", Min: 2, Max: 2,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		return func(ctx context.Context, env *command.Env, args []string) error {
			old, name := strings.TrimSpace(args[0]), strings.TrimSpace(args[1])
			if old == "" || name == "" {
				return errors.New("Error: Neither old nor new names may be empty") //nolint:staticcheck // Docker's words
			}
			c, err := env.Client()
			if err != nil {
				return err
			}
			if err := c.ContainerRename(ctx, old, name); err != nil {
				fmt.Fprintln(env.IO.Err, err)
				return fmt.Errorf("Error: failed to rename container named %s", old) //nolint:staticcheck // Docker's words
			}
			return nil
		}
	},
}

// Prune is `container prune`.
var Prune = &command.Command{
	Name: "prune", Args: "[OPTIONS]", Short: "Remove all containers that do not run",
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		var filters client.Filters
		force := fs.BoolP("force", "f", false, "Do not ask")
		command.Filters(fs, &filters, "", "Only those that meet a condition (e.g. \"until=<timestamp>\")")
		choose := command.Removal(fs, env)
		return func(ctx context.Context, env *command.Env, args []string) error {
			c, err := env.Client()
			if err != nil {
				return err
			}
			if !*force {
				command.ShowPrunable(ctx, env, c, filters, "containers")
				if !command.Confirm(env, "WARNING! This will remove all stopped containers.") {
					return nil
				}
			}
			var out container.PruneReport
			if err := c.Prune(choose(ctx), "containers", filters, &out); err != nil {
				return err
			}
			command.Removed(env, "Deleted Containers:", out.ContainersDeleted)
			command.Reclaimed(env, out.SpaceReclaimed)
			return nil
		}
	},
}
