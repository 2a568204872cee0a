package container

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/errs"
	"gantry/internal/runtime/supervisor"
)

func TestMergeConfig(t *testing.T) {
	t.Parallel()
	img := &dockerspec.DockerOCIImageConfig{ImageConfig: ocispec.ImageConfig{
		User: "redis", Env: []string{"PATH=/bin", "A=image"}, Entrypoint: []string{"/entry"}, Cmd: []string{"serve"},
		WorkingDir: "/data", Labels: map[string]string{"l": "image", "m": "image"}, Volumes: map[string]struct{}{"/data": {}},
		ExposedPorts: map[string]struct{}{"6379/tcp": {}, "nonsense": {}}, StopSignal: "SIGINT",
	}}
	for _, c := range []struct {
		name             string
		user             api.Config
		entrypoint, argv []string // of the result
	}{
		{"nothing said", api.Config{}, []string{"/entry"}, []string{"serve"}},
		{"a command", api.Config{Cmd: []string{"x"}}, []string{"/entry"}, []string{"x"}},
		{"an entrypoint drops the image's command", api.Config{Entrypoint: []string{"/e"}}, []string{"/e"}, nil},
		{"both", api.Config{Entrypoint: []string{"/e"}, Cmd: []string{"x"}}, []string{"/e"}, []string{"x"}},
		{`--entrypoint ""`, api.Config{Entrypoint: []string{""}, Cmd: []string{"x"}}, nil, []string{"x"}},
		{"an empty entrypoint", api.Config{Entrypoint: []string{}, Cmd: []string{"x"}}, []string{}, []string{"x"}},
	} {
		got, err := mergeConfig(&c.user, img)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if !slices.Equal(got.Entrypoint, c.entrypoint) || !slices.Equal(got.Cmd, c.argv) {
			t.Errorf("%s: entrypoint %q, command %q", c.name, got.Entrypoint, got.Cmd)
		}
	}
	user := &api.Config{Env: []string{"A=user", "B="}, Labels: map[string]string{"l": "user"}, ExposedPorts: network.PortSet{network.MustParsePort("80/tcp"): {}}}
	got, err := mergeConfig(user, img)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.Env, []string{"A=user", "B=", "PATH=/bin"}) || got.Labels["l"] != "user" || got.Labels["m"] != "image" || len(got.ExposedPorts) != 2 ||
		got.User != "redis" || got.WorkingDir != "/data" || got.StopSignal != "SIGINT" || len(got.Volumes) != 1 {
		t.Errorf("%+v", got)
	}
	if len(user.Env) != 2 || len(user.Labels) != 1 || len(user.ExposedPorts) != 1 {
		t.Error("the user's configuration was changed")
	}
	if _, err := mergeConfig(&api.Config{}, &dockerspec.DockerOCIImageConfig{}); err == nil || err.Error() != "No command specified" || !errs.Invalid.Is(err) {
		t.Errorf("no command: %v", err)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{"ab": "ab", "/a.b-c_1": "a.b-c_1", "0x": "0x"} {
		if got, err := checkName(name); err != nil || got != want {
			t.Errorf("checkName(%q) = %q, %v", name, got, err)
		}
	}
	for _, name := range []string{"a", "/", "-a", "a b", "a/b", ".a", "ä1", "//ab"} {
		_, err := checkName(name)
		if want := "Invalid container name (" + name + "), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"; err == nil || err.Error() != want || !errs.Invalid.Is(err) {
			t.Errorf("checkName(%q): %v", name, err)
		}
	}
	for range 1000 {
		if n := randomName(); !validName(n) || strings.Count(n, "_") != 1 {
			t.Fatalf("randomName() = %q", n)
		}
	}
}

func TestStatusText(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for want, s := range map[string]Snapshot{
		"Created":                     {Status: Created},
		"Up Less than a second":       {Status: Running, StartedAt: ago(time.Millisecond)},
		"Up 1 second":                 {Status: Running, StartedAt: ago(time.Second)},
		"Up 59 seconds":               {Status: Running, StartedAt: ago(59 * time.Second)},
		"Up About a minute":           {Status: Running, StartedAt: ago(119 * time.Second)},
		"Up 59 minutes":               {Status: Running, StartedAt: ago(59 * time.Minute)},
		"Up About an hour":            {Status: Running, StartedAt: ago(89 * time.Minute)},
		"Up 2 hours (Paused)":         {Status: Paused, StartedAt: ago(2 * time.Hour)},
		"Exited (0) 47 hours ago":     {Status: Exited, FinishedAt: ago(47 * time.Hour)},
		"Exited (137) 2 days ago":     {Status: Exited, ExitCode: 137, FinishedAt: ago(50 * time.Hour)},
		"Exited (1) 2 weeks ago":      {Status: Exited, ExitCode: 1, FinishedAt: ago(15 * 24 * time.Hour)},
		"Exited (1) 2 months ago":     {Status: Exited, ExitCode: 1, FinishedAt: ago(61 * 24 * time.Hour)},
		"Exited (1) 3 years ago":      {Status: Exited, ExitCode: 1, FinishedAt: ago(1100 * 24 * time.Hour)},
		"Restarting (7) 1 second ago": {Status: Restarting, ExitCode: 7, FinishedAt: ago(time.Second)},
		"Removal In Progress":         {Status: Removing},
		"Dead":                        {Status: Dead},
	} {
		if got := s.StatusText(now); got != want {
			t.Errorf("StatusText = %q, want %q", got, want)
		}
	}
}

func TestParseSignal(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]int{"9": 9, "KILL": 9, "SIGKILL": 9, "sigterm": 15, "hup": 1, "RTMIN": 34, "SIGRTMIN+3": 37, "RTMAX-1": 63, "64": 64, "USR1": 10, "winch": 28} {
		if got, err := ParseSignal(s); err != nil || int(got) != want {
			t.Errorf("ParseSignal(%q) = %d, %v, want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "0", "-1", "65", "SIG", "SIGFOO", "RTMIN+31", "RTMIN-1", "RTMAX+1", "RTMIN+", "RTMINx", "9.5"} {
		if _, err := ParseSignal(s); err == nil || err.Error() != "Invalid signal: "+s || !errs.Invalid.Is(err) {
			t.Errorf("ParseSignal(%q): %v", s, err)
		}
	}
}

func TestDetachKeys(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{"": "\x10\x11", "ctrl-p,ctrl-q": "\x10\x11", "a": "a", "ctrl-@": "\x00", "ctrl-[,x,ctrl-_": "\x1bx\x1f"} {
		if got, err := parseDetachKeys(s); err != nil || string(got) != want {
			t.Errorf("parseDetachKeys(%q) = %q, %v", s, got, err)
		}
	}
	for _, s := range []string{"ctrl-", "ctrl-pp", "ctrl-1", "ctrl-A", "alt-x", "a,,b", ","} {
		if _, err := parseDetachKeys(s); err == nil {
			t.Errorf("parseDetachKeys(%q) succeeded", s)
		}
	}
}

func TestDetacher(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		keys     string
		in       []string
		out      string
		detached bool
	}{
		{"\x10\x11", []string{"ab", "c"}, "abc", false},
		{"\x10\x11", []string{"a\x10\x11b"}, "a", true},
		{"\x10\x11", []string{"a\x10", "\x11"}, "a", true},
		{"\x10\x11", []string{"a\x10", "b"}, "a\x10b", false},
		{"\x10\x11", []string{"\x10\x10\x11"}, "\x10", true},
		{"aab", []string{"a", "a", "a", "b"}, "a", true},
		{"aba", []string{"abc"}, "abc", false},
		{"x", []string{"x"}, "", true},
		{"abac", []string{"ababac"}, "ab", true},
	} {
		d := detacher{keys: []byte(c.keys)}
		var out []byte
		done := false
		for _, p := range c.in {
			out, done = d.filter(out, []byte(p))
		}
		if string(out) != c.out || done != c.detached {
			t.Errorf("%q of %q: %q, %v", c.keys, c.in, out, done)
		}
	}
}

// FuzzDetacher holds that without the keys nothing is lost or changed, however the input is cut.
func FuzzDetacher(f *testing.F) {
	f.Add("ab", "xaab", 2)
	f.Add("\x10\x11", "\x10\x10", 1)
	f.Fuzz(func(t *testing.T, keys, in string, cut int) {
		if keys == "" || cut < 1 {
			return
		}
		d := detacher{keys: []byte(keys)}
		var out []byte
		for rest := in; rest != ""; {
			n := min(cut, len(rest))
			var done bool
			if out, done = d.filter(out, []byte(rest[:n])); done {
				if !strings.Contains(in, keys) {
					t.Fatalf("%q found in %q", keys, in)
				}
				return
			}
			rest = rest[n:]
		}
		if out = append(out, d.rest()...); string(out) != in {
			t.Fatalf("%q became %q", in, out)
		}
		if strings.Contains(in, keys) {
			t.Fatalf("%q not found in %q", keys, in)
		}
	})
}

func TestParseBind(t *testing.T) {
	t.Parallel()
	bind := func(src, dst string, rw bool, p mount.Propagation, mode string) api.MountPoint {
		return api.MountPoint{Type: mount.TypeBind, Source: src, Destination: dst, RW: rw, Propagation: p, Mode: mode}
	}
	for s, want := range map[string]api.MountPoint{
		"/a:/b":             bind("/a", "/b", true, "rprivate", ""),
		"/a/../x/:/b/":      bind("/x", "/b", true, "rprivate", ""),
		"/a:/b:ro":          bind("/a", "/b", false, "rprivate", "ro"),
		"/a:/b:rw,rslave,z": bind("/a", "/b", true, "rslave", "rw,rslave,z"),
		"vol:/b:ro,nocopy":  {Type: mount.TypeVolume, Name: "vol", Destination: "/b", Mode: "ro,nocopy"},
		"vol:/b":            {Type: mount.TypeVolume, Name: "vol", Destination: "/b", RW: true},
		"/anon":             {Type: mount.TypeVolume, Destination: "/anon", RW: true},
		"/a:/b:map=1:2,ro":  bind("/a", "/b", false, "rprivate", "map=1:2,ro"),
	} {
		if got, _, err := parseBind(s); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("parseBind(%q) = %+v, %v", s, got, err)
		}
	}
	for s, kind := range map[string]errs.Kind{
		"": errs.Invalid, ":/b": errs.Invalid, "/a:b": errs.Invalid, "/a:/": errs.Invalid, "/a:/b:xx": errs.Invalid, "/a:/b:ro,rw": errs.Invalid,
		"/a:/b:ro:x": errs.Invalid, "/a:ro": errs.Invalid, "/a:/b:nocopy": errs.Invalid, "vol:/b:rslave": errs.Invalid, "/a:/b:map=x": errs.Invalid, "vol:/b:map": errs.Invalid,
	} {
		if _, _, err := parseBind(s); !kind.Is(err) {
			t.Errorf("parseBind(%q): %v", s, err)
		}
	}
}

func FuzzParseBind(f *testing.F) {
	f.Add("/a:/b:ro")
	f.Add("a:/b:nocopy")
	f.Add("/a:/b:map=1:2")
	f.Fuzz(func(t *testing.T, s string) {
		if m, _, err := parseBind(s); err == nil && (m.Destination == "/" || m.Destination[0] != '/' || m.Type == mount.TypeBind && m.Source[0] != '/') {
			t.Fatalf("%q: %+v", s, m)
		}
	})
}

type noVolumes struct{ Volumes }

func TestMountPoints(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	plan := func(h *api.HostConfig, volumes ...string) ([]api.MountPoint, error) {
		c := &api.Config{Volumes: map[string]struct{}{}}
		for _, v := range volumes {
			c.Volumes[v] = struct{}{}
		}
		p, err := (&Service{Options: Options{VolumeRoot: "/v", Volumes: noVolumes{}}}).mountPlan(t.Context(), h, c)
		if err != nil {
			return nil, err
		}
		return p.points, nil
	}
	got, err := plan(&api.HostConfig{Binds: []string{"/h/x:/a/b/c"}, Mounts: []mount.Mount{{Type: mount.TypeBind, Source: dir, Target: "/a", ReadOnly: true}, {Type: mount.TypeTmpfs, Target: "/a/t"}}})
	if err != nil || len(got) != 3 || got[0].Destination != "/a" || got[1].Destination != "/a/t" || got[2].Destination != "/a/b/c" || got[0].RW {
		t.Errorf("%+v, %v", got, err)
	}
	got, err = plan(&api.HostConfig{Binds: []string{"vol:/a"}, Tmpfs: map[string]string{"/t": ""}}, "/a/", "/t", "/img", "/a/b")
	if err != nil || len(got) != 3 || got[0].Source != "/v/vol/_data" || got[0].Mode != "z" || got[1].Destination != "/img" || len(got[1].Name) != 64 || got[2].Destination != "/a/b" {
		t.Errorf("%+v, %v", got, err)
	}
	for _, c := range []struct {
		h    api.HostConfig
		want string
	}{
		{api.HostConfig{Mounts: []mount.Mount{{Type: mount.TypeVolume, Target: "/a", ReadOnly: true}}}, `invalid mount config for type "volume": must not set ReadOnly mode when using anonymous volumes`},
		{api.HostConfig{Mounts: []mount.Mount{{Type: mount.TypeVolume, Source: "v1", Target: "/a", VolumeOptions: &mount.VolumeOptions{Subpath: "../x"}}}}, `invalid mount config for type "volume": subpath must be a relative path within the volume`},
		{api.HostConfig{Binds: []string{"/x:/a", "/y:/a"}}, "Duplicate mount point: /a"},
		{api.HostConfig{Binds: []string{"/x:/a"}, Tmpfs: map[string]string{"/a": ""}}, "Duplicate mount point: /a"},
		{api.HostConfig{Mounts: []mount.Mount{{Type: mount.TypeBind, Source: "/nonexistent/dir", Target: "/a"}}}, `invalid mount config for type "bind": bind source path does not exist: /nonexistent/dir`},
		{api.HostConfig{Mounts: []mount.Mount{{Type: mount.TypeBind, Target: "/a"}}}, `invalid mount config for type "bind": field Source must not be empty`},
		{api.HostConfig{Mounts: []mount.Mount{{Type: "bogus", Target: "/a"}}}, `invalid mount config for type "bogus": mount type unknown`},
	} {
		if _, err := plan(&c.h); err == nil || err.Error() != c.want {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}

func TestHostConfig(t *testing.T) {
	t.Parallel()
	d := &Defaults{ShmSize: 64 << 20, IpcMode: "private", CgroupnsMode: "host", LogConfig: api.LogConfig{Type: "json-file", Config: map[string]string{"max-size": "1m"}}}
	h := fillHostConfig(nil, d)
	if h.NetworkMode != "default" || h.ShmSize != 64<<20 || h.IpcMode != "private" || h.LogConfig.Type != "json-file" || h.LogConfig.Config["max-size"] != "1m" || h.Runtime != "runc" || len(h.MaskedPaths) == 0 {
		t.Errorf("%+v", h)
	}
	if err := checkHostConfig(h); err != nil {
		t.Error(err)
	}
	if h := fillHostConfig(&api.HostConfig{Resources: api.Resources{Memory: 10 << 20}}, d); h.MemorySwap != 20<<20 {
		t.Errorf("MemorySwap %d", h.MemorySwap)
	}
	if h := fillHostConfig(&api.HostConfig{Privileged: true}, d); h.MaskedPaths != nil {
		t.Error("privileged, but masked")
	}
	port := network.MustParsePort("80/tcp")
	for _, c := range []struct {
		h    api.HostConfig
		kind errs.Kind
		want string
	}{
		{api.HostConfig{AutoRemove: true, RestartPolicy: api.RestartPolicy{Name: "always"}}, errs.Invalid, "can't create 'AutoRemove' container with restart policy"},
		{api.HostConfig{RestartPolicy: api.RestartPolicy{Name: "sometimes"}}, errs.Invalid, "unknown policy"},
		{api.HostConfig{NetworkMode: "container:"}, errs.Invalid, "invalid container format container:<name|id>"},
		{api.HostConfig{NetworkMode: "container:x", PortBindings: network.PortMap{port: {{}}}}, errs.Invalid, "conflicting options: port publishing and the container type network mode"},
		{api.HostConfig{NetworkMode: "container:x", PublishAllPorts: true}, errs.Invalid, "port publishing"},
		{api.HostConfig{IpcMode: "bogus"}, errs.Invalid, "invalid IPC mode"},
		{api.HostConfig{PidMode: "container:"}, errs.Invalid, "invalid PID mode"},
		{api.HostConfig{UTSMode: "x"}, errs.Invalid, "invalid UTS mode"},
		{api.HostConfig{Runtime: "kata"}, errs.Invalid, "unknown or invalid runtime name: kata"},
		{api.HostConfig{OomScoreAdj: 1001}, errs.Invalid, "range for oom score adj"},
		{api.HostConfig{Resources: api.Resources{Memory: 1 << 20}}, errs.Invalid, "Minimum memory limit allowed is 6MB"},
		{api.HostConfig{Resources: api.Resources{NanoCPUs: 1e15}}, errs.Invalid, "range of CPUs"},
		{api.HostConfig{Resources: api.Resources{CpusetCpus: "0-"}}, errs.Invalid, "Invalid value 0- for cpuset cpus"},
		{api.HostConfig{LogConfig: api.LogConfig{Type: "syslog"}}, errs.Invalid, "no log driver named 'syslog'"},
		{api.HostConfig{LogConfig: api.LogConfig{Config: map[string]string{"max-siz": "1"}}}, errs.Invalid, "unknown log opt 'max-siz'"},
		{api.HostConfig{ExtraHosts: []string{"a b:host-gateway"}}, errs.Invalid, "bad format for add-host"},
		{api.HostConfig{ExtraHosts: []string{"a:1.2.3"}}, errs.Invalid, "invalid IP address in add-host"},
		{api.HostConfig{ExtraHosts: []string{"a"}}, errs.Invalid, "bad format for add-host"},
	} {
		err := checkHostConfig(fillHostConfig(&c.h, d))
		if !c.kind.Is(err) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v (%v), want %v %q", err, errs.KindOf(err), c.kind, c.want)
		}
	}
}

func TestParseSize(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]int64{"0": 0, "10": 10, "1k": 1024, "2KB": 2048, "1.5 GiB": 3 << 29, "20m": 20 << 20, "1b": 1, "1TB": 1 << 40} {
		if got, err := ParseSize(s); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "k", "-1", "1x", "1kk", "1e", "9999999p", "1 2"} {
		if _, err := ParseSize(s); err == nil {
			t.Errorf("ParseSize(%q) succeeded", s)
		}
	}
}

func TestRestartPolicy(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		policy      api.RestartPolicy
		code, count int
		manual      bool
		again, boot bool
	}{
		{api.RestartPolicy{}, 1, 0, false, false, false},
		{api.RestartPolicy{Name: "no"}, 1, 0, false, false, false},
		{api.RestartPolicy{Name: "always"}, 0, 99, false, true, true},
		{api.RestartPolicy{Name: "always"}, 0, 0, true, false, true},
		{api.RestartPolicy{Name: "unless-stopped"}, 0, 0, false, true, true},
		{api.RestartPolicy{Name: "unless-stopped"}, 0, 0, true, false, false},
		{api.RestartPolicy{Name: "on-failure"}, 0, 0, false, false, false},
		{api.RestartPolicy{Name: "on-failure"}, 1, 99, false, true, true},
		{api.RestartPolicy{Name: "on-failure", MaximumRetryCount: 2}, 1, 1, false, true, true},
		{api.RestartPolicy{Name: "on-failure", MaximumRetryCount: 2}, 1, 2, false, false, false},
		{api.RestartPolicy{Name: "on-failure"}, 1, 0, true, false, false},
	} {
		if got := restarts(c.policy, c.code, c.count, c.manual); got != c.again {
			t.Errorf("restarts%+v = %v", c, got)
		}
		s := &Snapshot{HostConfig: &api.HostConfig{RestartPolicy: c.policy}, ExitCode: c.code, RestartCount: c.count}
		if got := startsAtBoot(s, c.manual); got != c.boot {
			t.Errorf("startsAtBoot%+v = %v", c, got)
		}
	}
	var d time.Duration
	for _, want := range []time.Duration{100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000} {
		if d = nextBackoff(d, time.Second); d != want*time.Millisecond {
			t.Errorf("back-off %v, want %v ms", d, int64(want))
		}
	}
	if d = nextBackoff(d, 10*time.Second); d != firstBackoff {
		t.Errorf("after a long run %v", d)
	}
}

// listed makes a service that holds the given containers and does nothing.
func listed(t *testing.T, snaps ...Snapshot) *Service {
	s := &Service{byID: map[string]*container{}, names: map[string]string{}, execs: map[string]*exec{}}
	for i, snap := range snaps {
		snap.Created = time.Unix(int64(1000+i), 0)
		if snap.Config == nil {
			snap.Config = &api.Config{}
		}
		if snap.HostConfig == nil {
			snap.HostConfig = &api.HostConfig{}
		}
		c := s.newContainer(snap)
		t.Cleanup(c.quit)
		s.byID[snap.ID], s.names[snap.Name] = c, snap.ID
	}
	return s
}

func TestListAndFind(t *testing.T) {
	t.Parallel()
	a, b, c := strings.Repeat("a", 64), strings.Repeat("b", 64), strings.Repeat("a", 63)+"c"
	s := listed(t,
		Snapshot{ID: a, Name: "first", Status: Exited, ExitCode: 3, StartedAt: time.Unix(1, 0), Config: &api.Config{Labels: map[string]string{"k": "v"}}},
		Snapshot{ID: b, Name: "second", Status: Running, HostConfig: &api.HostConfig{NetworkMode: "host"}},
		Snapshot{ID: c, Name: "third-one", Status: Created, Config: &api.Config{Labels: map[string]string{"k": "w"}, ExposedPorts: network.PortSet{network.MustParsePort("80/tcp"): {}}}, Mounts: []api.MountPoint{{Source: "/s", Destination: "/d"}}},
	)
	names := func(o ListOptions) string {
		t.Helper()
		list, err := s.List(o)
		if err != nil {
			return err.Error()
		}
		var n []string
		for _, x := range list {
			n = append(n, x.Name)
		}
		return strings.Join(n, " ")
	}
	f := func(kv ...string) ListOptions {
		o := ListOptions{All: true, Filters: map[string][]string{}}
		for i := 0; i < len(kv); i += 2 {
			o.Filters[kv[i]] = append(o.Filters[kv[i]], kv[i+1])
		}
		return o
	}
	for _, x := range []struct {
		o    ListOptions
		want string
	}{
		{ListOptions{}, "second"},
		{ListOptions{All: true}, "third-one second first"},
		{ListOptions{Limit: 2}, "third-one second"},
		{f("name", "ir"), "third-one first"},
		{f("name", "^/first$"), "first"},
		{f("name", "^sec"), "second"},
		{f("id", a[:10]), "third-one first"},
		{f("label", "k"), "third-one first"},
		{f("label", "k=v"), "first"},
		{f("label", "k=v", "label", "x"), ""},
		{f("status", "exited"), "first"},
		{f("status", "exited", "status", "created"), "third-one first"},
		{ListOptions{Filters: map[string][]string{"status": {"created"}}}, "third-one"},
		{f("exited", "3"), "first"},
		{f("exited", "0"), ""},
		{f("before", "second"), "first"},
		{f("since", "second"), "third-one"},
		{f("network", "host"), "second"},
		{f("network", "none"), "third-one first"},
		{f("expose", "80"), "third-one"},
		{f("expose", "70-90/tcp"), "third-one"},
		{f("publish", "80"), ""},
		{f("volume", "/d"), "third-one"},
		{f("volume", "/s"), "third-one"},
		{f("is-task", "true"), ""},
		{f("health", "none"), "third-one second first"},
		{f("bogus", "x"), "Invalid filter 'bogus'"},
		{f("status", "up"), "Invalid filter 'status=up'"},
		{f("exited", "x"), "Invalid filter 'exited=x'"},
		{f("before", "nobody"), "No such container: nobody"},
	} {
		if got := names(x.o); got != x.want {
			t.Errorf("%+v: %q, want %q", x.o, got, x.want)
		}
	}
	for ref, want := range map[string]string{a: "first", "first": "first", "/first": "first", "b": "second", a[:63]: "Multiple IDs found with provided prefix: " + a[:63], "x": "No such container: x", "firs": "No such container: firs"} {
		got, err := s.Get(ref)
		if text := got.Name; err != nil && err.Error() != want || err == nil && text != want {
			t.Errorf("Get(%q) = %q, %v", ref, text, err)
		}
	}
}

func TestRecordRoundTrip(t *testing.T) {
	t.Parallel()
	now := time.Unix(1, 2).UTC()
	s := Snapshot{ID: "i", Name: "n", Created: now, Image: Image{ID: "sha256:x", Name: "img", ChainID: "sha256:y"}, Config: &api.Config{Cmd: []string{"x"}}, HostConfig: &api.HostConfig{},
		Path: "x", Args: []string{"y"}, Status: Exited, ExitCode: 7, OOMKilled: true, Error: "e", StartedAt: now, FinishedAt: now, RestartCount: 3}
	got, err := newRecord(&s, true).snapshot()
	if err != nil || !reflect.DeepEqual(got, s) {
		t.Errorf("%+v, %v", got, err)
	}
	r := newRecord(&s, false)
	r.V = recordVersion + 1
	if _, err := r.snapshot(); !errs.Conflict.Is(err) {
		t.Errorf("a newer record: %v", err)
	}
}

func TestJournal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	id := strings.Repeat("a", 64)
	j, err := begin(dir, intent{Op: opStart, ID: id})
	if err != nil {
		t.Fatal(err)
	}
	var did []string
	note := func(s string) func() { return func() { did = append(did, "undo "+s) } }
	err = j.run([]step{
		{"files", func() error { did = append(did, "files"); return nil }, note("files")},
		{"cgroup", func() error { return errs.Internal.Errorf("no") }, note("cgroup")},
		{"launch", func() error { did = append(did, "launch"); return nil }, note("launch")},
	})
	if err == nil || !slices.Equal(did, []string{"files", "undo cgroup", "undo files"}) {
		t.Errorf("%v, %v", err, did)
	}
	if all, err := leftovers(dir); err != nil || len(all) != 0 {
		t.Errorf("an undone operation left %v, %v", all, err)
	}
	if j, err = begin(dir, intent{Op: opCreate, ID: id}); err != nil {
		t.Fatal(err)
	}
	j.record("dir")
	if err := j.setAside(); err != nil {
		t.Fatal(err)
	}
	if j, err = begin(dir, intent{Op: opRemove, ID: id}); err != nil {
		t.Fatal(err)
	}
	j.record("mark")
	all, err := leftovers(dir)
	if err != nil || len(all) != 2 || !all[0].aside || !all[0].reached("dir") || all[1].Op != opRemove || all[1].reached("kill") {
		t.Errorf("%+v, %v", all, err)
	}
}

// FuzzUserText feeds what users write to its parsers: they refuse or understand, and stay in bounds.
func FuzzUserText(f *testing.F) {
	for _, s := range []string{"SIGRTMIN+3", "1.5 GiB", "name:[::1]", "0-3,7", "/name", "ctrl-p,x", "80-90/tcp"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if sig, err := ParseSignal(s); err == nil && (sig < 1 || sig > sigRTMax) {
			t.Errorf("ParseSignal(%q) = %d", s, sig)
		}
		if n, err := ParseSize(s); err == nil && n < 0 {
			t.Errorf("ParseSize(%q) = %d", s, n)
		}
		if h, err := parseExtraHost(s); err == nil && (!h.addr.IsValid() || strings.ContainsAny(h.name, " \n")) {
			t.Errorf("parseExtraHost(%q) = %+v", s, h)
		}
		if n, err := checkName(s); err == nil && !validName(n) {
			t.Errorf("checkName(%q) = %q", s, n)
		}
		_ = checkSet("mems", s)
		_, _ = parseDetachKeys(s)
		_, _ = portFilter("expose", []string{s})
	})
}

func TestEndedBy(t *testing.T) {
	t.Parallel()
	now := time.Unix(1700000000, 0)
	l := &live{Pid: 7, StartTime: 70, Started: now}
	for _, c := range []struct {
		what string
		e    supervisor.Exit
		want bool
	}{
		{"its own", supervisor.Exit{Pid: 7, StartTime: 70, At: now.Add(time.Second)}, true},
		{"its own, the clock was set back", supervisor.Exit{Pid: 7, StartTime: 70, At: now.Add(-time.Hour)}, true},
		{"of the run before", supervisor.Exit{Pid: 6, StartTime: 60, At: now.Add(-time.Second)}, false},
		{"of the run before, the clock was set back", supervisor.Exit{Pid: 6, StartTime: 60, At: now.Add(time.Hour)}, false},
		{"of the run before, the pid came again", supervisor.Exit{Pid: 7, StartTime: 60, At: now}, false},
		{"by an older supervisor", supervisor.Exit{At: now.Add(time.Second)}, true},
		{"of the run before, by an older supervisor", supervisor.Exit{At: now.Add(-time.Second)}, false},
	} {
		if got := l.endedBy(&c.e); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}
