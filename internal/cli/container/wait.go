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

// Wait is `container wait`.
var Wait = &command.Command{
	Name: "wait", Top: "wait", Args: "CONTAINER [CONTAINER...]", Short: "Wait until containers stop, then print their exit codes",
	Min: 1, Max: -1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		return func(ctx context.Context, env *command.Env, args []string) error {
			c, err := env.Client()
			if err != nil {
				return err
			}
			var failed []string
			for _, name := range args {
				w, err := c.ContainerWait(ctx, name, "")
				switch {
				case client.IsConnection(err):
					return err
				case err != nil:
					failed = append(failed, err.Error())
				default:
					fmt.Fprintln(env.IO.Out, w.StatusCode)
				}
			}
			if len(failed) > 0 {
				return errors.New(strings.Join(failed, "\n"))
			}
			return nil
		}
	},
}
