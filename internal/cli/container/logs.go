package container

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/parse"
	"gantry/internal/client"
)

// Logs is `container logs`.
var Logs = &command.Command{
	Name: "logs", Top: "logs", Args: "[OPTIONS] CONTAINER", Short: "Show what a container has written",
	Min: 1, Max: 1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		o := client.LogsOptions{Stdout: true, Stderr: true}
		fs.BoolVarP(&o.Follow, "follow", "f", false, "Go on until the container stops")
		since := fs.String("since", "", "From this time on (2026-01-02T15:04:05Z), or from that long ago (42m)")
		until := fs.String("until", "", "Up to this time, or up to that long ago")
		fs.BoolVarP(&o.Timestamps, "timestamps", "t", false, "Show the time of each line")
		fs.BoolVar(&o.Details, "details", false, "Show the attributes that the log was given")
		fs.StringVarP(&o.Tail, "tail", "n", "all", "Lines from the end")
		return func(ctx context.Context, env *command.Env, args []string) (err error) {
			c, err := env.Client()
			if err != nil {
				return err
			}
			info, err := c.ContainerInspect(ctx, args[0])
			if err != nil {
				return err
			}
			if o.Since, err = parse.Time(*since, now()); err != nil {
				return timeError("since", err)
			}
			if o.Until, err = parse.Time(*until, now()); err != nil {
				return timeError("until", err)
			}
			resp, err := c.ContainerLogs(ctx, info.ID, o)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if info.Config.Tty {
				_, err = io.Copy(env.IO.Out, resp.Body)
			} else {
				err = client.Demux(env.IO.Out, env.IO.Err, resp.Body)
			}
			return err
		}
	},
}

func now() time.Time { return time.Now() }

func timeError(flag string, err error) error {
	return fmt.Errorf("invalid value for %q: %w", flag, err)
}
