package container

import (
	api "github.com/moby/moby/api/types/container"
	"github.com/opencontainers/go-digest"

	"gantry/internal/kernel/cgroup"
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
}

// Sizer tells how much files take, in bytes.
type Sizer interface {
	Size(container string) (int64, error)         // the writable layer
	ChainSize(chain digest.Digest) (int64, error) // all layers up to chain
}

// Plan is what a Builder makes a process from.
type Plan struct {
	Snapshot *Snapshot
	Overlay  layer.Overlay
	Target   string // where the root is mounted, inside the container's own mount namespace
	Files    string // the directory of hostname, hosts and resolv.conf: the container's, or that of the one whose network it joins
	Cgroup   spec.Cgroup
	Log      spec.Log
	Defaults *Defaults
	// Of finds the first process of the container id, whose namespaces are joined.
	Of func(id string) (spec.Process, error)
}

// Builder turns a container's configuration into the finished facts that the supervisor and init need.
type Builder interface {
	Resources(h *api.HostConfig) (cgroup.Resources, error)
	Container(p *Plan) (*spec.Launch, *spec.Init, error)
	// Exec builds a process that joins of, the first of p's container.
	Exec(p *Plan, id string, c *ExecConfig, of spec.Process) (*spec.Launch, *spec.Exec, error)
}

// LogOpener opens a log that the json-file driver wrote. ended is closed when no more will be written, for
// those who follow; nil: it has ended already.
type LogOpener func(path string, o LogOptions, ended <-chan struct{}) (LogReader, error)
