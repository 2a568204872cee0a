package runtime

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/docker/go-units"
	api "github.com/moby/moby/api/types/container"
	mounttypes "github.com/moby/moby/api/types/mount"

	"gantry/internal/errs"
	"gantry/internal/kernel/caps"
	"gantry/internal/kernel/cgroup"
	"gantry/internal/kernel/seccomp"
	"gantry/internal/layer"
	"gantry/internal/runtime/spec"

	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func testBuilder() *Builder {
	return &Builder{Caps: caps.All, Seccomp: new(seccomp.Cache)}
}

// input is a container that asks for nothing.
func input(t testing.TB) *Input {
	t.Helper()
	return &Input{
		ID:     strings.Repeat("ab", 32),
		Config: &api.Config{Hostname: "box"},
		HostConfig: &api.HostConfig{
			NetworkMode: "none", IpcMode: "private", CgroupnsMode: "private", ShmSize: 64 << 20,
		},
		Path: "/bin/sh", Args: []string{"-c", "true"},
		Overlay: layer.Overlay{Base: "/data", Lower: []string{"layers/b", "layers/a"}, Upper: "containers/c/upper", Work: "containers/c/work"},
		Target:  "/data/containers/c/rootfs",
		Cgroup:  spec.Cgroup{Unified: "/sys/fs/cgroup/gantry/c"},
		Log:     spec.Log{Driver: "json-file", Path: "/data/containers/c/c-json.log", MaxSize: 20 << 20, MaxFiles: 5},
		Of: func(ref string) (spec.Process, error) {
			if ref != "other" {
				return spec.Process{}, errs.NotFound.Errorf("No such container: %s", ref)
			}
			return spec.Process{Pid: 42, StartTime: 4711}, nil
		},
	}
}

// TestGolden holds what is built for common command lines. Filters are left out: package seccomp tests them.
func TestGolden(t *testing.T) {
	t.Parallel()
	yes, umask := true, uint32(0o77)
	for name, change := range map[string]func(*Input){
		"default": func(in *Input) {},
		"privileged": func(in *Input) {
			in.HostConfig.Privileged = true
		},
		"host-namespaces": func(in *Input) {
			h := in.HostConfig
			h.NetworkMode, h.IpcMode, h.PidMode, h.UTSMode, h.CgroupnsMode = "host", "host", "host", "host", "host"
			h.Init = &yes
		},
		"joined-namespaces": func(in *Input) {
			h := in.HostConfig
			h.NetworkMode, h.IpcMode, h.PidMode = "container:other", "container:other", "container:other"
		},
		"userns": func(in *Input) {
			in.UIDMaps = []spec.IDMap{{Container: 0, Host: 100000, Size: 65536}}
			in.GIDMaps = in.UIDMaps
		},
		"userns-host": func(in *Input) {
			in.UIDMaps = []spec.IDMap{{Container: 0, Host: 100000, Size: 65536}}
			in.HostConfig.UsernsMode = "host"
		},
		"cgroup-v1": func(in *Input) {
			in.Cgroup = spec.Cgroup{Tasks: []string{"/sys/fs/cgroup/memory/gantry/c/tasks", "/sys/fs/cgroup/cpu,cpuacct/gantry/c/tasks", "/odd/pids/gantry/c/tasks"}}
		},
		"options": func(in *Input) {
			in.Config.Tty, in.Config.OpenStdin, in.Config.User, in.Config.WorkingDir = true, true, "alice:wheel", "/work"
			in.Config.Domainname = "example.org"
			in.Config.Env = []string{"A=1", "PATH=/bin", "HOSTNAME"}
			h := in.HostConfig
			h.ConsoleSize = [2]uint{24, 80}
			h.ReadonlyRootfs, h.Init = true, &yes
			h.GroupAdd, h.OomScoreAdj, h.Umask = []string{"audio", "44"}, 300, &umask
			h.CapAdd, h.CapDrop = []string{"SYS_PTRACE"}, []string{"NET_RAW"}
			h.SecurityOpt = []string{"seccomp=unconfined", "no-new-privileges", "label=disable"}
			h.Ulimits = []*api.Ulimit{{Name: "nofile", Soft: 10, Hard: 20}}
			in.Ulimits = []*api.Ulimit{{Name: "nofile", Soft: 1, Hard: 1}, {Name: "core", Soft: 0, Hard: -1}}
			h.Sysctls = map[string]string{"net.core.somaxconn": "1000", "kernel/shmmax": "1", "net.ipv4.ping_group_range": "1 0"}
			h.MaskedPaths, h.ReadonlyPaths = []string{}, []string{"/proc/sys"}
			h.ShmSize = 1 << 20
		},
		"mounts": func(in *Input) {
			dir := in.Target
			in.Files = dir
			in.HostConfig.ReadonlyRootfs = true
			in.HostConfig.Tmpfs = map[string]string{"/t": "", "/run": "exec,size=1m,mode=1777", "/z/../y": "rw,noexec"}
			in.HostConfig.Mounts = []mounttypes.Mount{
				{Type: "tmpfs", Target: "/m", ReadOnly: true, TmpfsOptions: &mounttypes.TmpfsOptions{SizeBytes: 1 << 20, Mode: 0o700, Options: [][]string{{"exec"}, {"uid", "5"}}}},
				{Type: "bind", Source: "/src", Target: "/nonrec", BindOptions: &mounttypes.BindOptions{NonRecursive: true, ReadOnlyNonRecursive: true}},
			}
			in.Mounts = []api.MountPoint{
				{Type: "bind", Source: "/a", Destination: "/x/y/z", RW: true, Propagation: "rprivate"},
				{Type: "bind", Source: "/b", Destination: "/x", RW: false, Propagation: "rprivate"},
				{Type: "bind", Source: "/src", Destination: "/nonrec"},
				{Type: "bind", Source: "/hosts", Destination: "/etc/hosts", RW: true},
				{Type: "tmpfs", Destination: "/m"},
			}
		},
		"own-dev": func(in *Input) {
			in.HostConfig.IpcMode = "none"
			in.Mounts = []api.MountPoint{{Type: "bind", Source: "/dev", Destination: "/dev", RW: true}, {Type: "bind", Source: "/sys", Destination: "/sys", RW: false}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := input(t)
			if name == "mounts" {
				in.Target = t.TempDir()
				for _, f := range []string{"hosts", "hostname", "resolv.conf"} {
					if err := os.WriteFile(filepath.Join(in.Target, f), nil, 0o644); err != nil {
						t.Fatal(err)
					}
				}
			}
			change(in)
			before, _ := json.Marshal(in.HostConfig)
			launch, init, warnings, err := testBuilder().Build(in)
			if err != nil {
				t.Fatal(err)
			}
			if after, _ := json.Marshal(in.HostConfig); !bytes.Equal(before, after) {
				t.Errorf("the host config was changed:\n%s\n%s", before, after)
			}
			if (name == "options" || name == "privileged") != (init.Exec.Seccomp == nil) {
				t.Errorf("filter of %d bytes", len(init.Exec.Seccomp))
			}
			init.Exec.Seccomp = nil
			if name == "privileged" {
				// The rest are this machine's.
				for _, d := range init.Devices[6:] {
					if !strings.HasPrefix(d.Path, "/dev/") || strings.HasPrefix(d.Path, "/dev/pts") || d.Path == "/dev/console" {
						t.Errorf("device %+v", d)
					}
				}
				init.Devices = init.Devices[:6]
			}
			init.Masked = slices.DeleteFunc(init.Masked, func(p string) bool { return strings.Contains(p, "/thermal_throttle") }) // this machine's
			got, err := json.MarshalIndent(map[string]any{"launch": launch, "init": init, "warnings": warnings}, "", " ")
			if err != nil {
				t.Fatal(err)
			}
			got = innermost.ReplaceAllFunc(got, func(b []byte) []byte { return spaces1.ReplaceAll(b, []byte(" ")) })
			if name == "mounts" {
				got = bytes.ReplaceAll(got, []byte(in.Target), []byte("DIR"))
			}
			golden(t, filepath.Join("testdata", name+".json"), append(got, '\n'))
		})
	}
}

// innermost finds lists and objects that hold no others; they are written on one line.
var (
	innermost = regexp.MustCompile(`\{[^{}\[\]]*\}|\[[^{}\[\]]*\]`)
	spaces1   = regexp.MustCompile(`\s+`)
)

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("differs from %s (go test -update rewrites it):\n%s", path, got)
	}
}

func TestBuildErrors(t *testing.T) {
	t.Parallel()
	maps := []spec.IDMap{{Host: 100000, Size: 65536}}
	for _, c := range []struct {
		change func(*Input)
		kind   errs.Kind
		want   string
	}{
		{func(in *Input) { in.HostConfig.CapAdd = []string{"NOPE"} }, errs.Invalid, `invalid CapAdd: unknown capability: "CAP_NOPE"`},
		{func(in *Input) { in.HostConfig.SecurityOpt = []string{"nope"} }, errs.Invalid, `invalid --security-opt 1: "nope"`},
		{func(in *Input) { in.HostConfig.SecurityOpt = []string{"nope=1"} }, errs.Invalid, `invalid --security-opt 2: "nope=1"`},
		{func(in *Input) { in.HostConfig.SecurityOpt = []string{"no-new-privileges=maybe"} }, errs.Invalid, `invalid --security-opt 2: "no-new-privileges=maybe"`},
		{func(in *Input) { in.HostConfig.NetworkMode = "container:gone" }, errs.NotFound, "No such container: gone"},
		{func(in *Input) { in.HostConfig.IpcMode = "container:gone" }, errs.NotFound, "failed to join IPC namespace: No such container: gone"},
		{func(in *Input) { in.HostConfig.PidMode = "container:gone" }, errs.NotFound, "failed to join PID namespace: No such container: gone"},
		{func(in *Input) { in.HostConfig.PidMode = "nope" }, errs.Invalid, "invalid PID mode: nope"},
		{func(in *Input) { in.HostConfig.IpcMode = "nope" }, errs.Invalid, "invalid IPC mode: nope"},
		{func(in *Input) { in.HostConfig.UTSMode = "nope" }, errs.Invalid, "invalid UTS mode: nope"},
		{func(in *Input) { in.HostConfig.CgroupnsMode = "nope" }, errs.Invalid, "invalid cgroup namespace mode: nope"},
		{func(in *Input) { in.UIDMaps, in.HostConfig.Privileged = maps, true }, errs.Invalid, "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode"},
		{func(in *Input) { in.UIDMaps, in.HostConfig.NetworkMode = maps, "host" }, errs.Invalid, "cannot share the host's network namespace when user namespaces are enabled"},
		{func(in *Input) { in.UIDMaps, in.HostConfig.PidMode = maps, "host" }, errs.Invalid, "cannot share the host PID namespace when user namespaces are enabled"},
		{func(in *Input) { in.HostConfig.Sysctls = map[string]string{"kernel.panic": "1"} }, errs.Invalid, `sysctl "kernel.panic" is not in a separate kernel namespace`},
		{func(in *Input) { in.HostConfig.Sysctls = map[string]string{"kernel.hostname": "x"} }, errs.Invalid, `sysctl "kernel.hostname" is not allowed as it conflicts with the OCI "hostname" field`},
		{func(in *Input) {
			in.HostConfig.Sysctls, in.HostConfig.NetworkMode = map[string]string{"net.core.somaxconn": "1"}, "host"
		}, errs.Invalid, `sysctl "net.core.somaxconn" not allowed in host network namespace`},
		{func(in *Input) {
			in.HostConfig.Sysctls, in.HostConfig.IpcMode = map[string]string{"kernel.shmmax": "1"}, "host"
		}, errs.Invalid, `sysctl "kernel.shmmax" is not allowed in the hosts ipc namespace`},
		{func(in *Input) { in.HostConfig.Ulimits = []*api.Ulimit{{Name: "nope"}} }, errs.Invalid, "invalid rlimit type: RLIMIT_NOPE"},
		{func(in *Input) { in.HostConfig.Tmpfs = map[string]string{"/t": "nope"} }, errs.Invalid, `invalid tmpfs option "nope"`},
		{func(in *Input) { in.HostConfig.Tmpfs = map[string]string{"/t": "upperdir=/etc"} }, errs.Invalid, `invalid tmpfs option "upperdir"`},
		{func(in *Input) { in.HostConfig.Tmpfs = map[string]string{"t": ""} }, errs.Invalid, "invalid mount path: 't' mount path must be absolute"},
		{func(in *Input) { in.HostConfig.Tmpfs = map[string]string{"/x/..": ""} }, errs.Invalid, "invalid specification: destination can't be '/'"},
		{func(in *Input) {
			in.HostConfig.Devices = []api.DeviceMapping{{PathOnHost: "/dev/nope", PathInContainer: "/dev/nope"}}
		}, errs.Invalid, `error gathering device information while adding custom device "/dev/nope": no such file or directory`},
		{func(in *Input) {
			in.HostConfig.Devices = []api.DeviceMapping{{PathOnHost: "/etc/passwd", PathInContainer: "/dev/x"}}
		}, errs.Invalid, `error gathering device information while adding custom device "/etc/passwd": not a device node`},
		{func(in *Input) {
			in.Mounts = []api.MountPoint{{Type: "bind", Source: "/proc", Destination: "/x", Propagation: "rshared"}}
		}, errs.Invalid, "path /proc is mounted on /proc but it is not a shared mount"},
	} {
		in := input(t)
		c.change(in)
		_, _, _, err := testBuilder().Build(in)
		if err == nil || err.Error() != c.want || !c.kind.Is(err) {
			t.Errorf("got %v (%v), want %s", err, errs.KindOf(err), c.want)
		}
	}
}

func TestDevices(t *testing.T) {
	t.Parallel()
	h := &api.HostConfig{Resources: api.Resources{
		Devices: []api.DeviceMapping{
			{PathOnHost: "/dev/zero", PathInContainer: "/dev/mine", CgroupPermissions: "r"},
			{PathOnHost: "/dev/full", PathInContainer: "/dev/null", CgroupPermissions: "rwm"},
		},
		DeviceCgroupRules: []string{"c 42:* rmw"},
	}}
	got, err := devices(h)
	if err != nil {
		t.Fatal(err)
	}
	if d := got[0]; d.Path != "/dev/null" || d.Major != 1 || d.Minor != 7 {
		t.Errorf("/dev/null was not replaced: %+v", d)
	}
	if d := got[6]; len(got) != 7 || d.Path != "/dev/mine" || d.Host != "/dev/zero" || d.Minor != 5 || d.Type != 'c' || d.Mode != 0o666 {
		t.Errorf("%d devices, the last %+v", len(got), d)
	}
	r, err := Resources(h)
	if err != nil {
		t.Fatal(err)
	}
	want := append(cgroup.DefaultDevices(),
		cgroup.DeviceRule{Allow: true, Type: 'c', Major: 1, Minor: 5, Access: cgroup.Read},
		cgroup.DeviceRule{Allow: true, Type: 'c', Major: 1, Minor: 7, Access: cgroup.Read | cgroup.Write | cgroup.Mknod},
		cgroup.DeviceRule{Allow: true, Type: 'c', Major: 42, Minor: cgroup.Any, Access: cgroup.Read | cgroup.Write | cgroup.Mknod})
	if !reflect.DeepEqual(r.Devices, want) {
		t.Errorf("rules %v", r.Devices)
	}
	h.Devices[0].CgroupPermissions = "x"
	if _, err := Resources(h); err == nil || err.Error() != "invalid device mode: x" {
		t.Errorf("%v", err)
	}
	// A directory of devices, with everything else in it left out.
	h.Devices = []api.DeviceMapping{{PathOnHost: "/dev", PathInContainer: "/d"}}
	if got, err = devices(h); err != nil || len(got) < 10 {
		t.Fatalf("%d devices, %v", len(got), err)
	}
	for _, d := range got[6:] {
		if !strings.HasPrefix(d.Path, "/d/") || !strings.HasPrefix(d.Host, "/dev/") || d.Type != 'c' && d.Type != 'b' {
			t.Errorf("%+v", d)
		}
	}
}

func TestResources(t *testing.T) {
	t.Parallel()
	oom, swappiness, pids := true, int64(10), int64(0)
	r, err := Resources(&api.HostConfig{Resources: api.Resources{
		Memory: 1 << 30, MemorySwap: -1, MemoryReservation: 1 << 20, MemorySwappiness: &swappiness, OomKillDisable: &oom,
		CPUShares: 5, NanoCPUs: 15e8, CpusetCpus: "0-1", CpusetMems: "0", PidsLimit: &pids, BlkioWeight: 300,
	}})
	if err != nil {
		t.Fatal(err)
	}
	r.Devices = nil
	want := cgroup.Resources{
		Memory: 1 << 30, MemorySwap: -1, MemoryReservation: 1 << 20, Swappiness: &swappiness, OOMKillDisable: true,
		CPUShares: 5, NanoCPUs: 15e8, CpusetCpus: "0-1", CpusetMems: "0", PidsLimit: -1, BlkioWeight: 300,
	}
	if !reflect.DeepEqual(r, want) {
		t.Errorf("got %+v, want %+v", r, want)
	}
}

func TestExec(t *testing.T) {
	t.Parallel()
	in := input(t)
	in.Config.Env, in.Config.WorkingDir, in.Config.User = []string{"A=1", "B=2"}, "/work", "alice"
	in.HostConfig.GroupAdd = []string{"44"}
	e := &Exec{ID: "exec", Args: []string{"id"}, Env: []string{"A=3", "C=4"}, Tty: true, OpenStdin: true, Height: 10, Width: 20, Of: spec.Process{Pid: 7, StartTime: 8}}
	launch, exec, _, err := testBuilder().BuildExec(in, e)
	if err != nil {
		t.Fatal(err)
	}
	if len(exec.Seccomp) == 0 {
		t.Error("no filter")
	}
	exec.Seccomp = nil
	set := uint64(caps.Default())
	adj := 0
	if want := (&spec.Exec{
		Args: []string{"id"}, Env: []string{"PATH=" + DefaultPath, "HOSTNAME=box", "TERM=xterm", "A=3", "B=2", "C=4"}, Cwd: "/work", User: "alice", Groups: []string{"44"},
		Caps: spec.Caps{Bounding: set, Permitted: set, Effective: set}, OOMScoreAdj: &adj, Terminal: true,
	}); !reflect.DeepEqual(exec, want) {
		t.Errorf("got  %+v\nwant %+v", exec, want)
	}
	if want := (&spec.Launch{
		ID: "exec", Container: in.ID, Pid: 7, StartTime: 8, Cgroup: in.Cgroup, Log: spec.Log{Driver: "none"},
		Stdio: spec.Stdio{Terminal: true, OpenStdin: true, Height: 10, Width: 20},
	}); !reflect.DeepEqual(launch, want) {
		t.Errorf("got  %+v\nwant %+v", launch, want)
	}
	e.Privileged, e.User, e.WorkingDir = true, "root", "/"
	_, exec, _, err = testBuilder().BuildExec(in, e)
	if err != nil || exec.Caps.Effective != uint64(caps.All) || exec.User != "root" || exec.Cwd != "/" {
		t.Errorf("%+v, %v", exec, err)
	}
}

func TestRlimitsWithoutResourceCapability(t *testing.T) {
	t.Parallel()
	b := testBuilder()
	b.Caps &^= caps.Of(caps.SYS_RESOURCE)
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &now); err != nil {
		t.Fatal(err)
	}
	if now.Max == unix.RLIM_INFINITY {
		t.Skip("nothing is above the limit")
	}
	high := &api.Ulimit{Name: "nofile", Soft: int64(now.Max) + 1, Hard: int64(now.Max) + 1}
	got, warnings, err := b.rlimits(nil, []*units.Ulimit{high})
	if err != nil || len(warnings) != 1 || got[0].Hard != now.Max || got[0].Soft != now.Max {
		t.Errorf("default: %+v, %v, %v", got, warnings, err)
	}
	got, warnings, err = b.rlimits([]*units.Ulimit{high}, nil)
	if err != nil || len(warnings) != 0 || got[0].Hard != now.Max+1 {
		t.Errorf("asked for: %+v, %v, %v", got, warnings, err)
	}
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	c := &api.Config{Hostname: "box", Env: []string{"X=1", "PATH=/a", "Y", "TERM=dumb", "X=2"}}
	if got, want := environment(c, nil, true, []string{"X", "Z=z"}), []string{"PATH=/a", "HOSTNAME=box", "TERM=dumb", "Z=z"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestNormalizeSysctl(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"net.ipv4.conf.eth0.forwarding": "net.ipv4.conf.eth0.forwarding", "net/ipv4/conf/eth0.1/forwarding": "net.ipv4.conf.eth0/1.forwarding", "x": "x",
		"net.ipv4.conf.eth0/1.forwarding": "net.ipv4.conf.eth0/1.forwarding",
	} {
		if got := normalizeSysctl(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func FuzzSecurityOpt(f *testing.F) {
	for _, s := range []string{"no-new-privileges", "seccomp=unconfined", "label:disable", "=", ":", "apparmor=x=y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := parseSecurityOpts([]string{s}, false); err != nil && !errs.Invalid.Is(err) {
			t.Errorf("%q: %v is not the caller's fault", s, err)
		}
	})
}

func FuzzTmpfs(f *testing.F) {
	f.Add("/t", "rw,size=1")
	f.Add("/../x", ",,=,exec,noexec")
	f.Fuzz(func(t *testing.T, target, data string) {
		m, err := tmpfsMounts(&api.HostConfig{Tmpfs: map[string]string{target: data}})
		if err != nil {
			return
		}
		if !filepath.IsAbs(m[0].Target) || strings.Contains(m[0].Target, "/../") || m[0].Target == "/" {
			t.Errorf("target %q became %q", target, m[0].Target)
		}
		for _, o := range m[0].Options {
			if k, _, ok := strings.Cut(o, "="); ok && !tmpfsKeys[k] {
				t.Errorf("option %q came through", o)
			}
		}
	})
}
