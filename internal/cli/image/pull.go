package image

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/credentials"
	"gantry/internal/client"
)

// Pull is `image pull`.
var Pull = &command.Command{
	Name: "pull", Top: "pull", Args: "[OPTIONS] NAME[:TAG|@DIGEST]", Short: "Get an image from a registry",
	Min: 1, Max: 1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		f := newRegistryFlags(fs, "The image for this platform, os/arch[/variant]")
		return func(ctx context.Context, env *command.Env, args []string) error {
			repo, tag, err := f.target(env, args[0])
			if err != nil {
				return err
			}
			if *f.platform == "" {
				*f.platform = env.Getenv("DOCKER_DEFAULT_PLATFORM")
			}
			c, err := env.Client()
			if err != nil {
				return err
			}
			resp, err := c.ImagePull(ctx, client.PullOptions{Repo: repo, Tag: tag, Platform: *f.platform, Insecure: *f.insecure, Auth: auth(ctx, env, repo)})
			if err != nil {
				return err
			}
			if err := f.show(env, resp, nil); err != nil {
				return err
			}
			fmt.Fprintln(env.IO.Out, canonical(repo, tag))
			return nil
		}
	},
}

// tagged reports whether a reference that can be parsed names a tag or a digest.
func tagged(ref string) bool {
	return strings.Contains(ref, "@") || strings.LastIndexByte(ref, ':') > strings.LastIndexByte(ref, '/')
}

// canonical is the whole name, as Docker prints it last.
func canonical(repo, tag string) string {
	if credentials.Host(repo) == "docker.io" {
		if !strings.Contains(repo, "/") {
			repo = "library/" + repo
		}
		repo = "docker.io/" + repo
	}
	switch {
	case tag == "":
		return repo
	case strings.Contains(tag, ":"):
		return repo + "@" + tag
	}
	return repo + ":" + tag
}
