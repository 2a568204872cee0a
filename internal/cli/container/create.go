// Package container is the verbs of containers, one file each.
package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/credentials"
	"gantry/internal/cli/image"
	"gantry/internal/cli/parse"
	"gantry/internal/client"
)

// Create is `container create`.
var Create = &command.Command{
	Name: "create", Top: "create", Args: "[OPTIONS] IMAGE [COMMAND] [ARG...]", Short: "Create a container without starting it",
	Min: 1, Max: -1, Stop: true,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		o := newOptions(fs)
		return func(ctx context.Context, env *command.Env, args []string) error {
			req, err := o.parse(env, args, "create")
			if err != nil {
				return err
			}
			c, err := env.Client()
			if err != nil {
				return err
			}
			id, err := o.create(ctx, env, c, req, c.ContainerCreate)
			if err != nil {
				return err
			}
			fmt.Fprintln(env.IO.Out, id)
			return nil
		}
	},
}

// help125 ends with code 125, in the words of run and create.
func help125(env *command.Env, err error, verb string) error {
	return withStatus(env, err, verb, 125)
}

func withStatus(env *command.Env, err error, verb string, code int) error {
	s := &command.StatusError{Text: fmt.Sprintf("%s: %s\n\nRun '%s %s --help' for more information", env.Prog, err, env.Prog, verb), Code: code}
	var h *command.Hint
	if errors.As(command.Explain(env, err), &h) {
		return &command.Hint{Err: s, Line: h.Line}
	}
	return s
}

func (o *options) parse(env *command.Env, args []string, verb string) (*container.CreateRequest, error) {
	switch o.pull {
	case "always", "missing", "never", "":
	default:
		return nil, help125(env, fmt.Errorf("invalid pull option: '%s': must be one of %q, %q or %q", o.pull, "always", "missing", "never"), verb)
	}
	req, err := o.request(args)
	if err != nil {
		return nil, help125(env, err, verb)
	}
	return req, nil
}

// creation is how the engine is asked for a container.
type creation func(ctx context.Context, name, platform string, req container.CreateRequest) (container.CreateResponse, error)

// create makes the container by ask, pulling its image if the engine lacks it, and returns its ID.
func (o *options) create(ctx context.Context, env *command.Env, c *client.Client, req *container.CreateRequest, ask creation) (string, error) {
	height, width := env.IO.Size()
	req.HostConfig.ConsoleSize = [2]uint{height, width}

	// The file is opened first: a container whose ID can't be written down would be lost to the caller.
	cid, err := openCIDFile(o.cidFile)
	if err != nil {
		return "", err
	}
	defer cid.close()

	ref := req.Image
	if !isDigestOrID(ref) {
		if _, _, err := parse.Reference(ref); err != nil {
			return "", err
		}
	}
	if o.pull == "always" {
		if err := o.pullImage(ctx, env, c, ref); err != nil {
			return "", err
		}
	}
	out, err := ask(ctx, o.name, o.platform, *req)
	if client.IsNotFound(err) && strings.Contains(strings.ToLower(err.Error()), "no such image") && o.pull != "never" && o.pull != "always" {
		if !o.quiet {
			fmt.Fprintf(env.IO.Err, "Unable to find image '%s' locally\n", withTag(ref))
		}
		if err := o.pullImage(ctx, env, c, ref); err != nil {
			return "", err
		}
		out, err = ask(ctx, o.name, o.platform, *req)
	}
	if err != nil {
		return "", err
	}
	for _, w := range out.Warnings {
		fmt.Fprintf(env.IO.Err, "WARNING: %s\n", w)
	}
	return out.ID, cid.write(out.ID)
}

func isDigestOrID(ref string) bool {
	return strings.HasPrefix(ref, "sha256:") || len(ref) == 64 && strings.Trim(ref, "0123456789abcdef") == ""
}

func withTag(ref string) string {
	repo, tag, err := parse.Reference(ref)
	if err != nil {
		return ref
	}
	if strings.Contains(ref, "@") {
		return ref
	}
	return repo + ":" + tag
}

func (o *options) pullImage(ctx context.Context, env *command.Env, c *client.Client, ref string) error {
	repo, tag, err := parse.Reference(ref)
	if err != nil {
		return err
	}
	resp, err := c.ImagePull(ctx, client.PullOptions{Repo: repo, Tag: tag, Platform: o.platform, Auth: credentials.Header(ctx, env, credentials.Host(repo))})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var out io.Writer = env.IO.Err
	if o.quiet {
		out = io.Discard
	}
	return image.ShowProgress(out, !o.quiet && env.IO.ErrIsTerminal(), resp.Body, nil)
}

// cidFile is the file that --cidfile names; a nil one is none.
type cidFile struct {
	f       *os.File
	written bool
}

func openCIDFile(path string) (*cidFile, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("container ID file found, make sure the other container isn't running or delete %s", path)
	}
	if err != nil {
		return nil, fmt.Errorf("failed to create the container ID file: %w", err)
	}
	return &cidFile{f: f}, nil
}

func (c *cidFile) write(id string) error {
	if c == nil {
		return nil
	}
	if _, err := c.f.WriteString(id); err != nil {
		return fmt.Errorf("failed to write the container ID (%s) to file: %w", id, err)
	}
	c.written = true
	return nil
}

// close removes a file that no ID came into: it would stop the next run.
func (c *cidFile) close() {
	if c == nil {
		return
	}
	c.f.Close()
	if !c.written {
		os.Remove(c.f.Name())
	}
}
