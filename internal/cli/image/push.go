package image

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/parse"
	"gantry/internal/client"
)

// Push is `image push`.
var Push = &command.Command{
	Name: "push", Top: "push", Args: "[OPTIONS] NAME[:TAG]", Short: "Send an image to a registry",
	Min: 1, Max: 1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		f := newRegistryFlags(fs, "Only the image for this platform, os/arch[/variant]")
		return func(ctx context.Context, env *command.Env, args []string) error {
			repo, tag, err := f.target(env, args[0])
			if err != nil {
				return err
			}
			o := client.PushOptions{Repo: repo, Tag: tag, Insecure: *f.insecure, Auth: auth(ctx, env, repo)}
			if *f.platform != "" {
				if o.Platform, err = parse.Platform(*f.platform); err != nil {
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
			var notes []string
			err = f.show(env, resp, func(raw json.RawMessage) {
				if n := note(raw); n != "" {
					notes = append(notes, n)
				}
			})
			for _, n := range notes {
				fmt.Fprintln(env.IO.Err, n)
			}
			if err == nil && *f.quiet {
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
