package container

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/screen"
)

// Top is `container top`.
var Top = &command.Command{
	Name: "top", Top: "top", Args: "CONTAINER [ps OPTIONS]", Short: "Show the processes of a container", Min: 1, Max: -1, Stop: true,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		return func(ctx context.Context, env *command.Env, args []string) error {
			c, err := env.Client()
			if err != nil {
				return err
			}
			list, err := c.ContainerTop(ctx, args[0], args[1:])
			if err != nil {
				return err
			}
			w := screen.NewTabs(env.IO.Out, 20, 1, 3)
			fmt.Fprintln(w, strings.Join(list.Titles, "\t"))
			for _, p := range list.Processes {
				fmt.Fprintln(w, strings.Join(p, "\t"))
			}
			return w.Flush()
		}
	},
}
