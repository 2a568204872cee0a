package api

import (
	"strings"

	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/errs"
	"gantry/internal/image"
)

// imageCreate is POST /images/create: a pull, or an import.
func (s *Server) imageCreate(c *call) error {
	name := c.str("fromImage")
	if name == "" {
		if c.str("fromSrc") != "" {
			return s.imageImport(c)
		}
		return errs.Invalid.Errorf("one of the parameters fromImage and fromSrc is needed")
	}
	tag := c.str("tag")
	all := false
	switch {
	case strings.HasSuffix(name, ":"): // `docker pull -a` of old clients
		name, all = strings.TrimSuffix(name, ":"), true
	case strings.Contains(tag, ":"): // a digest
		name += "@" + tag
	case tag != "":
		name += ":" + tag
	default: // the API pulls all tags where none is named; a name with one is one
		named, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return errs.Invalid.Wrap(err)
		}
		all = reference.IsNameOnly(named)
	}
	o := image.PullOptions{All: all}
	if p := c.str("platform"); p != "" {
		platform, err := parsePlatformText(p)
		if err != nil {
			return err
		}
		o.Platform = &platform
	}
	var err error
	if o.Access, err = c.access(); err != nil {
		return err
	}
	m := messages{c: c}
	if image.IsBuiltin(name) && o.Platform == nil {
		// An image that is inside the engine: asking for it makes it there, without a network.
		x, err := s.deps.Images.Get(c.r.Context(), name)
		if err != nil {
			return err
		}
		named, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return err
		}
		m.status("latest", "Pulling from "+reference.Path(named))
		m.status("", "Digest: "+x.Target.Digest.String())
		m.status("", "Status: Image is up to date for "+reference.FamiliarString(reference.TagNameOnly(named)))
		return nil
	}
	if err := s.deps.Images.Pull(c.r.Context(), name, o, m.progress); err != nil {
		return m.fail(s.advise(err))
	}
	return nil
}

// parsePlatformText reads os[/arch[/variant]], as pull has it, or the JSON of newer clients.
func parsePlatformText(s string) (ocispec.Platform, error) {
	if strings.HasPrefix(s, "{") {
		return parsePlatform(s)
	}
	parts := strings.Split(strings.ToLower(s), "/")
	p := ocispec.Platform{}
	for _, part := range parts {
		if part == "" || strings.Trim(part, "abcdefghijklmnopqrstuvwxyz0123456789_.-") != "" {
			return p, errs.Invalid.Errorf("%q is an invalid component of %q: platform specifier component must match \"^[A-Za-z0-9_.-]+$\": invalid argument", part, s)
		}
	}
	known := map[string]string{"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386", "armhf": "arm", "armel": "arm"}
	arch := func(s string) string {
		if k := known[s]; k != "" {
			return k
		}
		return s
	}
	switch len(parts) {
	case 1:
		if parts[0] == "linux" || parts[0] == "windows" || parts[0] == "darwin" || parts[0] == "freebsd" {
			p.OS = parts[0]
		} else {
			p.OS, p.Architecture = "linux", arch(parts[0])
		}
	case 2:
		p.OS, p.Architecture = parts[0], arch(parts[1])
	case 3:
		p.OS, p.Architecture, p.Variant = parts[0], arch(parts[1]), parts[2]
	default:
		return p, errs.Invalid.Errorf("%q: cannot parse platform specifier: invalid argument", s)
	}
	return p, nil
}
