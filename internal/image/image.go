// Package image knows what images there are: references to kept descriptors, and what they lead to.
//
// A reference ("debian:latest") points to a descriptor, an index or a manifest, whose blobs lie in the
// content store as they were received. An image's ID is the digest of its config. See ARCHITECTURE.md.
package image

import (
	"context"
	"io"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is a resolved image: one platform's manifest and config, with the references that lead to it.
type Image struct {
	ID          digest.Digest      // digest of the config
	Target      ocispec.Descriptor // what the reference points to: an index or a manifest
	Manifest    ocispec.Descriptor // this platform's manifest
	Config      dockerspec.DockerOCIImage
	ChainID     digest.Digest // of the topmost layer; empty for an image without layers
	RepoTags    []string      // familiar form: "debian:latest"
	RepoDigests []string      // familiar form: "debian@sha256:…"
	Size        int64         // bytes: the unpacked layers
	Tagged      time.Time     // when the newest of its references was made
}

// ListOptions selects images. Filters are Docker's: dangling, label, before, since, reference, until.
type ListOptions struct {
	All     bool
	Filters map[string][]string
}

// Deleted is one line of what Remove did; exactly one of the two is set.
type Deleted struct {
	Untagged string
	Deleted  string
}

// Loaded is one image that Load took in: by its reference, or by its ID where the archive names none.
type Loaded struct {
	Ref string
	ID  digest.Digest
}

// Service answers for all images. Its methods may be called from any goroutine.
type Service struct{}

// Get resolves a reference: name[:tag][@digest], an image ID or a unique prefix of one, or the digest of a
// manifest. Not found, it is errs.NotFound with Docker's "No such image: …".
func (s *Service) Get(ctx context.Context, ref string) (Image, error) { panic("not written") }

// List returns the images that match, newest first.
func (s *Service) List(ctx context.Context, o ListOptions) ([]Image, error) { panic("not written") }

// Load takes in a docker-archive or an OCI layout, tar-ed, plain or compressed by gzip or zstd. progress may be nil.
// An archive that is broken at any place leaves nothing behind.
func (s *Service) Load(ctx context.Context, r io.Reader, progress func(string)) ([]Loaded, error) {
	panic("not written")
}

// Tag makes the reference target point to what source points to.
func (s *Service) Tag(ctx context.Context, source, target string) error { panic("not written") }

// Remove takes away a reference, and with the last one the image. In use it is errs.Conflict in Docker's words.
func (s *Service) Remove(ctx context.Context, ref string, force, noPrune bool) ([]Deleted, error) {
	panic("not written")
}
