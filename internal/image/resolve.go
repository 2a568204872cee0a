package image

import (
	"encoding/json"
	"fmt"
	"strings"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/content"
	"gantry/internal/errs"
	"gantry/internal/layer"
)

// Bounds of the JSON documents of an image. Registries refuse manifests beyond 4 MiB.
const (
	maxManifest  = 4 << 20
	maxConfig    = 8 << 20
	maxNesting   = 4
	maxManifests = 1000
)

// Media types that mean what OCI's mean.
const (
	dockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
)

// resolved is a target and what it leads to on this host. It is never changed once it is known.
type resolved struct {
	target, manifest ocispec.Descriptor
	id               digest.Digest
	configSize       int64
	config           dockerspec.DockerOCIImage
	layers           []ocispec.Descriptor // bottom first, as the diff IDs
	chain            digest.Digest
	size             int64
	blobs            []digest.Digest // everything below target that is or may be here: to be kept
	foreign          bool            // another platform's will do where there is none for the host
}

// resolve reads target and picks the host's platform. It does not look at the layers.
func (s *Service) resolve(target ocispec.Descriptor) (*resolved, error) {
	return s.resolveAs(target, false)
}

// resolveAny is resolve that takes another platform's where there is none for the host: what was pulled on request.
func (s *Service) resolveAny(target ocispec.Descriptor) (*resolved, error) {
	return s.resolveAs(target, true)
}

func (s *Service) resolveAs(target ocispec.Descriptor, foreign bool) (*resolved, error) {
	x := &resolved{target: target, foreign: foreign}
	var seen []ocispec.Platform
	found, err := s.descend(x, target, 0, &seen)
	if err != nil {
		return nil, err
	}
	best := -1
	for i, c := range found {
		if best < 0 || c.rank < found[best].rank {
			best = i
		}
	}
	if best < 0 {
		return nil, errs.Invalid.Errorf("%s has no image for this host's platform %s; it has: %s", target.Digest, formatPlatform(hostPlatform()), listPlatforms(seen))
	}
	x.manifest = found[best].manifest
	x.id, x.configSize = found[best].parsed.Config.Digest, found[best].parsed.Config.Size
	x.layers = found[best].parsed.Layers
	x.config = found[best].config
	for _, d := range x.config.RootFS.DiffIDs {
		if err := d.Validate(); err != nil {
			return nil, errs.Invalid.Errorf("config %s: diff ID %q: %w", x.id, string(d), err)
		}
		x.chain = layer.ChainID(x.chain, d)
	}
	return x, nil
}

// candidate is a manifest whose platform the host runs.
type candidate struct {
	manifest ocispec.Descriptor
	parsed   ocispec.Manifest
	config   dockerspec.DockerOCIImage
	rank     int
}

// descend walks an index, or takes a manifest, and collects what there is for the host.
func (s *Service) descend(x *resolved, d ocispec.Descriptor, depth int, seen *[]ocispec.Platform) ([]candidate, error) {
	if depth > maxNesting || len(x.blobs) > 100*maxManifests {
		return nil, errs.Invalid.Errorf("index %s is nested too deep or too large", x.target.Digest)
	}
	x.blobs = append(x.blobs, d.Digest)
	data, err := s.content.Read(d.Digest, maxManifest)
	if err != nil {
		return nil, err
	}
	if isIndex(d.MediaType, data) {
		var index ocispec.Index
		if err := json.Unmarshal(data, &index); err != nil {
			return nil, errs.Invalid.Errorf("read index %s: %w", d.Digest, err)
		}
		if len(index.Manifests) > maxManifests {
			return nil, errs.Invalid.Errorf("index %s lists more than %d manifests", d.Digest, maxManifests)
		}
		var all []candidate
		for _, m := range index.Manifests {
			if err := content.Check(m.Digest); err != nil {
				return nil, errs.Invalid.Errorf("index %s: %w", d.Digest, err)
			}
			// Other platforms' blobs need not be here. What is here is kept with the rest.
			if _, err := s.content.Stat(m.Digest); errs.NotFound.Is(err) {
				if m.Platform != nil {
					*seen = append(*seen, *m.Platform)
				}
				continue
			}
			found, err := s.descend(x, m, depth+1, seen)
			if err != nil {
				return nil, err
			}
			all = append(all, found...)
		}
		return all, nil
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, errs.Invalid.Errorf("read manifest %s: %w", d.Digest, err)
	}
	if m.SchemaVersion != 2 {
		return nil, errs.Invalid.Errorf("manifest %s has schema version %d: only 2 is supported", d.Digest, m.SchemaVersion)
	}
	for _, b := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		if err := content.Check(b.Digest); err != nil {
			return nil, errs.Invalid.Errorf("manifest %s: %w", d.Digest, err)
		}
		x.blobs = append(x.blobs, b.Digest)
	}
	inIndex := depth > 0
	if inIndex && (d.Annotations["vnd.docker.reference.type"] != "" || m.ArtifactType != "") {
		return nil, nil // an attestation, a signature: about an image, not one
	}
	switch m.Config.MediaType {
	case ocispec.MediaTypeImageConfig, dockerspec.DockerOCIImageMediaType, "", "application/octet-stream":
	default:
		if inIndex {
			return nil, nil
		}
		return nil, errs.Invalid.Errorf("%s is no container image: its config is %q", d.Digest, m.Config.MediaType)
	}
	if d.Platform != nil && inIndex && platformRank(*d.Platform) < 0 && !x.foreign {
		*seen = append(*seen, *d.Platform)
		return nil, nil
	}
	config, err := s.readConfig(m.Config.Digest)
	if errs.NotFound.Is(err) && inIndex && x.foreign { // a part of it is here: it was not pulled as an image
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	rank := platformRank(config.Platform)
	if d.Platform != nil {
		rank = platformRank(*d.Platform)
	}
	if rank < 0 {
		if inIndex && !x.foreign {
			*seen = append(*seen, config.Platform)
			return nil, nil
		}
		// A name that leads to one platform only leads there, as in Docker; running it says what is wrong.
		rank = 1 << 10
	}
	if config.OS != "" && config.OS != "linux" {
		return nil, errs.Invalid.Errorf("image operating system %q cannot be used on this platform", config.OS)
	}
	return []candidate{{d, m, config, rank}}, nil
}

func (s *Service) readConfig(d digest.Digest) (c dockerspec.DockerOCIImage, err error) {
	data, err := s.content.Read(d, maxConfig)
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return c, errs.Invalid.Errorf("read image config %s: %w", d, err)
	}
	if c.RootFS.Type != "layers" && (c.RootFS.Type != "" || len(c.RootFS.DiffIDs) > 0) {
		return c, errs.Invalid.Errorf("image config %s: unknown rootfs type %q", d, c.RootFS.Type)
	}
	return c, nil
}

// isIndex tells an index from a manifest by the media type, and where there is none by the content.
func isIndex(mediaType string, data []byte) bool {
	var shape struct {
		MediaType string          `json:"mediaType"`
		Manifests json.RawMessage `json:"manifests"`
		Config    json.RawMessage `json:"config"`
	}
	json.Unmarshal(data, &shape) // what is wrong with it is said by whoever reads it whole
	if mediaType == "" || strings.HasSuffix(mediaType, "octet-stream") {
		mediaType = shape.MediaType
	}
	switch mediaType {
	case ocispec.MediaTypeImageIndex, dockerIndex:
		return true
	case ocispec.MediaTypeImageManifest, dockerManifest:
		return false
	}
	return shape.Manifests != nil && shape.Config == nil
}

// measure fills in the size from the unpacked layers.
func (s *Service) measure(x *resolved) error {
	chain, err := s.layers.Chain(x.chain)
	if err != nil {
		return err
	}
	x.size = 0
	for _, l := range chain {
		x.size += l.Size
	}
	return nil
}

func listPlatforms(ps []ocispec.Platform) string {
	var names []string
	for _, p := range ps {
		if p.OS != "unknown" {
			names = append(names, formatPlatform(p))
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

func formatPlatform(p ocispec.Platform) string {
	name := fmt.Sprintf("%s/%s", p.OS, p.Architecture)
	if p.Variant != "" {
		name += "/" + p.Variant
	}
	return name
}
