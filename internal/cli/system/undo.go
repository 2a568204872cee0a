package system

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/formatter"
	"gantry/internal/client"
)

// Undo is `undo`.
var Undo = &command.Command{
	Name: "undo", Args: "[OPTIONS] [NAME...]", Short: "Bring back what was removed", Max: -1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		list := fs.BoolP("list", "l", false, "Show what can be brought back, and until when")
		as := fs.String("as", "", "Another name for it, where its own is taken again")
		empty := fs.Bool("empty", false, "Delete it for good, or everything")
		return func(ctx context.Context, env *command.Env, args []string) error {
			c, err := env.Client()
			if err != nil {
				return err
			}
			if *as != "" && len(args) > 1 {
				return errors.New("--as names one thing only")
			}
			switch {
			case *list:
				return showTrash(ctx, env, c)
			case *empty:
				return emptyTrash(ctx, env, c, args)
			}
			if len(args) == 0 {
				args = []string{""}
			}
			var failed []string
			for _, ref := range args {
				done, err := c.Undo(ctx, ref, *as)
				if client.IsConnection(err) {
					return err
				}
				if err != nil {
					failed = append(failed, err.Error())
				}
				for _, r := range done.Restored {
					fmt.Fprintf(env.IO.Out, "%s %s\n", r.Kind, r.Name)
				}
				failed = append(failed, done.Failed...)
			}
			if len(failed) > 0 {
				return errors.New(strings.Join(failed, "\n"))
			}
			return nil
		}
	},
}

func showTrash(ctx context.Context, env *command.Env, c *client.Client) error {
	list, err := c.Trash(ctx)
	if err != nil {
		return err
	}
	lines := [][]string{{"KIND", "NAME", "ID", "REMOVED", "LEFT", "SIZE"}}
	for _, it := range list {
		id := it.Key
		if it.Kind != "volume" {
			id = formatter.ShortID(id)
		}
		name := id
		if len(it.Names) > 0 {
			name = strings.Join(it.Names, ", ")
		}
		lines = append(lines, []string{it.Kind, name, id, units.HumanDuration(time.Since(it.Removed)) + " ago",
			units.HumanDuration(max(0, time.Until(it.Until))), size(it.Size)})
	}
	formatter.Table(env.IO.Out, lines)
	return nil
}

func emptyTrash(ctx context.Context, env *command.Env, c *client.Client, args []string) error {
	if len(args) == 0 {
		args = []string{""}
	}
	var bytes int64
	for _, ref := range args {
		done, err := c.EmptyTrash(ctx, ref)
		if err != nil {
			return err
		}
		bytes += done.SpaceReclaimed
	}
	command.Reclaimed(env, uint64(bytes))
	return nil
}
