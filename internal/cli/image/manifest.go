package image

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/client"
)

// ManifestInspect is `manifest inspect`: what a registry has under a name, without fetching the image.
var ManifestInspect = &command.Command{
	Name: "inspect", Args: "[OPTIONS] NAME[:TAG|@DIGEST]", Short: "Show an image's manifest, or its list of platforms, as a registry has it",
	Min: 1, Max: 1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		insecure := fs.Bool("insecure", false, "Plain HTTP will do, and any certificate")
		verbose := fs.BoolP("verbose", "v", false, "With descriptors, and the manifests of all platforms")
		return func(ctx context.Context, env *command.Env, args []string) error {
			c, err := env.Client()
			if err != nil {
				return err
			}
			i := inspector{c, *insecure, func(repo string) string { return auth(ctx, env, repo) }}
			top, err := i.get(ctx, args[0])
			if err != nil {
				return err
			}
			if !*verbose {
				var out bytes.Buffer
				indent := "\t"
				if isList(top) { // as Docker has them
					indent = "   "
				}
				if err := json.Indent(&out, bytes.TrimSpace(top.Raw), "", indent); err != nil {
					return err
				}
				_, err = fmt.Fprintln(env.IO.Out, out.String())
				return err
			}
			all, err := i.verbose(ctx, args[0], top)
			if err != nil {
				return err
			}
			data, err := json.MarshalIndent(all, "", "\t")
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(env.IO.Out, string(data))
			return err
		}
	},
}

type inspector struct {
	c        *client.Client
	insecure bool
	auth     func(repo string) string
}

func (i *inspector) get(ctx context.Context, ref string) (client.RemoteManifest, error) {
	return i.c.ManifestInspect(ctx, ref, i.insecure, i.auth(ref))
}

func isList(m client.RemoteManifest) bool {
	return strings.Contains(m.Descriptor.MediaType, "manifest.list") || m.Descriptor.MediaType == ocispec.MediaTypeImageIndex
}

// described is a manifest in Docker's verbose form.
type described struct {
	Ref              string
	Descriptor       ocispec.Descriptor
	Raw              []byte          `json:",omitempty"`
	SchemaV2Manifest json.RawMessage `json:",omitempty"`
	OCIManifest      json.RawMessage `json:",omitempty"`
}

func describe(ref string, m client.RemoteManifest) described {
	d := described{Ref: ref, Descriptor: m.Descriptor, Raw: m.Raw}
	if m.Descriptor.MediaType == ocispec.MediaTypeImageManifest {
		d.OCIManifest = m.Raw
	} else {
		d.SchemaV2Manifest = m.Raw
	}
	return d
}

// verbose describes a manifest, or all that a list has.
func (i *inspector) verbose(ctx context.Context, ref string, top client.RemoteManifest) (any, error) {
	repo, _, _ := strings.Cut(ref, "@")
	if tagged(repo) {
		repo = repo[:strings.LastIndexByte(repo, ':')]
	}
	if !isList(top) {
		whole := ref
		if !tagged(ref) {
			whole += ":latest"
		}
		tag := whole[len(repo)+1:]
		return describe(canonical(repo, tag), top), nil
	}
	var list ocispec.Index
	if err := json.Unmarshal(top.Raw, &list); err != nil {
		return nil, err
	}
	var all []described
	for _, d := range list.Manifests {
		m, err := i.get(ctx, repo+"@"+d.Digest.String())
		if err != nil {
			return nil, err
		}
		m.Descriptor = d
		all = append(all, describe(canonical(repo, d.Digest.String()), m))
	}
	return all, nil
}
