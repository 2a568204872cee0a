package system

import (
	"context"
	"fmt"

	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/client"
)

// Check is `system check`.
var Check = &command.Command{
	Name: "check", Args: "[OPTIONS]", Short: "Read every blob and layer, and say what is damaged",
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		repair := fs.Bool("repair", false, "Mend what can be")
		return func(ctx context.Context, env *command.Env, args []string) error {
			c, err := env.Client()
			if err != nil {
				return err
			}
			left := 0
			done, err := c.Check(ctx, *repair, func(f client.Finding) {
				fmt.Fprintf(env.IO.Out, "%s %s: %s\n", f.Kind, f.Name, f.Problem)
				if f.Mended != "" {
					fmt.Fprintf(env.IO.Out, "  %s\n", f.Mended)
				}
				if f.Advice != "" && (f.Mended == "" || f.Kind == "blob") {
					fmt.Fprintf(env.IO.Out, "  %s\n", f.Advice)
				}
				if f.Mended == "" {
					left++
				}
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(env.IO.Out, "%d blobs (%s), %d layers and %d images checked\n", done.Blobs, size(done.Bytes), done.Layers, done.Images)
			if left > 0 {
				return &command.StatusError{Text: fmt.Sprintf("%d things are not as they should be", left), Code: 1}
			}
			return nil
		}
	},
}
