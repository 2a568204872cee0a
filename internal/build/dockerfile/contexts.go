package dockerfile

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/distribution/reference"

	"gantry/internal/build/graph"
)

// namedContext is one of Options.Contexts.
type namedContext struct {
	name, value string
	platform    *graph.Platform
}

// contextName brings a context's name and what is looked up to the same form, as buildx does before it sends them:
// the shortest form of a reference, without :latest.
func contextName(name string) string {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return strings.TrimSuffix(reference.FamiliarString(named), ":latest")
}

// namedContext returns the context that stands for name, or nil.
func (c *converter) namedContext(name string, p *graph.Platform) (*namedContext, error) {
	if len(c.o.Contexts) == 0 || strings.EqualFold(name, scratch) || strings.EqualFold(name, "context") {
		return nil, nil
	}
	if p == nil {
		p = &c.target
	}
	name = contextName(name)
	for _, key := range []string{name + "::" + formatAll(normalize(*p)), name} {
		if v, ok := c.o.Contexts[key]; ok {
			return &namedContext{key, v, p}, nil
		}
	}
	// Names that nobody normalized.
	for key, v := range c.o.Contexts {
		if contextName(key) == name {
			return &namedContext{name, v, p}, nil
		}
	}
	return nil, nil
}

// resolveContext makes s what its context is.
func (s *stage) resolveContext() error {
	c, nc := s.c, s.context
	kind, rest, ok := strings.Cut(nc.value, ":")
	if !ok {
		return fmt.Errorf("invalid context specifier %s for %s", nc.value, nc.name)
	}
	if strings.HasPrefix(kind, "git@") {
		kind = "git"
	}
	platform := *nc.platform
	if s.platform == nil {
		s.platform = &platform
	}
	s.image = emptyImage(platform)
	meta := graph.Meta{Name: "[context " + nc.name + "] " + nc.value, Stage: s.name, Source: lines(s.def.Location)}
	op := graph.Op(nil)
	switch kind {
	case "docker-image", "oci-layout":
		ref, layout := strings.TrimPrefix(rest, "//"), ""
		if ref == scratch {
			return nil
		}
		if kind == "oci-layout" {
			layout, ref, ok = strings.Cut(ref, "@")
			if !ok {
				return fmt.Errorf("oci-layout reference %q has no digest", layout)
			}
			ref = nc.name + "@" + ref
			meta.Name = "[context " + nc.name + "] OCI load from client"
		} else {
			meta.Name = "[context " + nc.name + "] " + ref
		}
		named, err := reference.ParseNormalizedNamed(ref)
		if err != nil {
			return err
		}
		if c.images == nil {
			return errors.New("no images are known")
		}
		img, err := c.images.ResolveImage(c.ctx, ImageRef{Ref: reference.TagNameOnly(named).String(), Layout: layout, Platform: platform, Pull: c.o.Pull})
		if err != nil {
			return err
		}
		if img.Ref == "" {
			img.Ref = reference.TagNameOnly(named).String()
		}
		s.setImage(img.Config)
		if img.Config.OS != "" && img.Config.Architecture != "" && s.whole {
			s.platform = &graph.Platform{OS: img.Config.OS, Architecture: img.Config.Architecture, Variant: img.Config.Variant, OSVersion: img.Config.OSVersion}
		}
		op = &graph.Image{Ref: img.Ref, Layout: layout, Pull: c.o.Pull}
	case "git", "http", "https", "ssh":
		var isGit bool
		var err error
		if op, isGit, err = remoteContext(nc.value); err != nil {
			return err
		}
		if kind == "git" && !isGit {
			return fmt.Errorf("invalid git context %s", nc.value)
		}
	case "local":
		op = &graph.Local{Name: rest}
		meta.Name = "[context " + nc.name + "] load from client"
	default:
		return fmt.Errorf("unsupported context source %s for %s", kind, nc.name)
	}
	v := &graph.Vertex{Op: op, Meta: meta}
	if _, ok := op.(*graph.Image); ok {
		v.Platform = platform
	}
	s.root = graph.Edge{Vertex: v}
	s.root0 = s.root
	return nil
}

// remoteContext tells a git repository from a file.
func remoteContext(address string) (op graph.Op, isGit bool, err error) {
	ref, isGit, err := parseGit(address)
	if isGit {
		if err != nil {
			return nil, true, err
		}
		return ref.op(), true, nil
	}
	if strings.HasPrefix(address, "github.com/") {
		ref, _, err := parseGit("https://" + address)
		if err != nil {
			// Without .git, which parseGit needs to tell it from a file.
			base, fragment, _ := strings.Cut(address, "#")
			if ref, _, err = parseGit("https://" + base + ".git#" + fragment); err != nil {
				return nil, true, err
			}
			ref.remote = strings.TrimSuffix(ref.remote, ".git")
		}
		return ref.op(), true, nil
	}
	if strings.HasPrefix(address, "http://") || strings.HasPrefix(address, "https://") {
		return &graph.HTTP{URL: address, Filename: "context"}, false, nil
	}
	return nil, false, fmt.Errorf("invalid context %s", address)
}

// context returns the build's context.
func (c *converter) context() (graph.Edge, error) {
	if c.asked {
		return c.local, nil
	}
	c.asked, c.paths = true, map[string]bool{}
	if c.o.Context == "" {
		c.local = graph.Edge{Vertex: &graph.Vertex{
			Op:   &graph.Local{Name: "context"},
			Meta: graph.Meta{Name: "[internal] load build context", Internal: true},
		}}
		return c.local, nil
	}
	op, isGit, err := remoteContext(c.o.Context)
	if err != nil {
		return graph.Edge{}, err
	}
	v := &graph.Vertex{Op: op, Meta: graph.Meta{Name: "[internal] load remote build context"}}
	if !isGit {
		// An archive. (If it were a Dockerfile, there would be no context.)
		v = &graph.Vertex{
			Op: &graph.File{Actions: []graph.Action{{
				Input: graph.Scratch, From: 0,
				Copy: &graph.Copy{Src: "/context", Dest: "/", Unpack: true},
			}}},
			Inputs: []graph.Edge{{Vertex: v}},
			Meta:   graph.Meta{Name: "[internal] unpack build context", Internal: true},
		}
	}
	c.local = graph.Edge{Vertex: v}
	return c.local, nil
}

// useContext says that path is used of the context.
func (c *converter) useContext(p string) { c.paths[path.Join("/", p)] = true }

// RemoteContext is where a context with an address comes from: a graph.Git, or a graph.HTTP with an archive or a Dockerfile.
func RemoteContext(address string) (graph.Op, error) {
	op, _, err := remoteContext(address)
	return op, err
}
