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

// registryFlags are those of pull and push alike.
type registryFlags struct {
	all, quiet, insecure *bool
	platform             *string
}

func newRegistryFlags(fs *pflag.FlagSet, platform string) *registryFlags {
	f := &registryFlags{
		all:      fs.BoolP("all-tags", "a", false, "All tags of the repository"),
		quiet:    fs.BoolP("quiet", "q", false, "Only the name in the end"),
		platform: fs.String("platform", "", platform),
		insecure: fs.Bool("insecure", false, "Plain HTTP will do, and any certificate"),
	}
	fs.Bool("disable-content-trust", true, "Accepted for Docker's sake: nothing is signed so any more")
	fs.Lookup("disable-content-trust").Hidden = true
	return f
}

// target reads what is to be pulled or pushed; no tag is all of them.
func (f *registryFlags) target(env *command.Env, ref string) (repo, tag string, err error) {
	if repo, tag, err = parse.Reference(ref); err != nil {
		return "", "", err
	}
	named := tagged(ref)
	switch {
	case *f.all && named:
		return "", "", errors.New("tag can't be used with --all-tags/-a")
	case *f.all:
		tag = ""
	case !named && !*f.quiet:
		fmt.Fprintln(env.IO.Out, "Using default tag: latest")
	}
	return repo, tag, nil
}

func auth(ctx context.Context, env *command.Env, repo string) string {
	return credentials.Header(ctx, env, credentials.Host(repo))
}

// show prints what the engine tells until it is done.
func (f *registryFlags) show(env *command.Env, resp *client.Response, aux func(json.RawMessage)) error {
	defer resp.Body.Close()
	var out io.Writer = env.IO.Out
	if *f.quiet {
		out = io.Discard
	}
	return ShowProgress(out, env.IO.OutIsTerminal() && !*f.quiet, resp.Body, aux)
}
