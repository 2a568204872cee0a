package image

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/client"
)

// Remove is `image rm`, known as rmi.
var Remove = &command.Command{
	Name: "rm", Top: "rmi", Aliases: []string{"remove"}, Args: "[OPTIONS] IMAGE [IMAGE...]", Short: "Remove images",
	Min: 1, Max: -1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		force := fs.BoolP("force", "f", false, "Remove it though a stopped container uses it")
		noPrune := fs.Bool("no-prune", false, "Keep parents that have no name")
		choose := command.Removal(fs, env)
		return func(ctx context.Context, env *command.Env, args []string) error {
			return remove(choose(ctx), env, args, *force, *noPrune)
		}
	},
}

func remove(ctx context.Context, env *command.Env, names []string, force, noPrune bool) error {
	c, err := env.Client()
	if err != nil {
		return err
	}
	var failed []string
	bad := false
	for _, n := range names {
		list, err := c.ImageRemove(ctx, n, force, noPrune)
		if client.IsConnection(err) {
			return err
		}
		if err != nil {
			failed = append(failed, err.Error())
			bad = bad || !client.IsNotFound(err)
			continue
		}
		for _, d := range list {
			if d.Deleted != "" {
				fmt.Fprintln(env.IO.Out, "Deleted:", d.Deleted)
			} else {
				fmt.Fprintln(env.IO.Out, "Untagged:", d.Untagged)
			}
		}
	}
	if len(failed) == 0 {
		return nil
	}
	text := strings.Join(failed, "\n")
	if force && !bad {
		fmt.Fprintln(env.IO.Err, text) // what is not there is as good as removed
		return nil
	}
	return errors.New(text)
}
