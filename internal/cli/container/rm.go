package container

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/client"
)

// Remove is `container rm`.
var Remove = &command.Command{
	Name: "rm", Top: "rm", Aliases: []string{"remove"}, Args: "[OPTIONS] CONTAINER [CONTAINER...]", Short: "Remove containers",
	Min: 1, Max: -1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		var o client.RemoveOptions
		fs.BoolVarP(&o.Force, "force", "f", false, "Kill it first if it runs")
		fs.BoolVarP(&o.Volumes, "volumes", "v", false, "Remove its anonymous volumes too")
		fs.BoolVarP(&o.Link, "link", "l", false, "Remove a link")
		choose := command.Removal(fs, env)
		return func(ctx context.Context, env *command.Env, args []string) error {
			err := forEach(choose(ctx), env, args, func(ctx context.Context, c *client.Client, name string) error {
				if name = strings.Trim(name, "/"); name == "" {
					return errors.New("container name cannot be empty")
				}
				err := c.ContainerRemove(ctx, name, o)
				if o.Force && client.IsNotFound(err) {
					fmt.Fprintln(env.IO.Err, err) // what is not there is as good as removed
					return errGone
				}
				return err
			})
			if err != nil && strings.Trim(err.Error(), "\n") == "" {
				return nil
			}
			return err
		}
	},
}

var errGone = errors.New("")
