package container

import (
	"context"
	"io"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/opencontainers/go-digest"
)

// Image is what a container needs to know of an image.
type Image struct {
	ID      digest.Digest
	Name    string // familiar reference, as the user would type it
	Config  dockerspec.DockerOCIImage
	ChainID digest.Digest
}

// Images resolves image references. The image service answers it.
type Images interface {
	Image(ctx context.Context, ref string) (Image, error)
}

// CreateRequest is what POST /containers/create says.
type CreateRequest struct {
	Name       string
	Config     *api.Config
	HostConfig *api.HostConfig
	Networking *network.NetworkingConfig
	Platform   string // "os/arch[/variant]", or empty
}

// Snapshot is a container as it was at one moment. It is never changed: a reader may keep it.
type Snapshot struct {
	ID, Name     string // Name without the leading slash
	Created      time.Time
	Image        Image
	Config       *api.Config
	HostConfig   *api.HostConfig
	Path         string // what runs
	Args         []string
	Status       Status
	Pid          int
	ExitCode     int
	OOMKilled    bool
	Error        string
	StartedAt    time.Time // zero: never
	FinishedAt   time.Time
	RestartCount int
	Execs        []string // IDs of those not yet ended
	Mounts       []api.MountPoint
	MountOptions map[string]MountOptions // by destination; nil in containers of before volumes
	// Wanted are the networks that the container is meant for, with what is asked of each; Endpoints and Ports are what
	// came of it while it runs.
	Wanted    map[string]*network.EndpointSettings
	Endpoints map[string]*network.EndpointSettings
	Ports     network.PortMap
	Links     []Link // on the default network
	LogPath   string
	Dir       string // holds hostname, hosts, resolv.conf
	AppArmor  string

	live *live // nil when nothing runs
}

// ListOptions selects containers. Filters are Docker's: id, name, label, status, exited, ancestor, before,
// since, volume, network, health, publish, expose, isolation, is-task.
type ListOptions struct {
	All     bool
	Limit   int // the newest so many, whatever their state; 0: no limit
	Size    bool
	Filters map[string][]string
}

// WaitResult is what a wait ends with.
type WaitResult struct {
	Code int
	Err  error
}

// LogOptions are those of GET /containers/{id}/logs. Tail < 0 means all.
type LogOptions struct {
	Stdout, Stderr, Follow bool
	Since, Until           time.Time
	Tail                   int
}

// LogLine is one record of a log; Text ends with a newline unless the process wrote a partial line.
type LogLine struct {
	Stream byte // supervisor.Stdout or Stderr
	Time   time.Time
	Text   []byte
	Attrs  map[string]string
}

// LogReader hands out lines until io.EOF. Close ends a waiting Next.
type LogReader interface {
	Next() (LogLine, error)
	Close() error
}

// AttachOptions are those of POST /containers/{id}/attach and of an exec's start.
type AttachOptions struct {
	Stdin, Stdout, Stderr bool
	Logs, Stream          bool   // Logs: what was written before comes first
	DetachKeys            string // "ctrl-p,ctrl-q" form; empty is the default, only heeded with a terminal
}

// Attachment is one client's hold on a process's streams.
type Attachment struct {
	Terminal bool
	Stdin    io.WriteCloser // nil when not asked for; Write returns ErrDetached after the detach keys
	Output   Output
}

// Output hands out what the process writes. Next returns io.EOF when the process and its streams have
// ended, ErrDetached after a detach. The bytes are valid until the next call.
type Output interface {
	Next() (stream byte, p []byte, err error)
	Close() error
}

// ExecConfig is what POST /containers/{id}/exec says.
type ExecConfig struct {
	User         string
	Privileged   bool
	Tty          bool
	ConsoleSize  *[2]uint
	AttachStdin  bool
	AttachStdout bool
	AttachStderr bool
	DetachKeys   string
	Env          []string
	WorkingDir   string
	Cmd          []string
}

// ExecSnapshot is an exec as it was at one moment.
type ExecSnapshot struct {
	ID, Container string
	Config        ExecConfig
	Running       bool
	ExitCode      *int // nil before the end
	Pid           int
	CanRemove     bool
}
