package build

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"gantry/internal/build/session/wire"
	"gantry/internal/cli/command"
	"gantry/internal/cli/container"
	"gantry/internal/cli/credentials"
	"gantry/internal/cli/image"
	"gantry/internal/cli/parse"
	"gantry/internal/client"
)

// addOutputs says what is to be made of the result: an image, unless --output wants something else.
func (p *plan) addOutputs(env *command.Env) error {
	for _, t := range p.o.tags.Values {
		if _, _, err := parse.Reference(t); err != nil {
			return fmt.Errorf("invalid tag %q: invalid reference format", t)
		}
		p.names = append(p.names, t)
	}
	if p.request.Check {
		return nil
	}
	for _, s := range p.o.outputs.Values {
		if err := p.addOutput(env, s); err != nil {
			return fmt.Errorf("invalid --output %q: %w", s, err)
		}
	}
	if len(p.request.Outputs) == 0 || p.o.load {
		p.request.Outputs = append(p.request.Outputs, wire.Output{Type: "image", Names: p.names})
	}
	if p.o.push {
		p.push = append(p.push, p.names...)
		if len(p.push) == 0 {
			return errors.New("--push needs a name (-t)")
		}
	}
	return nil
}

func (p *plan) addOutput(env *command.Env, s string) error {
	m := map[string]string{}
	switch {
	case s == "-":
		m["type"], m["dest"] = "tar", "-"
	case !strings.Contains(s, "="):
		m["type"], m["dest"] = "local", s
	default:
		var err error
		if m, err = fields(s); err != nil {
			return err
		}
	}
	kind, dest := m["type"], m["dest"]
	names := p.names
	if m["name"] != "" {
		names = split([]string{m["name"]})
	}
	for k := range m {
		switch k {
		case "type", "dest", "name", "push", "compression", "oci-mediatypes", "tar", "rewrite-timestamp", "unpack", "store":
		default:
			return fmt.Errorf("unknown key %q", k)
		}
	}
	n := len(p.request.Outputs)
	out := wire.Output{Type: kind, Names: names}
	switch kind {
	case "":
		return errors.New("it has no type")
	case "image", "registry":
		out.Type = "image"
		if kind == "registry" || m["push"] == "true" {
			if len(names) == 0 {
				return errors.New("a push needs a name")
			}
			p.push = append(p.push, names...)
		}
	case "local":
		if dest == "" || dest == "-" {
			return errors.New("it needs a folder, dest=")
		}
		if err := os.MkdirAll(dest, 0o755); err != nil {
			return err
		}
		p.offer.Outputs[n] = func(r io.Reader) error { return container.Unpack(context.Background(), r, dest) }
	case "docker", "oci", "tar":
		if kind == "docker" && dest == "" {
			out.Type = "image"
			break
		}
		if dest == "" || dest == "-" {
			if env.IO.OutIsTerminal() {
				return errors.New("an archive is nothing for a terminal: give dest=, or redirect the output")
			}
			p.offer.Outputs[n] = func(r io.Reader) error { _, err := io.Copy(env.IO.Out, r); return err }
			break
		}
		p.offer.Outputs[n] = func(r io.Reader) error { return command.WriteOutput(env, dest, r) }
	default:
		return fmt.Errorf("unknown type %q: image, local, tar, docker, oci and registry are known", kind)
	}
	p.request.Outputs = append(p.request.Outputs, out)
	return nil
}

// registryConfig is the header by which the engine gets what the user's configuration knows of registries.
func registryConfig(ctx context.Context, env *command.Env) (map[string]string, error) {
	store, err := credentials.Open(env)
	if err != nil {
		return nil, err
	}
	all, err := store.All(ctx)
	if err != nil { // a registry may let everyone in
		fmt.Fprintf(env.IO.Err, "WARNING: %v\n", err)
	}
	if len(all) == 0 {
		return nil, nil
	}
	data, err := json.Marshal(all)
	if err != nil {
		return nil, err
	}
	return map[string]string{"X-Registry-Config": base64.URLEncoding.EncodeToString(data)}, nil
}

func push(ctx context.Context, env *command.Env, c *client.Client, name string) error {
	repo, tag, err := parse.Reference(name)
	if err != nil {
		return err
	}
	if tag == "" {
		tag = "latest"
	}
	resp, err := c.ImagePush(ctx, client.PushOptions{Repo: repo, Tag: tag, Auth: credentials.Header(ctx, env, credentials.Host(repo))})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return image.ShowProgress(env.IO.Err, env.IO.ErrIsTerminal(), resp.Body, nil)
}
