package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/credentials"
	"gantry/internal/cli/parse"
	"gantry/internal/client"
)

// Push is `image push`.
var Push = &command.Command{
	Name: "push", Top: "push", Args: "[OPTIONS] NAME[:TAG]", Short: "Send an image to a registry",
	Min: 1, Max: 1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		all := fs.BoolP("all-tags", "a", false, "All tags of the repository")
		quiet := fs.BoolP("quiet", "q", false, "Only the name in the end")
		platform := fs.String("platform", "", "Only the image for this platform, os/arch[/variant]")
		insecure := fs.Bool("insecure", false, "Plain HTTP will do, and any certificate")
		fs.Bool("disable-content-trust", true, "Accepted for Docker's sake: nothing is signed so any more")
		fs.Lookup("disable-content-trust").Hidden = true
		return func(ctx context.Context, env *command.Env, args []string) error {
			repo, tag, err := parse.Reference(args[0])
			if err != nil {
				return err
			}
			named := tagged(args[0])
			switch {
			case *all && named:
				return errors.New("tag can't be used with --all-tags/-a")
			case *all:
				tag = ""
			case !named && !*quiet:
				fmt.Fprintln(env.IO.Out, "Using default tag: latest")
			}
			o := client.PushOptions{Repo: repo, Tag: tag, Insecure: *insecure, Auth: credentials.Header(ctx, env, credentials.Host(repo))}
			if *platform != "" {
				if o.Platform, err = parse.Platform(*platform); err != nil {
					return err
				}
			}
			c, err := env.Client()
			if err != nil {
				return err
			}
			resp, err := c.ImagePush(ctx, o)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			var out io.Writer = env.IO.Out
			if *quiet {
				out = io.Discard
			}
			var notes []string
			err = ShowProgress(out, env.IO.OutIsTerminal() && !*quiet, resp.Body, func(raw json.RawMessage) {
				if n := note(raw); n != "" {
					notes = append(notes, n)
				}
			})
			for _, n := range notes {
				fmt.Fprintln(env.IO.Err, n)
			}
			if err == nil && *quiet {
				fmt.Fprintln(env.IO.Out, canonical(repo, tag))
			}
			return err
		}
	},
}

// note is what the engine says of a push for whom it may surprise.
func note(raw json.RawMessage) string {
	var x struct {
		ManifestPushedInsteadOfIndex bool `json:"manifestPushedInsteadOfIndex"`
		OriginalIndex                struct{ Digest string }
		SelectedManifest             struct{ Digest string }
	}
	if json.Unmarshal(raw, &x) != nil || !x.ManifestPushedInsteadOfIndex {
		return ""
	}
	return fmt.Sprintf("Info → Not all multiplatform-content is present and only the available single-platform image was pushed\n         %s -> %s",
		x.OriginalIndex.Digest, x.SelectedManifest.Digest)
}
