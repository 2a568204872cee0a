// Package image knows what images there are: references to kept descriptors, and what they lead to.
//
// A reference ("debian:latest") points to a descriptor, an index or a manifest, whose blobs lie in the
// content store as they were received. An image's ID is the digest of its config. See ARCHITECTURE.md.
//
// In the state, the bucket "images" has a record for each reference, by its normalized form
// ("docker.io/library/debian:latest", or with @digest after a pull), and one under "@" and the target's
// digest for a target that no reference leads to: such an image is dangling, and stays until it is removed.
// Everything else is read from the blobs when the service opens, and kept in memory.
package image

import (
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
	Content     int64         // bytes of its blobs: manifest, config and layers as they travel
	Tagged      time.Time     // when the newest of its references was made
}

// Created is when the image was built; zero if its config does not say.
func (i Image) Created() time.Time {
	if i.Config.Created == nil {
		return time.Time{}
	}
	return *i.Config.Created
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

// User is a container that was made from an image.
type User struct {
	ID      string
	Running bool
}

// Users tells which containers were made from an image; the container service answers it.
type Users interface {
	ImageUsers(id digest.Digest) []User
}

// Events is told what happens: action is Docker's word (load, tag, untag, delete), name what Docker puts into
// the event's attribute "name".
type Events interface {
	Image(action string, id digest.Digest, name string, labels map[string]string)
}
