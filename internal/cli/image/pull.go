package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/credentials"
	"gantry/internal/cli/parse"
	"gantry/internal/client"
)

// Pull is `image pull`.
var Pull = &command.Command{
	Name: "pull", Top: "pull", Args: "[OPTIONS] NAME[:TAG|@DIGEST]", Short: "Get an image from a registry",
	Min: 1, Max: 1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		all := fs.BoolP("all-tags", "a", false, "All tags of the repository")
		quiet := fs.BoolP("quiet", "q", false, "Only the name in the end")
		platform := fs.String("platform", "", "The image for this platform, os/arch[/variant]")
		insecure := fs.Bool("insecure", false, "Plain HTTP will do, and any certificate")
		fs.Bool("disable-content-trust", true, "Accepted for Docker's sake: nothing is signed so any more")
		fs.Lookup("disable-content-trust").Hidden = true
		return func(ctx context.Context, env *command.Env, args []string) error {
			repo, tag, err := parse.Reference(args[0])
			if err != nil {
				return err
			}
			named := tagged(args[0])
			if *all && named {
				return errors.New("tag can't be used with --all-tags/-a")
			}
			if *all {
				tag = ""
			} else if !named && !*quiet {
				fmt.Fprintln(env.IO.Out, "Using default tag: latest")
			}
			if *platform == "" {
				*platform = env.Getenv("DOCKER_DEFAULT_PLATFORM")
			}
			c, err := env.Client()
			if err != nil {
				return err
			}
			resp, err := c.ImagePull(ctx, client.PullOptions{
				Repo: repo, Tag: tag, Platform: *platform, Insecure: *insecure, Auth: credentials.Header(ctx, env, credentials.Host(repo)),
			})
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			var out io.Writer = env.IO.Out
			if *quiet {
				out = io.Discard
			}
			if err := ShowProgress(out, env.IO.OutIsTerminal() && !*quiet, resp.Body, nil); err != nil {
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
