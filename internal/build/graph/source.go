package graph

import (
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// Image is the root file system of an image.
type Image struct {
	// Ref is a whole reference (docker.io/library/debian:13), with a digest if one is asked for or was resolved.
	Ref string
	// Pull says when a registry is asked.
	Pull PullMode
	// Layout is the name of an OCI layout that the client offers and that holds the image; "" means the engine's
	// own store and registries.
	Layout string
	// Layers limits the file system to the first so many layers; 0 is all.
	Layers int
}

// PullMode says when a registry is asked for an image.
type PullMode string

// An image is taken from the store if it is there; always asked for, as --pull wishes; or only taken from the store.
const (
	PullMissing PullMode = ""
	PullAlways  PullMode = "always"
	PullNever   PullMode = "never"
)

// Local is a folder that the client offers, such as the build's context. Its digest says which folder and which part
// of it, not what is in there.
type Local struct {
	// Name is "context", "dockerfile", or a name given by --build-context.
	Name string
	// Include, if there is any, are patterns of moby/patternmatcher of what is wanted; Exclude of what is not (for a
	// context the client's .dockerignore applies besides, before anything is sent).
	Include, Exclude []string
	// Follow are the paths that the build uses: only they, what is below them and what links on the way to
	// them point to are needed. They may have wildcards. None means everything.
	Follow []string
}

// HTTP is one file, from an address.
type HTTP struct {
	URL string
	// Checksum, if it isn't empty, is what the file's digest must be.
	Checksum digest.Digest
	// Filename is what the file is called; "" takes the name that the server or the address gives.
	Filename string
	// Mode holds permission bits; 0 means 0600.
	Mode     uint32
	UID, GID uint32
	// AuthSecret is the ID of a secret with the Authorization header's value, if the client has one.
	AuthSecret string
}

// Git is a working tree, of the commit that Ref names.
type Git struct {
	// Remote is an address that git understands.
	Remote string
	// Ref is a branch, a tag or a commit; "" is the remote's HEAD.
	Ref string
	// Checksum, if it isn't empty, is the commit (or a prefix of its ID) that Ref must lead to.
	Checksum string
	// Subdir is the part of the tree that becomes the root, "" for all of it.
	Subdir     string
	KeepGitDir bool
	// FetchByCommit asks the remote for the commit Checksum itself, even if no branch or tag Ref leads to it.
	FetchByCommit bool
	// SkipSubmodules leaves submodules alone.
	SkipSubmodules bool
	// TokenSecret and HeaderSecret are IDs of secrets that authorize over HTTP, if the client has them; SSH is the ID of
	// the agent to use, and KnownHosts the keys to trust then.
	TokenSecret, HeaderSecret, SSH, KnownHosts string
}

// Blob is one file whose content is the blob of Digest, from the store or from the registry that Ref names.
type Blob struct {
	Digest   digest.Digest
	Ref      string
	Filename string
	Mode     uint32
	UID, GID uint32
}

// Kind implements Op.
func (*Image) Kind() string { return "image" }

// Kind implements Op.
func (*Local) Kind() string { return "local" }

// Kind implements Op.
func (*HTTP) Kind() string { return "http" }

// Kind implements Op.
func (*Git) Kind() string { return "git" }

// Kind implements Op.
func (*Blob) Kind() string { return "blob" }

func (*Image) outputs() int { return 1 }
func (*Local) outputs() int { return 1 }
func (*HTTP) outputs() int  { return 1 }
func (*Git) outputs() int   { return 1 }
func (*Blob) outputs() int  { return 1 }

func (o *Image) check(inputs int) error { return source(inputs, o.Ref) }
func (o *Local) check(inputs int) error { return source(inputs, o.Name) }
func (o *HTTP) check(inputs int) error  { return source(inputs, o.URL) }
func (o *Git) check(inputs int) error   { return source(inputs, o.Remote) }
func (o *Blob) check(inputs int) error  { return source(inputs, o.Digest.String()) }

func source(inputs int, name string) error {
	if inputs != 0 {
		return fmt.Errorf("a source has no inputs, this has %d", inputs)
	}
	if name == "" {
		return errors.New("nothing says where it comes from")
	}
	return nil
}
