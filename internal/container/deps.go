package container

import (
	"github.com/opencontainers/go-digest"

	"gantry/internal/layer"
	"gantry/internal/runtime/spec"
)

type logSettings = spec.Log

// Events hears what happens to containers. action is Docker's ("start", "exec_create: ls -l"); attributes
// hold image, name and the container's labels besides the action's own.
type Events interface {
	Container(action, id string, attributes map[string]string)
}

// Layers keeps the file systems: those of images, and the writable one in each container's directory.
type Layers interface {
	CreateWritable(chain digest.Digest, container string) error
	// Overlay describes the container's root; it makes a writable layer that a power cut took.
	Overlay(chain digest.Digest, container string) (layer.Overlay, error)
	// RemoveDir throws the container's whole directory away. It may be called twice.
	RemoveDir(container string) error
	// Changes lists what the container has changed on top of chain.
	Changes(chain digest.Digest, container string) ([]layer.Change, error)
}

// Sizer tells how much files take, in bytes.
type Sizer interface {
	Size(container string) (int64, error)         // the writable layer
	ChainSize(chain digest.Digest) (int64, error) // all layers up to chain
}

// LogOpener opens a log that the json-file driver wrote. ended is closed when no more will be written, for
// those who follow; nil: it has ended already.
type LogOpener func(path string, o LogOptions, ended <-chan struct{}) (LogReader, error)
