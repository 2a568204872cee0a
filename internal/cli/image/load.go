package image

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/flags"
)

// Load is `image load`.
var Load = &command.Command{
	Name: "load", Top: "load", Args: "[OPTIONS]", Short: "Load images from an archive",
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		input := fs.StringP("input", "i", "", "Read this file instead of stdin")
		quiet := fs.BoolP("quiet", "q", false, "Do not show how far it is")
		platforms := flags.NewList("stringSlice", nil)
		fs.Var(platforms, "platform", "Load only these platforms, os/arch[/variant]")
		fs.Lookup("platform").Hidden = true
		return func(ctx context.Context, env *command.Env, args []string) error {
			in := env.IO.In
			if *input != "" {
				f, err := os.Open(*input)
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			} else if env.IO.InIsTerminal() {
				return errors.New("requested load from stdin, but stdin is empty")
			}
			c, err := env.Client()
			if err != nil {
				return err
			}
			resp, err := c.ImageLoad(ctx, in, *quiet || !env.IO.OutIsTerminal(), platforms.Values)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if strings.HasPrefix(resp.Header("Content-Type"), "application/json") {
				return ShowProgress(env.IO.Out, env.IO.OutIsTerminal(), resp.Body, nil)
			}
			_, err = io.Copy(env.IO.Out, resp.Body)
			return err
		}
	},
}
