package volume

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/client"
)

// Clone is `volume clone`.
var Clone = &command.Command{
	Name: "clone", Args: "VOLUME NEW", Short: "Make a volume with the files, labels and options of another",
	Min: 2, Max: 2,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		return func(ctx context.Context, env *command.Env, args []string) error {
			c, err := env.Client()
			if err != nil {
				return err
			}
			x, err := c.VolumeClone(ctx, args[0], args[1])
			if err != nil {
				return err
			}
			tell(env, &x, args[0])
			fmt.Fprintln(env.IO.Out, x.Name)
			return nil
		}
	},
}

// tell says on stderr how a copy was made, and what may be wrong with it.
func tell(env *command.Env, x *client.VolumeCopied, from string) {
	size := func(n int64) string { return units.HumanSize(float64(n)) }
	switch {
	case x.Bytes == 0:
	case x.Shared == x.Bytes:
		fmt.Fprintf(env.IO.Err, "%s, sharing all blocks with %s\n", size(x.Bytes), from)
	case x.Shared > 0:
		fmt.Fprintf(env.IO.Err, "%s, of which %s share blocks with %s\n", size(x.Bytes), size(x.Shared), from)
	default:
		fmt.Fprintf(env.IO.Err, "%s copied: the file system cannot share blocks\n", size(x.Bytes))
	}
	if len(x.Running) > 0 {
		var short []string
		for _, id := range x.Running {
			short = append(short, id[:min(12, len(id))])
		}
		fmt.Fprintf(env.IO.Err, "WARNING: containers had %s mounted meanwhile; what they were writing may be there in part: %s\n", from, strings.Join(short, ", "))
	}
}

// Export is `volume export`.
var Export = &command.Command{
	Name: "export", Args: "[OPTIONS] VOLUME", Short: "Write a volume's files as a tar archive",
	Min: 1, Max: 1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		output := fs.StringP("output", "o", "", "A file, instead of stdout")
		return func(ctx context.Context, env *command.Env, args []string) error {
			if err := command.CheckOutput(env, *output, "export volume"); err != nil {
				return err
			}
			c, err := env.Client()
			if err != nil {
				return err
			}
			r, err := c.VolumeExport(ctx, args[0])
			if err != nil {
				return err
			}
			defer r.Close()
			return command.WriteOutput(env, *output, r)
		}
	},
}

// Import is `volume import`.
var Import = &command.Command{
	Name: "import", Args: "VOLUME [FILE|-]", Short: "Fill a new or empty volume from a tar archive",
	Min: 1, Max: 2,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		return func(ctx context.Context, env *command.Env, args []string) error {
			var r io.Reader = env.IO.In
			if len(args) == 2 && args[1] != "-" {
				f, err := os.Open(args[1])
				if err != nil {
					return err
				}
				defer f.Close()
				r = f
			}
			c, err := env.Client()
			if err != nil {
				return err
			}
			if err := c.VolumeImport(ctx, args[0], r); err != nil {
				return err
			}
			fmt.Fprintln(env.IO.Out, args[0])
			return nil
		}
	},
}
