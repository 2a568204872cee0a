package volume

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/formatter"
)

// Snapshot is `volume snapshot create|ls|restore|rm`.
var Snapshot = &command.Command{
	Name: "snapshot", Args: "create VOLUME [NAME] | ls VOLUME | restore VOLUME NAME | rm VOLUME NAME...", Short: "Keep what a volume holds now, and get it back",
	Min: 1, Max: -1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		quiet := fs.BoolP("quiet", "q", false, "Only names, with ls")
		return func(ctx context.Context, env *command.Env, args []string) error {
			verb, args := args[0], args[1:]
			least, most := 2, 2
			switch verb {
			case "create":
				least = 1
			case "ls", "list":
				verb, least, most = "ls", 1, 1
			case "restore":
			case "rm", "remove":
				verb, most = "rm", len(args)
			default:
				return fmt.Errorf("unknown command: volume snapshot %s: it is create, ls, restore or rm", verb)
			}
			if len(args) < least || len(args) > max(least, most) {
				return errors.New("usage: volume snapshot create VOLUME [NAME] | ls VOLUME | restore VOLUME NAME | rm VOLUME NAME...")
			}
			c, err := env.Client()
			if err != nil {
				return err
			}
			switch verb {
			case "create":
				name := ""
				if len(args) > 1 {
					name = args[1]
				}
				x, err := c.SnapshotCreate(ctx, args[0], name)
				if err != nil {
					return err
				}
				tell(env, &x, args[0])
				fmt.Fprintln(env.IO.Out, x.Name)
			case "ls":
				list, err := c.SnapshotList(ctx, args[0])
				if err != nil {
					return err
				}
				lines := [][]string{{"SNAPSHOT", "CREATED", "SIZE"}}
				for _, x := range list {
					if *quiet {
						fmt.Fprintln(env.IO.Out, x.Name)
						continue
					}
					lines = append(lines, []string{x.Name, units.HumanDuration(time.Since(x.Created)) + " ago", units.HumanSize(float64(x.Bytes))})
				}
				if !*quiet {
					formatter.Table(env.IO.Out, lines)
				}
			case "restore":
				return c.VolumeRestore(ctx, args[0], args[1])
			case "rm":
				return command.Each(args[1:], func(name string) error {
					err := c.SnapshotRemove(ctx, args[0], name)
					if err == nil {
						fmt.Fprintln(env.IO.Out, name)
					}
					return err
				})
			}
			return nil
		}
	},
}
