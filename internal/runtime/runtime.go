// Package runtime turns a container's configuration into the finished facts from which a process is started.
//
// It is the last room where a Docker option is an option. What comes out of [Builder.Build] is a spec.Launch
// for the supervisor and a spec.Init for init, in which every decision is made: which namespaces are new, what
// is mounted where and how, which capabilities and which filter the process gets. Neither of the two programs
// has to know what --privileged means.
//
// Building is pure apart from looking at the host where an option names something there: a device, the
// propagation of a bind's source, which sysctls exist. The phrases of errors are those of dockerd and runc.
package runtime

import (
	"slices"

	api "github.com/moby/moby/api/types/container"

	"gantry/internal/kernel/caps"
	"gantry/internal/kernel/seccomp"
	"gantry/internal/layer"
	"gantry/internal/runtime/spec"

	"golang.org/x/sys/unix"
)

// Builder knows the host that containers are built for. Its methods may be called at the same time.
type Builder struct {
	Caps caps.Set // what the host can give; see caps.Host
	// AppArmor is the profile of containers that name none; "" on a host without AppArmor.
	AppArmor        string
	SELinux         bool
	NoNewPrivileges bool // the daemon's default
	// Seccomp makes and keeps the filters. Profile is the daemon's default profile as JSON; nil is Docker's, and
	// "unconfined" none.
	Seccomp *seccomp.Cache
	Profile []byte
}

// NewBuilder returns a Builder for this host with Docker's defaults.
func NewBuilder() (*Builder, error) {
	host, err := caps.Host()
	if err != nil {
		return nil, err
	}
	return &Builder{Caps: host, AppArmor: defaultAppArmor(), SELinux: exists("/sys/fs/selinux/enforce"), Seccomp: new(seccomp.Cache)}, nil
}

// Input is a container to be built. Config and HostConfig are complete: merged with the image's configuration
// and the daemon's defaults. Nothing in it is changed.
type Input struct {
	ID         string
	Config     *api.Config
	HostConfig *api.HostConfig
	Path       string // the program, and
	Args       []string

	Overlay layer.Overlay
	Target  string // an empty directory of the host, on which init mounts the overlay
	// Files is the directory that holds hostname, hosts and resolv.conf; those that are missing are not bound.
	Files  string
	Mounts []api.MountPoint // what -v and --mount ask for, with host paths as Source
	// Sources says of mounts, by destination, what their Source does not.
	Sources map[string]Source
	// Netns is the network namespace that is ready for the container; "": it gets one with loopback alone, where it
	// does not share another's.
	Netns  string
	Cgroup spec.Cgroup
	Log    spec.Log

	Linked  []string      // variables that tell of linked containers; Config's own come first
	Ulimits []*api.Ulimit // the daemon's defaults
	Init    bool          // the daemon's default for --init
	// UIDMaps and GIDMaps put the container into a user namespace of its own, unless it says --userns host.
	UIDMaps, GIDMaps []spec.IDMap
	// Of finds the first process of the running container with this ID or name, whose namespaces are joined.
	Of func(ref string) (spec.Process, error)
}

// userns reports whether the container gets a user namespace.
func (in *Input) userns() bool {
	return len(in.UIDMaps) > 0 && !in.HostConfig.UsernsMode.IsHost()
}

// BuildLaunch makes the outer half alone, which needs neither the root file system nor the network, nor that the cgroup is
// there: the launch can begin before.
func (b *Builder) BuildLaunch(in *Input) (*spec.Launch, error) {
	ns, err := namespaces(in)
	if err != nil {
		return nil, err
	}
	return launch(in, ns), nil
}

func launch(in *Input, ns *spaces) *spec.Launch {
	l := &spec.Launch{
		ID:     in.ID,
		Clone:  ns.clone,
		Cgroup: in.Cgroup,
		Stdio: spec.Stdio{
			Terminal: in.Config.Tty, OpenStdin: in.Config.OpenStdin,
			Height: uint16(in.HostConfig.ConsoleSize[0]), Width: uint16(in.HostConfig.ConsoleSize[1]),
		},
		Log:     in.Log,
		JoinPID: ns.joinPID,
	}
	if in.userns() {
		l.UIDMaps, l.GIDMaps = in.UIDMaps, in.GIDMaps
	}
	return l
}

// Build makes the container's first process. The warnings are for the user, in words like Docker's. Errors
// that are the configuration's fault are errs.Invalid.
func (b *Builder) Build(in *Input) (*spec.Launch, *spec.Init, []string, error) {
	h := in.HostConfig
	sec, warnings, err := b.security(h)
	if err != nil {
		return nil, nil, nil, err
	}
	ns, err := namespaces(in)
	if err != nil {
		return nil, nil, nil, err
	}
	init := &spec.Init{
		Join:     ns.join,
		Clone:    ns.clone,
		CgroupNS: ns.cgroup,
		User:     in.userns(),
		Root: spec.Root{
			Base: in.Overlay.Base, Lower: in.Overlay.Lower, Upper: in.Overlay.Upper, Work: in.Overlay.Work,
			Target: in.Target, ReadOnly: h.ReadonlyRootfs,
		},
	}
	if ns.clone&unix.CLONE_NEWUTS != 0 {
		init.Hostname, init.Domainname = in.Config.Hostname, in.Config.Domainname
	}
	if init.Mounts, init.Root.Propagation, err = mounts(in); err != nil {
		return nil, nil, nil, err
	}
	if init.Devices, err = devices(h); err != nil {
		return nil, nil, nil, err
	}
	if init.Sysctls, err = sysctls(in, ns); err != nil {
		return nil, nil, nil, err
	}
	if !h.Privileged {
		if init.Masked = h.MaskedPaths; init.Masked == nil {
			init.Masked = MaskedPaths()
		}
		if init.ReadOnly = h.ReadonlyPaths; init.ReadOnly == nil {
			init.ReadOnly = ReadonlyPaths()
		}
	}
	limits, w, err := b.rlimits(h.Ulimits, in.Ulimits)
	if err != nil {
		return nil, nil, nil, err
	}
	warnings = append(warnings, w...)
	init.Exec = spec.Exec{
		Args:            append([]string{in.Path}, in.Args...),
		Env:             environment(in.Config, in.Linked, in.Config.Tty, nil),
		Cwd:             in.Config.WorkingDir,
		User:            in.Config.User,
		Groups:          h.GroupAdd,
		Caps:            capSets(sec.caps),
		Rlimits:         limits,
		NoNewPrivileges: sec.noNewPrivileges,
		OOMScoreAdj:     &h.OomScoreAdj,
		Seccomp:         sec.filter,
		AppArmor:        sec.appArmor,
		Umask:           h.Umask,
		Reaper:          h.PidMode.IsPrivate() && (h.Init != nil && *h.Init || h.Init == nil && in.Init),
		Terminal:        in.Config.Tty,
		AwaitPids:       in.Cgroup.LatePids(),
	}
	return launch(in, ns), init, warnings, nil
}

// Exec is one more process for a running container.
type Exec struct {
	ID         string // of the exec
	Args       []string
	Env        []string
	User       string // "" is the container's
	WorkingDir string // "" is the container's
	Privileged bool
	Tty        bool
	OpenStdin  bool
	Height     uint16
	Width      uint16
	Of         spec.Process // the container's first process
}

// BuildExec makes a process that joins the container in. in.Overlay, Target, Files, Mounts and Of are not looked at.
func (b *Builder) BuildExec(in *Input, e *Exec) (*spec.Launch, *spec.Exec, []string, error) {
	h := in.HostConfig
	sec, _, err := b.security(h)
	if err != nil {
		return nil, nil, nil, err
	}
	limits, _, err := b.rlimits(h.Ulimits, in.Ulimits)
	if err != nil {
		return nil, nil, nil, err
	}
	set := sec.caps
	if e.Privileged {
		// The filter stays the container's, as in Docker.
		set = b.Caps
	}
	exec := &spec.Exec{
		Args:            slices.Clone(e.Args),
		Env:             environment(in.Config, in.Linked, e.Tty, e.Env),
		Cwd:             first(e.WorkingDir, in.Config.WorkingDir, "/"),
		User:            first(e.User, in.Config.User),
		Groups:          h.GroupAdd,
		Caps:            capSets(set),
		Rlimits:         limits,
		NoNewPrivileges: sec.noNewPrivileges,
		OOMScoreAdj:     &h.OomScoreAdj,
		Seccomp:         sec.filter,
		AppArmor:        sec.appArmor,
		Umask:           h.Umask,
		Terminal:        e.Tty,
	}
	return &spec.Launch{
		ID: e.ID, Container: in.ID, Pid: e.Of.Pid, StartTime: e.Of.StartTime,
		Cgroup: in.Cgroup,
		Stdio:  spec.Stdio{Terminal: e.Tty, OpenStdin: e.OpenStdin, Height: e.Height, Width: e.Width},
		Log:    spec.Log{Driver: "none"},
	}, exec, nil, nil
}

func first(s ...string) string {
	for _, v := range s {
		if v != "" {
			return v
		}
	}
	return ""
}

// capSets are the sets of a process that has set. Nothing is inheritable or ambient, as in Docker since
// CVE-2022-24769: a program that is not root's gets capabilities from its file alone.
func capSets(set caps.Set) spec.Caps {
	return spec.Caps{Bounding: uint64(set), Permitted: uint64(set), Effective: uint64(set)}
}
