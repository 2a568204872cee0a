package build

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/build/session/offer"
	"gantry/internal/build/session/wire"
	"gantry/internal/cli/container"
	"gantry/internal/cli/parse"
)

// addCaches reads --cache-from and --cache-to.
func (p *plan) addCaches() error {
	for _, s := range p.o.cacheFrom.Values {
		if err := p.cacheFrom(s); err != nil {
			return fmt.Errorf("invalid --cache-from %q: %w", s, err)
		}
	}
	for _, s := range p.o.cacheTo.Values {
		if err := p.cacheTo(s); err != nil {
			return fmt.Errorf("invalid --cache-to %q: %w", s, err)
		}
	}
	return nil
}

// cacheFields takes a cache apart: a reference alone is one in a registry.
func cacheFields(s string, known ...string) (map[string]string, error) {
	if !strings.Contains(s, "=") {
		if s == "inline" {
			return map[string]string{"type": "inline"}, nil
		}
		return map[string]string{"type": "registry", "ref": s}, nil
	}
	m, err := fields(s)
	if err != nil {
		return nil, err
	}
	for k := range m {
		found := k == "type"
		for _, x := range known {
			found = found || k == x
		}
		if !found {
			return nil, fmt.Errorf("unknown key %q", k)
		}
	}
	if m["type"] == "" {
		return nil, errors.New("it has no type")
	}
	if m["type"] == "registry" {
		if m["ref"] == "" {
			return nil, errors.New("it needs a reference, ref=")
		}
		if _, _, err := parse.Reference(m["ref"]); err != nil {
			return nil, fmt.Errorf("%q: invalid reference format", m["ref"])
		}
	}
	return m, nil
}

func flag(m map[string]string, key string, otherwise bool) (bool, error) {
	v, ok := m[key]
	if !ok {
		return otherwise, nil
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, fmt.Errorf("%s=%s is neither true nor false", key, v)
	}
	return b, nil
}

func (p *plan) cacheFrom(s string) error {
	m, err := cacheFields(s, "ref", "src", "tag", "digest", "registry.insecure")
	if err != nil {
		return err
	}
	c := wire.CacheFrom{Type: m["type"], Ref: m["ref"], Tag: m["tag"]}
	if c.Insecure, err = flag(m, "registry.insecure", false); err != nil {
		return err
	}
	switch c.Type {
	case "registry":
	case "local":
		if m["src"] == "" {
			return errors.New("it needs a folder, src=")
		}
		if m["digest"] != "" {
			if c.Digest, err = digest.Parse(m["digest"]); err != nil {
				return fmt.Errorf("digest %q: %w", m["digest"], err)
			}
		}
		if _, err := os.Stat(filepath.Join(m["src"], ocispec.ImageIndexFile)); err != nil {
			if os.IsNotExist(err) && p.exported(m["src"]) { // the first time, with the same folder for both
				return nil
			}
			return fmt.Errorf("%s has no cache: %w", m["src"], err)
		}
		c.Folder = "cache " + strconv.Itoa(len(p.request.CacheFrom))
		p.offer.Folders[c.Folder] = offer.Folder{Path: m["src"]}
	default:
		return fmt.Errorf("unknown cache importer: %q: registry and local are known", c.Type)
	}
	p.request.CacheFrom = append(p.request.CacheFrom, c)
	return nil
}

// exported reports whether --cache-to makes that folder.
func (p *plan) exported(dir string) bool {
	for _, s := range p.o.cacheTo.Values {
		if m, err := fields(s); err == nil && m["type"] == "local" && filepath.Clean(m["dest"]) == filepath.Clean(dir) {
			return true
		}
	}
	return false
}

func (p *plan) cacheTo(s string) error {
	m, err := cacheFields(s, "ref", "dest", "tag", "mode", "registry.insecure", "image-manifest", "oci-mediatypes", "ignore-error",
		"compression", "compression-level", "force-compression")
	if err != nil {
		return err
	}
	c := wire.CacheTo{Type: m["type"], Ref: m["ref"], Tag: m["tag"]}
	switch m["mode"] {
	case "", "min":
	case "max":
		c.All = true
	default:
		return fmt.Errorf("mode=%s: min and max are known", m["mode"])
	}
	if x := m["compression"]; x != "" && x != "gzip" {
		return fmt.Errorf("compression=%s is not supported: gzip is", x)
	}
	for key, to := range map[string]*bool{"registry.insecure": &c.Insecure, "ignore-error": &c.IgnoreError} {
		if *to, err = flag(m, key, false); err != nil {
			return err
		}
	}
	image, err := flag(m, "image-manifest", true)
	if err != nil {
		return err
	}
	c.Index = !image
	switch c.Type {
	case "inline":
		if c.All {
			return errors.New("mode=max is for registry and local: an image has the steps of its own layers only")
		}
		if !p.makesImage() {
			return errors.New("it needs an image to be in: the output is none")
		}
	case "registry":
	case "local":
		dest := m["dest"]
		if dest == "" {
			return errors.New("it needs a folder, dest=")
		}
		if err := os.MkdirAll(dest, 0o755); err != nil {
			return err
		}
		p.offer.Outputs[wire.CacheOutput+len(p.request.CacheTo)] = func(r io.Reader) error {
			return container.Unpack(context.Background(), r, dest)
		}
	default:
		return fmt.Errorf("unknown cache exporter: %q: inline, registry and local are known", c.Type)
	}
	p.request.CacheTo = append(p.request.CacheTo, c)
	return nil
}

func (p *plan) makesImage() bool {
	for _, o := range p.request.Outputs {
		if o.Type != "local" && o.Type != "tar" {
			return true
		}
	}
	return false
}

// offerLayout offers an image of an OCI layout, as path[:tag] or path@digest, and returns its address in the request.
func (p *plan) offerLayout(name, at string) (string, error) {
	dir, tag, d := at, "", digest.Digest("")
	if before, after, ok := strings.Cut(at, "@"); ok {
		var err error
		if d, err = digest.Parse(after); err != nil {
			return "", fmt.Errorf("digest %q: %w", after, err)
		}
		dir = before
	} else if i := strings.LastIndexByte(at, ':'); i > strings.LastIndexByte(at, '/') {
		dir, tag = at[:i], at[i+1:]
	}
	data, err := os.ReadFile(filepath.Join(dir, ocispec.ImageIndexFile))
	if err != nil {
		return "", fmt.Errorf("%s is no OCI layout: %w", dir, err)
	}
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return "", fmt.Errorf("read %s of %s: %w", ocispec.ImageIndexFile, dir, err)
	}
	var tags []string
	for _, m := range index.Manifests {
		have := m.Annotations[ocispec.AnnotationRefName]
		tags = append(tags, strconv.Quote(have))
		switch {
		case d != "":
		case tag == "" && (have == "latest" || len(index.Manifests) == 1), tag != "" && have == tag:
			d = m.Digest
		}
	}
	if d == "" {
		return "", fmt.Errorf("%s has no image %q: it has %s", dir, cmp.Or(tag, "latest"), strings.Join(tags, ", "))
	}
	p.offer.Folders[name] = offer.Folder{Path: dir}
	return "oci-layout://" + name + "@" + d.String(), nil
}
