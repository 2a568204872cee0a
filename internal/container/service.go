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
	LogPath      string
	Dir          string // holds hostname, hosts, resolv.conf
	AppArmor     string
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

// Service answers for all containers. Its methods may be called from any goroutine. A ref is a full ID, a
// name, or a unique prefix of an ID; errs.NotFound with Docker's "No such container: …" otherwise.
type Service struct{}

// Create reserves the name and records the container; it returns the ID and warnings for the user.
func (s *Service) Create(ctx context.Context, r CreateRequest) (string, []string, error) {
	panic("not written")
}

// Get returns the container's state now, without waiting for anything under way.
func (s *Service) Get(ref string) (Snapshot, error) { panic("not written") }

// List returns those that match, newest first.
func (s *Service) List(o ListOptions) ([]Snapshot, error) { panic("not written") }

// Sizes returns the bytes of the writable layer and of all layers together.
func (s *Service) Sizes(ctx context.Context, ref string) (rw, root int64, err error) {
	panic("not written")
}

// Start starts it; errs.NotModified if it runs.
func (s *Service) Start(ctx context.Context, ref string) error { panic("not written") }

// Stop sends signal (empty: the container's own) and, after timeout seconds (nil: the container's own; -1:
// never), SIGKILL; errs.NotModified if it does not run.
func (s *Service) Stop(ctx context.Context, ref, signal string, timeout *int) error {
	panic("not written")
}

// Restart is Stop, if it runs, and Start.
func (s *Service) Restart(ctx context.Context, ref, signal string, timeout *int) error {
	panic("not written")
}

// Kill sends a signal, by name or number; empty is SIGKILL. errs.Conflict if it does not run.
func (s *Service) Kill(ctx context.Context, ref, signal string) error { panic("not written") }

// Wait returns a channel that gets one result when condition holds: "not-running", "next-exit" or "removed".
// The wait is registered when Wait returns, so that a Start after it cannot be missed.
func (s *Service) Wait(ctx context.Context, ref string, condition api.WaitCondition) (<-chan WaitResult, error) {
	panic("not written")
}

// Remove deletes it; running, only with force.
func (s *Service) Remove(ctx context.Context, ref string, force, volumes, link bool) error {
	panic("not written")
}

// Logs reads the log; errs.NotImplemented in Docker's words where the driver keeps none.
func (s *Service) Logs(ctx context.Context, ref string, o LogOptions) (LogReader, error) {
	panic("not written")
}

// Attach attaches to the running (or about to run) container.
func (s *Service) Attach(ctx context.Context, ref string, o AttachOptions) (*Attachment, error) {
	panic("not written")
}

// Resize sets the terminal's size in characters.
func (s *Service) Resize(ctx context.Context, ref string, height, width uint16) error {
	panic("not written")
}

// ExecCreate prepares a process inside a running container and returns the exec's ID.
func (s *Service) ExecCreate(ctx context.Context, ref string, c ExecConfig) (string, error) {
	panic("not written")
}

// ExecStart starts it; the attachment is nil with detach.
func (s *Service) ExecStart(ctx context.Context, id string, detach, tty bool, size *[2]uint) (*Attachment, error) {
	panic("not written")
}

// ExecGet returns the exec's state now.
func (s *Service) ExecGet(id string) (ExecSnapshot, error) { panic("not written") }

// ExecResize sets the exec's terminal's size.
func (s *Service) ExecResize(ctx context.Context, id string, height, width uint16) error {
	panic("not written")
}
