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

// Update is `image update`.
var Update = &command.Command{
	Name: "update", Args: "--protect[=false] IMAGE [IMAGE...]", Short: "Protect images from rm and prune, or let them go", Min: 1, Max: -1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		protect := fs.Bool("protect", false, "Keep it from rm and prune; --protect=false ends that")
		return func(ctx context.Context, env *command.Env, args []string) error {
			if !fs.Changed("protect") {
				return errors.New("nothing to change: say --protect or --protect=false")
			}
			c, err := env.Client()
			if err != nil {
				return err
			}
			var failed []string
			for _, name := range args {
				err := c.Protect(ctx, "images", name, *protect)
				if client.IsConnection(err) {
					return err
				}
				if err != nil {
					failed = append(failed, err.Error())
					continue
				}
				fmt.Fprintln(env.IO.Out, name)
			}
			if len(failed) > 0 {
				return errors.New(strings.Join(failed, "\n"))
			}
			return nil
		}
	},
}
