// Package executor runs the programs of a build: each in a container of its own, started as any other is (package
// runtime makes the specification, the supervisor forks, init finishes the namespaces), but without a container
// object, a log or a restart policy.
//
// A run has a folder below the exec-root while it lasts. It holds what is mounted into the run, and the journal that says
// what else is to be given back: the cgroup, the place on a network. An engine that is killed leaves the folder; the
// next one ends what still runs and takes the rest away (Open).
package executor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/docker/go-units"
	api "github.com/moby/moby/api/types/container"

	"gantry/internal/build/graph"
	"gantry/internal/errs"
	"gantry/internal/ids"
	"gantry/internal/kernel/cgroup"
	"gantry/internal/layer"
	"gantry/internal/resolvconf"
	"gantry/internal/runtime"
	"gantry/internal/runtime/spec"
	"gantry/internal/runtime/supervisor"
)

// Connection is a run's place on a network. Path leads to its network namespace until Done is called.
type Connection struct {
	Path     string
	Done     func()
	Addrs    []netip.Addr // its own
	Resolver bool         // names are answered at 127.0.0.11
}

// Networks connects runs.
type Networks interface {
	// Join makes a network namespace on the network of that name; "" is the default one.
	Join(ctx context.Context, id, hostname, network string, upstream []netip.Addr) (*Connection, error)
	// Leave gives back what Join took. It may be called twice.
	Leave(id string)
	HostGateway() (netip.Addr, error)
}

// Options are what runs stand on.
type Options struct {
	Dir          string // a folder of the exec-root, for runs under way
	Processes    *supervisor.Keeper
	Cgroups      *cgroup.Host
	Home         *cgroup.Group // the supervisor's own
	Builder      *runtime.Builder
	Networks     Networks // nil: none and host only
	CgroupParent string
	CgroupnsMode api.CgroupnsMode
	Ulimits      []*api.Ulimit // the daemon's defaults
	Log          *slog.Logger
}

// Executor runs programs.
type Executor struct {
	Options
	work sync.WaitGroup
}

// Open ends and takes away what an engine before this one left behind.
func Open(o Options) (*Executor, error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	e := &Executor{Options: o}
	entries, err := os.ReadDir(o.Dir)
	if err != nil {
		return nil, err
	}
	for _, x := range entries {
		if !ids.Valid(x.Name()) {
			continue
		}
		j := journal{Parent: o.CgroupParent}
		if data, err := os.ReadFile(e.file(x.Name(), "journal")); err == nil {
			json.Unmarshal(data, &j) // a broken one: the defaults will do
		}
		if _, there := o.Processes.Process(x.Name()); there {
			o.Processes.Signal(x.Name(), 9)
		}
		e.giveBack(x.Name(), j)
	}
	return e, nil
}

// Close waits until what runs took is given back. Runs are to be ended before.
func (e *Executor) Close() { e.work.Wait() }

// journal is what has to be undone after a crash.
type journal struct {
	Parent  string `json:"parent"`
	Network bool   `json:"network,omitempty"`
}

func (e *Executor) file(id string, name ...string) string {
	return filepath.Join(append([]string{e.Dir, id}, name...)...)
}

// Mount is one mount of a run besides its root.
type Mount struct {
	Target   string
	ReadOnly bool
	// Exactly one of these says what is mounted:
	Overlay *layer.Overlay // a file system; of which Path is shown
	Dir     string         // a folder of the host, of which Path is shown
	Tmpfs   bool
	Secret  []byte // a file's content
	Socket  string // a socket of the host
	Path    string // inside Overlay or Dir
	Size    int64  // of Tmpfs, in bytes; 0: the kernel's default
	UID     uint32 // of Secret
	GID     uint32
	Mode    uint32
}

// Run is one program to run.
type Run struct {
	Op        *graph.Exec
	Env       []string // in place of Op.Env: with secrets and proxies
	Root      layer.Overlay
	ReadOnly  bool // the root
	Mounts    []Mount
	ShmSize   int64
	Resources *graph.Resources
	Started   func(id string) // may be nil
	// Output gets what the program writes; stream is 1 or 2. It is called by one goroutine, and keeps nothing of p.
	Output func(stream int, p []byte)
}

// ExitError says that a program ended with a code that is not success.
type ExitError struct {
	Code int
	OOM  bool
}

// Error says it in Docker's words.
func (e *ExitError) Error() string {
	if e.OOM {
		return fmt.Sprintf("process did not complete successfully: exit code: %d: cannot allocate memory", e.Code)
	}
	return fmt.Sprintf("process did not complete successfully: exit code: %d", e.Code)
}

// Run runs the program to its end. A code that does not mean success is an *ExitError; a program that cannot be started, an error in
// runc's words. When ctx ends, the program is killed.
func (e *Executor) Run(ctx context.Context, r *Run) (err error) {
	id := ids.New()
	if r.Started != nil {
		r.Started(id)
	}
	host := r.Op.Network == graph.NetworkHost
	private := !host && r.Op.Network != graph.NetworkNone && e.Networks != nil
	in, err := e.input(id, r)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(e.file(id, "rootfs"), 0o755); err != nil {
		return fmt.Errorf("prepare run: %w", err)
	}
	j := journal{Parent: in.HostConfig.CgroupParent, Network: private}
	data, err := json.Marshal(j)
	if err == nil {
		err = os.WriteFile(e.file(id, "journal"), data, 0o600)
	}
	if err != nil {
		os.RemoveAll(e.file(id))
		return fmt.Errorf("prepare run: %w", err)
	}
	// Whoever waits for the program need not wait for what it leaves.
	defer e.work.Go(func() { e.giveBack(id, j) })

	res, err := runtime.Resources(in.HostConfig)
	if err != nil {
		return err
	}
	var group *cgroup.Group
	made := make(chan error, 1)
	go func() {
		var err error
		group, err = e.Cgroups.Create(j.Parent, id, res)
		made <- err
	}()
	var net *Connection
	if private {
		if net, err = e.Networks.Join(ctx, id, in.Config.Hostname, string(r.Op.Network), resolvconf.Host().Servers()); err == nil {
			defer net.Done()
			in.Netns = net.Path
		} else {
			err = errs.KindOf(err).Errorf("failed to set up container networking: %w", err)
		}
	}
	if merr := <-made; err == nil {
		err = merr
	}
	if err != nil {
		return err
	}
	in.Cgroup = spec.Cgroup(group.Join(e.Home))
	if err := e.files(id, r, net, host, in.Config.Hostname); err != nil {
		return err
	}
	launch, init, warnings, err := e.Builder.Build(in)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		e.Log.Debug(w, "run", id)
	}
	init.Root.Volatile = true
	if err := e.mounts(id, r, init); err != nil {
		return err
	}
	return e.follow(ctx, id, r, launch, init, group)
}

// follow launches the program and stays with it.
func (e *Executor) follow(ctx context.Context, id string, r *Run, launch *spec.Launch, init *spec.Init, group *cgroup.Group) error {
	exit, giveBack := e.Processes.Claim(id)
	defer giveBack()
	_, err := e.Processes.Launch(ctx, launch, init, true)
	if errors.Is(err, supervisor.ErrGone) { // it died under the launch: what is in the cgroup goes, and once more
		if err := group.Kill(); err != nil {
			return err
		}
		_, err = e.Processes.Launch(ctx, launch, init, true)
	}
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return startError(err)
	}
	stop := context.AfterFunc(ctx, func() { e.Processes.Signal(id, 9) })
	defer stop()
	bg := context.WithoutCancel(ctx)
	out, err := e.Processes.Attach(bg, id, true, true)
	if err == nil {
		if err = e.Processes.Resume(bg, id); err == nil {
			err = pump(out, r.Output)
		}
		out.Close()
	}
	if err != nil { // nobody hears it: it must not wait for ever at a full pipe
		e.Processes.Signal(id, 9)
	}
	end := <-exit
	oom := false
	if n, oerr := group.OOMKills(); oerr == nil {
		oom = n > 0
	}
	if ferr := e.Processes.Forget(bg, id); ferr != nil {
		e.Log.Warn("the supervisor did not forget a step of a build", "run", id, "err", ferr)
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("read output: %w", err)
	case end.Unknown:
		return errors.New("exit code unknown: the supervisor that held the process was gone when it ended")
	case len(r.Op.ValidExitCodes) > 0 && slices.Contains(r.Op.ValidExitCodes, end.Code), len(r.Op.ValidExitCodes) == 0 && end.Code == 0:
		return nil
	}
	return &ExitError{end.Code, oom}
}

func pump(out *supervisor.Attachment, to func(int, []byte)) error {
	for {
		f, err := out.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if to != nil {
			to(f.Stream, f.Data)
		}
	}
}

// startError puts a refused launch into the words of dockerd with runc, on which tools match.
func startError(err error) error {
	var refused *supervisor.LaunchError
	if !errors.As(err, &refused) {
		return err
	}
	text := refused.Message
	if strings.HasPrefix(text, "unable to find user") || strings.HasPrefix(text, "unable to find group") {
		return errs.Invalid.Errorf("%s", text)
	}
	if !strings.Contains(text, "unable to start container process") {
		text = "unable to start container process: " + text
	}
	return errs.Invalid.Errorf("failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: %s: unknown", text)
}

// input is the run as a container's configuration says it.
func (e *Executor) input(id string, r *Run) (*runtime.Input, error) {
	op := r.Op
	hostname := op.Hostname
	if hostname == "" {
		hostname = ids.Short(id)
	}
	h := &api.HostConfig{
		NetworkMode: api.NetworkMode("bridge"), ShmSize: r.ShmSize, CgroupnsMode: e.CgroupnsMode,
		ReadonlyRootfs: r.ReadOnly, Privileged: op.Security == graph.SecurityInsecure,
	}
	h.OomKillDisable = new(bool)
	h.CgroupParent = op.CgroupParent
	if h.CgroupParent == "" {
		h.CgroupParent = e.CgroupParent
	}
	switch op.Network {
	case graph.NetworkHost:
		h.NetworkMode = "host"
	case graph.NetworkNone:
		h.NetworkMode = "none"
	}
	for _, u := range op.Ulimits {
		h.Ulimits = append(h.Ulimits, &units.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	if x := r.Resources; x != nil {
		h.Memory, h.MemorySwap, h.CPUShares = x.Memory, x.MemorySwap, int64(x.CPUShares)
		h.CPUPeriod, h.CPUQuota, h.CpusetCpus, h.CpusetMems = int64(x.CPUPeriod), x.CPUQuota, x.CPUSetCPUs, x.CPUSetMems
	}
	return &runtime.Input{
		ID: id, Config: &api.Config{Hostname: hostname, User: op.User, Env: r.Env, WorkingDir: op.Cwd}, HostConfig: h,
		Path: op.Args[0], Args: op.Args[1:], Overlay: r.Root, Target: e.file(id, "rootfs"), Files: e.file(id),
		Log: spec.Log{Driver: "none"}, Ulimits: e.Ulimits,
	}, nil
}

// files writes hostname, hosts and resolv.conf.
func (e *Executor) files(id string, r *Run, net *Connection, host bool, hostname string) error {
	var hosts bytes.Buffer
	if own, err := os.ReadFile("/etc/hosts"); host && err == nil {
		hosts.Write(bytes.TrimRight(own, "\n"))
		hosts.WriteByte('\n')
	} else {
		hosts.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n")
	}
	for _, h := range r.Op.Hosts {
		ip := h.IP
		if ip == "host-gateway" {
			if e.Networks == nil {
				return errs.Invalid.Errorf("unable to derive the IP value for host-gateway")
			}
			a, err := e.Networks.HostGateway()
			if err != nil {
				return err
			}
			ip = a.String()
		}
		fmt.Fprintf(&hosts, "%s\t%s\n", ip, h.Name)
	}
	if net != nil {
		for _, a := range net.Addrs {
			fmt.Fprintf(&hosts, "%s\t%s\n", a, hostname)
		}
	}
	for name, data := range map[string][]byte{"hostname": []byte(hostname + "\n"), "hosts": hosts.Bytes(), "resolv.conf": resolvConf(!host, net != nil && net.Resolver)} {
		if err := os.WriteFile(e.file(id, name), data, 0o644); err != nil {
			return fmt.Errorf("prepare run: %w", err)
		}
	}
	return nil
}

// mounts adds what is mounted besides the root.
func (e *Executor) mounts(id string, r *Run, init *spec.Init) error {
	for i, m := range r.Mounts {
		x := spec.Mount{Type: "bind", Target: m.Target, Options: []string{"rprivate"}, Create: true}
		if m.ReadOnly {
			x.Options = append(x.Options, "ro")
		}
		name := e.file(id, "m"+strconv.Itoa(i))
		switch {
		case m.Overlay != nil:
			if err := os.Mkdir(name, 0o755); err != nil {
				return fmt.Errorf("prepare run: %w", err)
			}
			o := m.Overlay
			x.Source, x.Root = m.Path, &spec.Root{Base: o.Base, Lower: o.Lower, Upper: o.Upper, Work: o.Work, Target: name, Volatile: o.Upper != ""}
			x.Options = append(x.Options, "bind")
		case m.Dir != "":
			x.Source, x.Root = m.Path, &spec.Root{Dir: m.Dir}
			x.Options = append(x.Options, "bind")
		case m.Tmpfs:
			x.Type, x.Source = "tmpfs", "tmpfs"
			x.Options = []string{"nosuid", "nodev", "rprivate"}
			if m.Size > 0 {
				x.Options = append(x.Options, "size="+strconv.FormatInt(m.Size, 10))
			}
		case m.Socket != "":
			x.Source = m.Socket
			x.Options = append(x.Options, "bind")
		default:
			if err := writeSecret(name, m); err != nil {
				return fmt.Errorf("prepare run: %w", err)
			}
			x.Source = name
			x.Options = append(x.Options, "bind", "nosuid", "nodev", "noexec")
		}
		init.Mounts = append(init.Mounts, x)
	}
	return nil
}

// writeSecret writes below the exec-root, which lies in memory and is private to the engine; giveBack takes it away.
func writeSecret(name string, m Mount) error {
	if err := os.WriteFile(name, m.Secret, 0o600); err != nil {
		return err
	}
	if err := os.Chown(name, int(m.UID), int(m.GID)); err != nil {
		return err
	}
	mode := fs.FileMode(m.Mode & 0o777)
	return os.Chmod(name, mode)
}

// giveBack takes away all that a run took. It may be called twice.
func (e *Executor) giveBack(id string, j journal) {
	if j.Network && e.Networks != nil {
		e.Networks.Leave(id)
	}
	g, err := e.Cgroups.Open(j.Parent, id)
	if err == nil {
		if err = g.Kill(); err == nil {
			err = g.Remove()
		}
	}
	if err != nil {
		e.Log.Warn("removing the cgroup of a build's step failed", "run", id, "err", err)
		return // the next engine tries again
	}
	if err := os.RemoveAll(e.file(id)); err != nil {
		e.Log.Warn("removing the folder of a build's step failed", "run", id, "err", err)
	}
}

// resolvConf is the host's, without name servers where names are answered inside the run, which asks the others itself.
func resolvConf(private, resolver bool) []byte {
	conf := resolvconf.Host
	if private {
		conf = resolvconf.Private
	}
	var b bytes.Buffer
	if resolver {
		b.WriteString("nameserver 127.0.0.11\n")
	}
	for _, f := range conf() {
		if f[0] != "nameserver" || !resolver {
			b.WriteString(strings.Join(f, " ") + "\n")
		}
	}
	return b.Bytes()
}
