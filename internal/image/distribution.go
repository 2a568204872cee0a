package image

import (
	"context"
	"encoding/json"

	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/errs"
	"gantry/internal/remote"
)

// Distribution asks the registry what a reference leads to, and for which platforms that is. Nothing is kept.
func (s *Service) Distribution(ctx context.Context, ref string, a remote.Access) (ocispec.Descriptor, []ocispec.Platform, error) {
	fail := func(err error) (ocispec.Descriptor, []ocispec.Platform, error) {
		return ocispec.Descriptor{}, nil, err
	}
	repo, m, err := s.remoteManifest(ctx, ref, a)
	if err != nil {
		return fail(err)
	}
	var platforms []ocispec.Platform
	if isIndex(m.MediaType, m.Data) {
		var index ocispec.Index
		if err := json.Unmarshal(m.Data, &index); err != nil {
			return fail(errs.Invalid.Errorf("read index %s: %w", m.Digest, err))
		}
		for _, d := range index.Manifests {
			if d.Platform != nil {
				platforms = append(platforms, *d.Platform)
			}
		}
		return m.Descriptor, platforms, nil
	}
	parsed, err := parseManifest(m)
	if err != nil {
		return fail(err)
	}
	data, err := repo.Blob(ctx, parsed.Config, maxConfig)
	if err != nil {
		return fail(err)
	}
	var config dockerspec.DockerOCIImage
	if err := json.Unmarshal(data, &config); err != nil {
		return fail(errs.Invalid.Errorf("read image config %s: %w", parsed.Config.Digest, err))
	}
	return m.Descriptor, []ocispec.Platform{config.Platform}, nil
}

// Manifest gets the index or manifest that a reference leads to in its registry, as it is there. Nothing is kept.
func (s *Service) Manifest(ctx context.Context, ref string, a remote.Access) (ocispec.Descriptor, []byte, error) {
	_, m, err := s.remoteManifest(ctx, ref, a)
	return m.Descriptor, m.Data, err
}

func (s *Service) remoteManifest(ctx context.Context, ref string, a remote.Access) (repo *remote.Repository, m remote.Manifest, err error) {
	if s.remote == nil {
		return nil, m, errs.NotImplemented.Errorf("this engine talks to no registries")
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, m, errs.Invalid.Wrap(err)
	}
	named = reference.TagNameOnly(named)
	if repo, err = s.remote.Repository(named, a); err != nil {
		return nil, m, err
	}
	what := ""
	switch r := named.(type) {
	case reference.Digested:
		what = r.Digest().String()
	case reference.Tagged:
		what = r.Tag()
	}
	if m, err = repo.Manifest(ctx, what); err != nil {
		return nil, m, (&pull{s: s, repo: repo}).explain(ctx, named, err)
	}
	return repo, m, nil
}

// IsNameOnly reports whether a reference names neither tag nor digest.
func IsNameOnly(ref string) (bool, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	return err == nil && reference.IsNameOnly(named), err
}

// IsBuiltin reports whether a reference names an image inside the program.
func IsBuiltin(ref string) bool { return builtinName(ref) != "" }
