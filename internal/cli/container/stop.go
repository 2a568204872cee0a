package container

import (
	"context"
	"fmt"

	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/client"
)

// Stop is `container stop`.
var Stop = &command.Command{
	Name: "stop", Top: "stop", Args: "[OPTIONS] CONTAINER [CONTAINER...]", Short: "Stop running containers",
	Min: 1, Max: -1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		options := stopFlags(fs, env)
		return func(ctx context.Context, env *command.Env, args []string) error {
			o := options()
			return forEach(ctx, env, args, func(ctx context.Context, c *client.Client, name string) error {
				return c.ContainerStop(ctx, name, o)
			})
		}
	},
}

func stopFlags(fs *pflag.FlagSet, env *command.Env) func() client.StopOptions {
	signal := fs.StringP("signal", "s", "", "Signal to ask with")
	timeout := fs.IntP("timeout", "t", 0, "Seconds until it is killed; -1 to wait for ever")
	fs.IntVar(timeout, "time", 0, "Same as --timeout")
	fs.Lookup("time").Hidden = true
	fs.Lookup("timeout").DefValue = "0"
	return func() client.StopOptions {
		o := client.StopOptions{Signal: *signal}
		if fs.Changed("time") {
			fmt.Fprintln(env.IO.Out, "Flag --time has been deprecated, use --timeout instead")
		}
		if fs.Changed("timeout") || fs.Changed("time") {
			o.Timeout = timeout
		}
		return o
	}
}
