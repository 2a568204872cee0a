package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/docker/go-units"
	types "github.com/moby/moby/api/types/container"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"gantry/internal/api"
	"gantry/internal/atomicfile"
	"gantry/internal/build/builder"
	"gantry/internal/build/session"
	"gantry/internal/build/solve"
	"gantry/internal/config"
	"gantry/internal/container"
	"gantry/internal/content"
	"gantry/internal/events"
	"gantry/internal/ids"
	"gantry/internal/image"
	"gantry/internal/kernel/cgroup"
	"gantry/internal/kernel/fs"
	"gantry/internal/layer"
	"gantry/internal/network"
	"gantry/internal/remote"
	"gantry/internal/runtime"
	"gantry/internal/runtime/programs"
	"gantry/internal/runtime/spec"
	"gantry/internal/runtime/supervisor"
	"gantry/internal/state"
	"gantry/internal/trash"
	"gantry/internal/version"
	"gantry/internal/volume"
)

// engine is what is open.
type engine struct {
	cgroups    *cgroup.Host
	events     *events.Bus
	images     *image.Service
	remote     *remote.Client
	containers *container.Service
	builds     *builder.Service
	buildFiles *session.Files
	networks   *network.Service // nil where the kernel lets us make none
	volumes    *volume.Service
	keeper     *supervisor.Keeper
	trash      *trash.Bin
	state      *state.Store
	blobs      *content.Store
	layers     *layer.Store
	dataRoot   string
	log        *slog.Logger
	closers    []func() error // in the order of opening
}

// open opens everything below the API.
func open(ctx context.Context, cfg *config.Config, embedded map[string][]byte, log *slog.Logger) (e *engine, err error) {
	e = &engine{events: events.New(), dataRoot: cfg.DataRoot, log: log}
	e.closing(func() error { e.events.Close(); return nil })
	defer func() {
		if err != nil {
			err = errors.Join(err, e.close())
		}
	}()
	st, err := state.Open(filepath.Join(cfg.DataRoot, "state.db"))
	if err != nil {
		return e, err
	}
	e.closing(st.Close)
	if e.trash, err = trash.Open(st, trash.Options{Keep: cfg.Trash, Disk: func() (int64, int64) { return space(cfg.DataRoot) }, Log: log}); err != nil {
		return e, err
	}
	blobs, err := content.Open(filepath.Join(cfg.DataRoot, "content"))
	if err != nil {
		return e, err
	}
	layers, err := layer.Open(cfg.DataRoot, st, layer.Options{})
	if err != nil {
		return e, err
	}
	e.closing(layers.Close)
	e.remote = remote.New(remote.Options{UserAgent: "Gantry/" + version.Version + " (linux)", CertDirs: certDirs, Log: log})
	if err := e.remote.Configure(registries(cfg)); err != nil {
		return e, err
	}
	e.closing(func() error { e.remote.Close(); return nil })
	// Before the images, which collect the layers that nobody holds.
	cache, err := solve.OpenCache(st, layers)
	if err != nil {
		return e, err
	}
	if e.images, err = image.Open(st, blobs, layers, image.Options{Events: e.events, Remote: e.remote, Log: log, Trash: e.trash}); err != nil {
		return e, err
	}
	if e.cgroups, err = cgroup.Detect(); err != nil {
		return e, err
	}
	keeper, home, err := keep(ctx, cfg, e.cgroups, embedded, log)
	if err != nil {
		return e, err
	}
	e.keeper = keeper
	e.closing(func() error { return letGo(keeper, log) })
	builder, err := runtime.NewBuilder()
	if err != nil {
		return e, err
	}
	if err := e.openNetworks(ctx, cfg, st, embedded, log); err != nil {
		return e, err
	}
	if e.volumes, err = volume.Open(volume.Options{Root: filepath.Join(cfg.DataRoot, "volumes"), State: st, Events: e.events, Trash: e.trash, Log: log}); err != nil {
		return e, err
	}
	e.closing(func() error { e.volumes.Close(); return nil })
	opts := container.Options{
		VolumeRoot: e.volumes.Root, Volumes: volumes{e.volumes}, Mounter: volumes{e.volumes},
		Root: filepath.Join(cfg.DataRoot, "containers"), Run: cfg.ExecRoot,
		State: st, Images: images{e.images}, Layers: layers, Sizer: sizer{layers},
		Processes: keeper, Cgroups: e.cgroups, Home: home, Builder: builder,
		Trash: e.trash, Parking: layers, OpenLog: openLog, Events: e.events, Log: log, Defaults: defaults(cfg, e.cgroups),
	}
	if e.networks != nil {
		opts.Networks, opts.Connector = networks{e.networks}, networks{e.networks}
	}
	if e.containers, err = container.Open(ctx, opts); err != nil {
		return e, err
	}
	e.closing(func() error { e.containers.Close(); return nil })
	e.images.SetUsers(users{e.containers})
	if err := e.openBuilds(cfg, st, blobs, layers, cache, builder, home, log); err != nil {
		return e, err
	}
	e.trash.Handle(trash.Container, e.containers.Keeper())
	e.trash.Handle(trash.Image, e.images.Keeper())
	e.trash.Handle(trash.Volume, e.volumes.Keeper())
	e.trash.Collect = func(ctx context.Context) error { _, err := e.images.Collect(ctx); return err }
	e.trash.Start()
	e.closing(func() error { e.trash.Close(); return nil })
	e.state, e.blobs, e.layers = st, blobs, layers
	tidying, stop := context.WithCancel(context.Background())
	tidied := make(chan struct{})
	go func() { defer close(tidied); e.tidyUp(tidying) }()
	e.closing(func() error { stop(); <-tidied; return nil })
	return e, nil
}

// fileSystem is what Docker calls the file system of path.
func fileSystem(path string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return "unknown"
	}
	return fs.TypeName(int64(st.Type))
}

// space tells the free and all bytes of the file system of path.
func space(path string) (free, all int64) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 1, 1
	}
	return int64(st.Bavail) * st.Bsize, int64(st.Blocks) * st.Bsize
}

// certDirs have a folder for each registry, with its certificates and mirrors. Docker's counts too: who comes from there
// has set up theirs.
var certDirs = []string{"/etc/gantry/certs.d", "/etc/docker/certs.d"}

// registries is what the configuration says of registries.
func registries(cfg *config.Config) remote.Config {
	c := remote.Config{Insecure: cfg.InsecureRegistries, Mirrors: maps.Clone(cfg.Mirrors), Proxies: remote.Proxies(cfg.Proxies)}
	if len(cfg.RegistryMirrors) > 0 {
		c.Mirrors["docker.io"] = append(slices.Clone(cfg.RegistryMirrors), c.Mirrors["docker.io"]...)
	}
	return c
}

func (e *engine) closing(f func() error) { e.closers = append(e.closers, f) }

func (e *engine) close() error {
	var err error
	for i := len(e.closers) - 1; i >= 0; i-- {
		err = errors.Join(err, e.closers[i]())
	}
	e.closers = nil
	return err
}

// keep finds or starts the supervisor, in a cgroup of its own: where the engine runs in that of a systemd unit, a
// restart of the unit must not reach it.
func keep(ctx context.Context, cfg *config.Config, host *cgroup.Host, embedded map[string][]byte, log *slog.Logger) (*supervisor.Keeper, *cgroup.Group, error) {
	home, err := ownGroup(cfg, host, "supervisor")
	if err != nil {
		return nil, nil, fmt.Errorf("make the supervisor's cgroup: %w", err)
	}
	set := &programs.Set{Embedded: embedded}
	build, err := set.Build(programs.Supervisor, programs.Init)
	if err != nil {
		return nil, nil, err
	}
	k, err := supervisor.Keep(ctx, supervisor.Options{
		ExecRoot: cfg.ExecRoot,
		Cgroup:   spec.Cgroup(home.Join(host.Own())),
		Program:  func() (*os.File, error) { return set.Open(programs.Supervisor) },
		Init:     func() (*os.File, error) { return set.Open(programs.Init) },
		Build:    build,
		Log:      log,
	})
	return k, home, err
}

// ownGroup makes the cgroup of a program that outlives the engine, one for each exec-root: engines live side by side.
func ownGroup(cfg *config.Config, host *cgroup.Host, name string) (*cgroup.Group, error) {
	sum := sha256.Sum256([]byte(cfg.ExecRoot))
	parent := cfg.CgroupParent
	if parent == "" {
		parent = cgroup.DefaultParent
	}
	return host.CreatePlain(parent + "/" + name + "-" + hex.EncodeToString(sum[:4]))
}

// letGo leaves the supervisor to its containers. One that holds none has nothing to wait for, and ends.
func letGo(k *supervisor.Keeper, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := k.Quit(ctx); err != nil {
		log.Debug("the supervisor goes on", "why", err)
	}
	return nil
}

func defaults(cfg *config.Config, host *cgroup.Host) container.Defaults {
	d := container.Defaults{
		ShmSize: cfg.ShmSize, IpcMode: types.IpcMode(cfg.IpcMode), CgroupnsMode: types.CgroupnsMode(cfg.CgroupnsMode),
		LogConfig: types.LogConfig{Type: cfg.LogDriver, Config: cfg.LogOpts}, CgroupParent: cfg.CgroupParent, Init: cfg.Init,
	}
	if d.CgroupnsMode == "" {
		d.CgroupnsMode = types.CgroupnsModeHost
		if host.Kind() == cgroup.V2 {
			d.CgroupnsMode = types.CgroupnsModePrivate
		}
	}
	for name, u := range cfg.Ulimits {
		d.Ulimits = append(d.Ulimits, &units.Ulimit{Name: name, Soft: u.Soft, Hard: u.Hard})
	}
	return d
}

// deps is what the API stands on.
func (e *engine) deps(cfg *config.Config, log *slog.Logger) api.Deps {
	h := api.ReadHost()
	h.Version, h.GitCommit, h.BuildTime = version.Version, version.Commit, version.Time
	h.ID = engineID(cfg.DataRoot, log)
	h.DataRoot, h.Debug, h.Labels, h.LoggingDriver, h.InitBinary = cfg.DataRoot, cfg.Debug, cfg.Labels, cfg.LogDriver, "gantry-init"
	h.BackingFS = fileSystem(cfg.DataRoot)
	s := e.cgroups.Support()
	h.CgroupVersion, h.CgroupDriver = e.cgroups.Kind().Version(), "cgroupfs"
	h.MemoryLimit, h.SwapLimit, h.CPUCfs, h.CPUShares, h.CPUSet = s.MemoryLimit, s.SwapLimit, s.CPUCfs, s.CPUShares, s.Cpuset
	h.PidsLimit, h.OomKillDisable, h.Seccomp = s.PidsLimit, s.OOMKillDisable, true
	_, aerr := os.Stat("/sys/kernel/security/apparmor/profiles")
	_, nerr := os.Stat("/proc/self/ns/cgroup")
	h.AppArmor, h.CgroupNS = aerr == nil, nerr == nil
	return api.Deps{Containers: e.containers, Images: e.images, Networks: e.networks, Volumes: e.volumes, Builds: e.builds, BuildFiles: e.buildFiles, Trash: e.trash, Usage: e.usage, Check: e.check, Events: e.events, Registries: e.remote, Host: h, Supervisor: e.supervisor, Relay: e.relay, Log: log}
}

// supervisor tells which supervisor serves.
func (e *engine) supervisor(ctx context.Context) (int, string, error) {
	h, err := e.keeper.Hello(ctx)
	if err != nil {
		return 0, "", err
	}
	return h.Pid, h.Build, nil
}

// relay tells which relay serves, if any does.
func (e *engine) relay() (pid int, build string) {
	if e.networks != nil {
		if h := e.networks.Relay(); h != nil {
			return h.Pid, h.Build
		}
	}
	return 0, ""
}

// engineID returns the ID of the engine that works on dataRoot, made when it is first asked for.
func engineID(dataRoot string, log *slog.Logger) string {
	path := filepath.Join(dataRoot, "engine-id")
	if b, err := os.ReadFile(path); err == nil && len(strings.TrimSpace(string(b))) > 0 {
		return strings.TrimSpace(string(b))
	}
	x := ids.New()
	id := strings.Join([]string{x[:8], x[8:12], x[12:16], x[16:20], x[20:32]}, "-")
	if err := atomicfile.WriteSync(path, []byte(id+"\n"), 0o644); err != nil {
		log.Warn("keeping the engine's ID failed", "err", err)
	}
	return id
}

// images is what containers need of the image service.
type images struct{ *image.Service }

func (s images) Image(ctx context.Context, ref string) (container.Image, error) {
	img, err := s.Get(ctx, ref)
	if err != nil {
		return container.Image{}, err
	}
	return container.Image{ID: img.ID, Name: ref, Config: img.Config, ChainID: img.ChainID}, nil
}

// users is what the image service needs of the containers.
type users struct{ *container.Service }

func (s users) ImageUsers(id digest.Digest) []image.User {
	var list []image.User
	for _, c := range s.Service.ImageUsers(id) {
		list = append(list, image.User{ID: c.ID, Running: c.Status.Alive()})
	}
	return list
}

// sizer adds up what layers take.
type sizer struct{ *layer.Store }

func (s sizer) ChainSize(chain digest.Digest) (int64, error) {
	if chain == "" {
		return 0, nil
	}
	list, err := s.Chain(chain)
	if err != nil {
		return 0, err
	}
	var n int64
	for _, l := range list {
		n += l.Size
	}
	return n, nil
}
