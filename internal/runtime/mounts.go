package runtime

import (
	"bufio"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	api "github.com/moby/moby/api/types/container"
	mounttypes "github.com/moby/moby/api/types/mount"

	"gantry/internal/errs"
	"gantry/internal/kernel/mount"
	"gantry/internal/layer"
	"gantry/internal/runtime/spec"
)

// mounts is Docker's mount table for the container, in order, and the propagation that its root needs.
func mounts(in *Input) ([]spec.Mount, string, error) {
	h := in.HostConfig
	propagation := "rprivate"
	var user []spec.Mount
	for _, m := range in.Mounts {
		if m.Type == mounttypes.TypeTmpfs {
			continue // below, with its options
		}
		b, root, err := mountOf(in, m)
		if err != nil {
			return nil, "", err
		}
		if root == "rshared" || propagation == "rprivate" && root != "" {
			propagation = root
		}
		user = append(user, b)
	}
	tmpfs, err := tmpfsMounts(h)
	if err != nil {
		return nil, "", err
	}
	user = append(user, tmpfs...)
	taken := make(map[string]bool, len(user))
	for _, m := range user {
		taken[m.Target] = true
	}
	for _, f := range []string{"resolv.conf", "hostname", "hosts"} {
		target, source := "/etc/"+f, filepath.Join(in.Files, f)
		if in.Files == "" || taken[target] || !exists(source) {
			continue
		}
		o := []string{"rbind", "rprivate"}
		if h.ReadonlyRootfs {
			o = []string{"rbind", "ro", "rprivate"}
		}
		user = append(user, spec.Mount{Type: "bind", Source: source, Target: target, Options: o, Create: true})
	}
	if shm := sharedMemory(in); shm != nil && !taken["/dev/shm"] {
		taken["/dev/shm"] = true
		user = append(user, *shm)
	}
	// A path comes before what lies below it.
	slices.SortStableFunc(user, func(a, b spec.Mount) int {
		return strings.Count(a.Target, "/") - strings.Count(b.Target, "/")
	})

	var out []spec.Mount
	for _, m := range standardMounts(in) {
		if taken[m.Target] || taken["/dev"] && strings.HasPrefix(m.Target, "/dev/") || taken["/sys"] && strings.HasPrefix(m.Target, "/sys/") {
			continue
		}
		if m.Target == "/dev/shm" && h.IpcMode.IsNone() {
			continue
		}
		out = append(out, m)
	}
	return append(out, user...), propagation, nil
}

// standardMounts are those every container has.
func standardMounts(in *Input) []spec.Mount {
	h := in.HostConfig
	sys := []string{"nosuid", "noexec", "nodev", "ro"}
	if h.Privileged {
		sys = sys[:3]
	}
	shmSize := h.ShmSize
	if shmSize == 0 {
		shmSize = 64 << 20
	}
	out := []spec.Mount{
		{Type: "proc", Source: "proc", Target: "/proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Type: "tmpfs", Source: "tmpfs", Target: "/dev", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Type: "devpts", Source: "devpts", Target: "/dev/pts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Type: "sysfs", Source: "sysfs", Target: "/sys", Options: sys},
	}
	out = append(out, cgroupMounts(in)...)
	return append(out,
		spec.Mount{Type: "mqueue", Source: "mqueue", Target: "/dev/mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		spec.Mount{Type: "tmpfs", Source: "shm", Target: "/dev/shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=" + strconv.FormatInt(shmSize, 10)}},
	)
}

// cgroupMounts show the container its own control groups, read-only unless it is privileged: with version 2
// the file system as its namespace shows it; with version 1 its own directory of every hierarchy, bound.
func cgroupMounts(in *Input) []spec.Mount {
	const root = "/sys/fs/cgroup"
	flags := []string{"nosuid", "noexec", "nodev"}
	ro := append(slices.Clone(flags), "ro")
	if in.HostConfig.Privileged {
		ro = flags
	}
	if len(in.Cgroup.Tasks) == 0 {
		if in.Cgroup.Unified == "" {
			return nil
		}
		return []spec.Mount{{Type: "cgroup2", Source: "cgroup", Target: root, Options: ro}}
	}
	out := []spec.Mount{{Type: "tmpfs", Source: "tmpfs", Target: root, Options: append(slices.Clone(flags), "mode=755")}}
	for _, tasks := range in.Cgroup.Tasks {
		dir := filepath.Dir(tasks)
		name, _, ok := strings.Cut(strings.TrimPrefix(dir, root+"/"), "/")
		if !ok || !strings.HasPrefix(dir, root+"/") {
			continue // mounted somewhere unusual: it cannot be named
		}
		names := []string{name}
		if strings.Contains(name, ",") {
			// Mounted together; programs look for either name.
			names = append(names, strings.Split(name, ",")...)
		}
		for _, n := range names {
			out = append(out, spec.Mount{Type: "bind", Source: dir, Target: root + "/" + n, Options: append([]string{"bind", "rprivate"}, ro...), Create: true})
		}
	}
	if !in.HostConfig.Privileged {
		out = append(out, spec.Mount{Type: "tmpfs", Source: "tmpfs", Target: root, Options: append([]string{"remount"}, ro...)})
	}
	return out
}

// sharedMemory is /dev/shm where it goes with a shared IPC namespace.
func sharedMemory(in *Input) *spec.Mount {
	m := spec.Mount{Type: "bind", Source: "/dev/shm", Target: "/dev/shm", Options: []string{"rbind", "rprivate"}, Create: true}
	switch ipc := in.HostConfig.IpcMode; {
	case ipc.IsHost():
		return &m
	case ipc.IsContainer():
		p, err := in.of(ipc.Container())
		if err != nil {
			return nil // namespaces has said so
		}
		m.Of = &p
		return &m
	}
	return nil
}

// Source says how a mount is made that is more than a bind of the host path in its MountPoint.
type Source struct {
	Path    string // bound instead of the MountPoint's Source
	Subpath string // what of it is mounted; links in it are followed inside it
	// Of: Path is in the root of this process.
	Of           *spec.Process
	NonRecursive bool

	Options []string // mount(8)'s words, beside those that the MountPoint stands for

	Overlay *layer.Overlay // an image, read-only

	// IDMap is a process whose user namespace maps the owners of files on disk to those that the container sees.
	IDMap *spec.Process
}

// mountOf makes one mount that the user, or the image, asked for.
func mountOf(in *Input, m api.MountPoint) (b spec.Mount, root string, err error) {
	src, ok := in.Sources[m.Destination]
	if !ok {
		return bind(in.HostConfig, m)
	}
	flags := []string{"rprivate"}
	if !m.RW {
		flags = append(flags, "ro")
	}
	switch {
	case src.Overlay != nil:
		o := src.Overlay
		b = spec.Mount{Type: "bind", Root: &spec.Root{Base: o.Base, Lower: o.Lower, Target: in.Target}, Source: "/" + src.Subpath, Options: append(flags, "bind", "ro")}
		src.Subpath = ""
	default:
		if src.Path != "" {
			m.Source = src.Path
		}
		if b, root, err = bind(in.HostConfig, m); err != nil {
			return b, root, err
		}
		if src.NonRecursive && b.Options[0] == "rbind" {
			b.Options[0] = "bind"
		}
		b.Options = slices.Insert(b.Options, 1, src.Options...)
		b.Of, b.IDMap = src.Of, src.IDMap
	}
	b.Target, b.Create, b.Subpath = path.Clean(m.Destination), true, src.Subpath
	return b, root, nil
}

// bind makes one -v or --mount type=bind. root is the propagation that the container's root needs for it.
func bind(h *api.HostConfig, m api.MountPoint) (b spec.Mount, root string, err error) {
	b = spec.Mount{Type: "bind", Source: m.Source, Target: path.Clean(m.Destination), Create: true}
	o := bindOptions(h, m.Destination)
	b.Options = []string{"rbind"}
	if o.NonRecursive {
		b.Options[0] = "bind"
	}
	if !m.RW {
		switch {
		case o.ReadOnlyNonRecursive && o.ReadOnlyForceRecursive:
			return b, "", errs.Invalid.Errorf("mount options conflict: ReadOnlyNonRecursive && ReadOnlyForceRecursive")
		case o.ReadOnlyNonRecursive:
			b.Options = append(b.Options, "ro")
		default:
			b.Options = append(b.Options, "rro")
		}
	}
	p := string(m.Propagation)
	if p == "" {
		p = "rprivate"
	}
	if _, ok := mount.Propagation(p); !ok {
		return b, "", errs.Invalid.Errorf("invalid propagation %q of the mount at %s", p, m.Destination)
	}
	b.Options = append(b.Options, p)
	switch strings.TrimPrefix(p, "r") {
	case "shared":
		root = "rshared"
		err = propagates(m.Source, "a shared mount", "shared:")
	case "slave":
		root = "rslave"
		err = propagates(m.Source, "a shared or slave mount", "shared:", "master:")
	}
	return b, root, err
}

// bindOptions are what --mount says beyond a MountPoint.
func bindOptions(h *api.HostConfig, target string) mounttypes.BindOptions {
	for _, m := range h.Mounts {
		if m.Type == mounttypes.TypeBind && path.Clean(m.Target) == path.Clean(target) && m.BindOptions != nil {
			return *m.BindOptions
		}
	}
	return mounttypes.BindOptions{}
}

// propagates checks that the mount on which source lies has one of the tags in proc_pid_mountinfo(5).
func propagates(source, what string, tags ...string) error {
	real, err := filepath.EvalSymlinks(source)
	if err != nil {
		return errs.Invalid.Wrap(err)
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer f.Close()
	best, has := "", false
	for s := bufio.NewScanner(f); s.Scan(); {
		m, ok := mount.ParseInfo(s.Text())
		point := m.Point
		if !ok || len(point) < len(best) || point != "/" && real != point && !strings.HasPrefix(real, point+"/") {
			continue
		}
		best, has = point, false
		for _, f := range m.Optional {
			for _, t := range tags {
				has = has || strings.HasPrefix(f, t)
			}
		}
	}
	if !has {
		return errs.Invalid.Errorf("path %s is mounted on %s but it is not %s", source, best, what)
	}
	return nil
}

// tmpfsMounts are those of --tmpfs and --mount type=tmpfs.
func tmpfsMounts(h *api.HostConfig) ([]spec.Mount, error) {
	var out []spec.Mount
	add := func(target, data string) error {
		if !path.IsAbs(target) {
			return errs.Invalid.Errorf("invalid mount path: '%s' mount path must be absolute", target)
		}
		if target = path.Clean(target); target == "/" {
			return errs.Invalid.Errorf("invalid specification: destination can't be '/'")
		}
		options := []string{"noexec", "nosuid", "nodev", "rprivate"}
		if data != "" {
			options = append(options, strings.Split(data, ",")...)
		}
		merged, err := mergeTmpfs(options)
		if err != nil {
			return err
		}
		out = append(out, spec.Mount{Type: "tmpfs", Source: "tmpfs", Target: target, Options: merged, Create: true})
		return nil
	}
	for target, data := range h.Tmpfs {
		if err := add(target, data); err != nil {
			return nil, err
		}
	}
	for _, m := range h.Mounts {
		if m.Type != mounttypes.TypeTmpfs {
			continue
		}
		if err := add(m.Target, tmpfsData(m)); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(out, func(a, b spec.Mount) int { return strings.Compare(a.Target, b.Target) })
	return out, nil
}

func tmpfsData(m mounttypes.Mount) string {
	var data []string
	if m.ReadOnly {
		data = append(data, "ro")
	}
	if o := m.TmpfsOptions; o != nil {
		if o.Mode != 0 {
			data = append(data, fmt.Sprintf("mode=%o", o.Mode))
		}
		if o.SizeBytes != 0 {
			data = append(data, fmt.Sprintf("size=%d", o.SizeBytes))
		}
		for _, kv := range o.Options {
			data = append(data, strings.Join(kv, "="))
		}
	}
	return strings.Join(data, ",")
}

// tmpfsKeys are the options with values that Docker lets through (tmpfs(5)).
var tmpfsKeys = map[string]bool{"size": true, "mode": true, "uid": true, "gid": true, "nr_inodes": true, "nr_blocks": true, "mpol": true}

// opposites name the same flag.
var opposites = map[string]string{
	"rw": "ro", "exec": "noexec", "suid": "nosuid", "dev": "nodev", "atime": "noatime", "diratime": "nodiratime",
	"norelatime": "relatime", "nostrictatime": "strictatime",
}

// mergeTmpfs lets later options override earlier ones and refuses what tmpfs does not take.
func mergeTmpfs(options []string) ([]string, error) {
	seen := make(map[string]bool)
	var out []string
	for _, o := range slices.Backward(options) {
		key, _, valued := strings.Cut(o, "=")
		_, propagation := mount.Propagation(o)
		switch {
		case o == "":
			continue
		case propagation:
			key = "propagation"
		case valued:
			if !tmpfsKeys[key] {
				return nil, errs.Invalid.Errorf("invalid tmpfs option %q", key)
			}
		case mount.IsFlag(o), o == "sync", o == "async", o == "dirsync", o == "mand", o == "nomand":
			if c, ok := opposites[o]; ok {
				key = c
			}
		default:
			return nil, errs.Invalid.Errorf("invalid tmpfs option %q", o)
		}
		if !seen[key] {
			seen[key] = true
			out = append(out, o)
		}
	}
	slices.Reverse(out)
	return out, nil
}
