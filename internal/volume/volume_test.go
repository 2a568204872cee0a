package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"gantry/internal/errs"
	kernelfs "gantry/internal/kernel/fs"
	"gantry/internal/kernel/quota"
	"gantry/internal/kernel/quota/quotatest"
	"gantry/internal/state"
)

type heard struct {
	mu  sync.Mutex
	all []string
}

func (h *heard) Volume(action, name string, attrs map[string]string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, action+" "+name)
}

// lab is a service that can be closed and opened again.
type lab struct {
	t             *testing.T
	root, volumes string
	st            *state.Store
	*Service
	heard *heard
}

func newLab(t *testing.T) *lab {
	t.Helper()
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	l := &lab{t: t, root: t.TempDir()}
	l.volumes = filepath.Join(l.root, "volumes")
	l.open()
	t.Cleanup(l.close)
	return l
}

// newLoopLab is a lab whose volumes lie on a file system of its own, made by mkfs.
func newLoopLab(t *testing.T, options string, mkfs ...string) *lab {
	t.Helper()
	l := newLab(t)
	l.close()
	l.volumes = filepath.Join(quotatest.Loop(t, options, mkfs...), "volumes")
	t.Cleanup(l.close) // before it is unmounted
	l.open()
	return l
}

// TestSizes holds volumes to a size on each file system that can. The kernel of most machines does not have all of them, that of
// test/vm has.
func TestSizes(t *testing.T) {
	for name, c := range map[string]struct {
		options string
		mkfs    []string
		shares  bool
	}{
		"btrfs": {"noatime", []string{"mkfs.btrfs", "-q"}, true},
		"ext4":  {"prjquota", []string{"mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota"}, false},
		"xfs":   {"prjquota", []string{"mkfs.xfs", "-q"}, true},
	} {
		t.Run(name, func(t *testing.T) { testSizes(t, newLoopLab(t, c.options, c.mkfs...), c.shares) })
	}
}

// TestSharedBlocks: on XFS, with or without quotas, copies share blocks.
func TestSharedBlocks(t *testing.T) {
	if os.Getenv("GANTRY_DISKS") != "" {
		t.Skip("TestSizes does")
	}
	l := newLoopLab(t, "noatime", "mkfs.xfs", "-q")
	l.create(Request{Name: "vv"})
	if err := os.WriteFile(l.data("vv")+"/big", bytes.Repeat([]byte("data"), 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	x, err := l.SnapshotCreate(t.Context(), "vv", "one")
	if err != nil || x.Shared != 4<<20 {
		t.Errorf("%+v, %v", x, err)
	}
}

// writeBig writes a file of so many MiB, each to the disk.
func writeBig(path string, mib int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for range mib {
		if _, err := f.Write(bytes.Repeat([]byte{1, 2, 3, 4}, 1<<18)); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return nil
}

// testSizes: a volume may have a size, which its clones have too, and its snapshots are not counted in.
func testSizes(t *testing.T, l *lab, shares bool) {
	ctx := t.Context()
	l.create(Request{Name: "small", Options: map[string]string{"size": "20m"}})
	write := func(name string, mib int) (err error) {
		quotatest.Unprivileged(t, func() { err = writeBig(l.data(name)+"/big", mib) })
		return err
	}
	shared := func(n int64) int64 {
		if shares {
			return n
		}
		return 0
	}
	if err := write("small", 12); err != nil { // more than half: there is no room for two of it
		t.Fatal(err)
	}
	x, err := l.SnapshotCreate(ctx, "small", "one")
	if err != nil || x.Bytes != 12<<20 || x.Shared != shared(x.Bytes) {
		t.Errorf("%+v, %v", x, err)
	}
	c, err := l.Clone(ctx, "small", "copy")
	if err != nil || c.Shared != shared(12<<20) {
		t.Errorf("%+v, %v", c, err)
	}
	for _, name := range []string{"small", "copy"} {
		if err := write(name, 40); !errors.Is(err, unix.EDQUOT) && !errors.Is(err, unix.ENOSPC) {
			t.Errorf("40 MiB into %s, whose size is 20: %v", name, err)
		}
	}
	if err := l.Restore(ctx, "small", "one"); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(l.data("small") + "/big"); err != nil || fi.Size() != 12<<20 {
		t.Error(fi, err)
	}
	if err := write("small", 40); !errors.Is(err, unix.EDQUOT) && !errors.Is(err, unix.ENOSPC) {
		t.Errorf("after a restore: %v", err)
	}
	// The content of an image fits, or nothing of it comes.
	l.create(Request{Name: "filled", Options: map[string]string{"size": "20m"}})
	if err := l.Fill(ctx, "c", "filled", l.tree(), "/data", true); err != nil {
		t.Error(err)
	}
	l.want("content", l.content("filled"), "f hard out sub")
	l.reopen()
	for _, n := range []string{"small", "copy", "filled"} {
		if err := l.Remove(ctx, n, false); err != nil {
			t.Error(err)
		}
	}
}

// On what these tests run, no directory can be limited.
func TestSizeIsRefused(t *testing.T) {
	l := newLab(t)
	if quota.Supported(l.Root) == nil {
		t.Skip("sizes are possible here")
	}
	_, err := l.Create(t.Context(), Request{Name: "small", Options: map[string]string{"size": "20m"}})
	if !errs.Invalid.Is(err) || !strings.Contains(err.Error(), "quota size requested but no quota support") {
		t.Error(err)
	}
	l.want("nothing is left", l.names(nil), "")
	l.create(Request{Name: "any", Options: map[string]string{"size": "0"}})
}

func (l *lab) open() {
	l.t.Helper()
	var err error
	if l.st, err = state.Open(filepath.Join(l.root, "state.db")); err != nil {
		l.t.Fatal(err)
	}
	l.heard = &heard{}
	if l.Service, err = Open(Options{Root: l.volumes, State: l.st, Events: l.heard, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) close() {
	if l.Service != nil {
		l.Service.Close()
		l.st.Close()
		l.Service = nil
	}
}

func (l *lab) reopen() { l.close(); l.open() }

func (l *lab) create(r Request) {
	l.t.Helper()
	if _, err := l.Create(l.t.Context(), r); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) hold(container string, names ...string) {
	l.t.Helper()
	for _, n := range names {
		if err := l.Hold(l.t.Context(), container, []Request{{Name: n}}, false); err != nil {
			l.t.Fatal(err)
		}
	}
}

func (l *lab) names(filters map[string][]string) string {
	l.t.Helper()
	list, err := l.List(filters)
	if err != nil {
		l.t.Fatal(err)
	}
	var names []string
	for _, v := range list {
		names = append(names, v.Name)
	}
	return strings.Join(names, " ")
}

func (l *lab) want(what, got, want string) {
	l.t.Helper()
	if got != want {
		l.t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// tree makes a directory that stands for an image's root, with content at /data.
func (l *lab) tree() func() (kernelfs.Root, error) {
	l.t.Helper()
	dir := l.t.TempDir()
	data := filepath.Join(dir, "data")
	for _, err := range []error{
		os.MkdirAll(filepath.Join(data, "sub"), 0o750), os.WriteFile(filepath.Join(data, "f"), []byte("f"), 0o640), os.Link(filepath.Join(data, "f"), filepath.Join(data, "hard")),
		os.Symlink("/etc/passwd", filepath.Join(data, "out")), os.Chown(filepath.Join(data, "f"), 12, 34), os.Chown(data, 56, 78), unix.Chmod(data, 0o1771),
		unix.Mkfifo(filepath.Join(data, "sub/fifo"), 0o600), os.Symlink("/data", filepath.Join(dir, "link")), os.WriteFile(filepath.Join(dir, "file"), nil, 0o600),
	} {
		if err != nil {
			l.t.Fatal(err)
		}
	}
	return func() (kernelfs.Root, error) { return kernelfs.OpenRoot(dir) }
}

func (l *lab) content(name string) string {
	l.t.Helper()
	entries, err := os.ReadDir(l.data(name))
	if err != nil {
		l.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestNames(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"ab", "A9", "a_b.c-d", strings.Repeat("x", 255)} {
		if err := checkName(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "a", ".", "..", "_data", ".removed", "a/b", "a b", "-x", "a\n", strings.Repeat("x", 256)} {
		if err := checkName(bad); !errs.Invalid.Is(err) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		o    map[string]string
		want string
	}{
		{nil, ""}, {map[string]string{"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}, ""},
		{map[string]string{"nosuch": "x"}, `invalid option: "nosuch"`}, {map[string]string{"type": "nfs"}, `missing required option: "device"`},
		{map[string]string{"size": "x"}, "invalid size: 'x'"},
	} {
		if err := checkOptions(c.o); (err == nil) != (c.want == "") || err != nil && err.Error() != c.want {
			t.Errorf("%v: %v", c.o, err)
		}
	}
	for _, c := range []struct {
		o    map[string]string
		want Source
	}{
		{nil, Source{Path: "/v/n/_data", Recursive: true}},
		{map[string]string{"type": "none", "device": "/d", "o": "bind,ro"}, Source{Path: "/d", Options: []string{"ro"}}},
		{map[string]string{"type": "none", "device": "/d", "o": "rbind"}, Source{Path: "/d", Recursive: true, Options: []string{}}},
		{map[string]string{"type": "nfs", "device": ":/x", "o": "addr=1.2.3.4, nolock"}, Source{Type: "nfs", Device: ":/x", Options: []string{"addr=1.2.3.4", "nolock"}}},
	} {
		got := (&record{Name: "n", Options: c.o}).source("/v/n/_data")
		if got.Path != c.want.Path || got.Type != c.want.Type || got.Device != c.want.Device || got.Recursive != c.want.Recursive || !slices.Equal(got.Options, c.want.Options) {
			t.Errorf("%v: %+v", c.o, got)
		}
	}
}

func TestNamesOfServersBecomeAddresses(t *testing.T) {
	t.Parallel()
	hosts := map[string]string{"files.lan": "192.0.2.7", "six.lan": "2001:db8::7"}
	lookup := func(_ context.Context, host string) (string, error) {
		if a := hosts[host]; a != "" {
			return a, nil
		}
		if _, err := netip.ParseAddr(host); err == nil {
			return host, nil
		}
		return "", fmt.Errorf("lookup %s: no such host", host)
	}
	for _, c := range []struct {
		kind, device, o string
		want            string // device, then options; or an error
	}{
		{"nfs", ":/export", "addr=files.lan,nolock,soft,rw", ":/export addr=192.0.2.7,nolock,soft,rw"},
		{"nfs4", ":/export", "rw,addr=six.lan", ":/export rw,addr=2001:db8::7"},
		{"nfs", "files.lan:/export", "addr=192.0.2.1,vers=4", "files.lan:/export addr=192.0.2.1,vers=4"},
		{"nfs", "files.lan:/export", "vers=4", "files.lan:/export vers=4"},
		{"nfs", ":/export", "addr=nosuch.lan", "lookup nosuch.lan: no such host"},
		{"cifs", "//files.lan/share/sub", "username=u,password=p", "//192.0.2.7/share/sub username=u,password=p"},
		{"cifs", "//files.lan/share", "addr=six.lan,username=u", "//files.lan/share addr=2001:db8::7,username=u"},
		{"cifs", "//nosuch.lan/share", "username=u", "lookup nosuch.lan: no such host"},
		{"cifs", "//192.0.2.9/share", "", "//192.0.2.9/share "},
		{"tmpfs", "tmpfs", "addr=files.lan", "tmpfs addr=files.lan"},
	} {
		src := (&record{Options: map[string]string{"type": c.kind, "device": c.device, "o": c.o}}).source("")
		err := src.resolve(t.Context(), lookup)
		got := src.Device + " " + strings.Join(src.Options, ",")
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s %s %s: %q, want %q", c.kind, c.device, c.o, got, c.want)
		}
	}
}

func TestLife(t *testing.T) {
	l := newLab(t)
	ctx := t.Context()
	l.create(Request{Name: "one", Labels: map[string]string{"a": "b"}})
	l.create(Request{Name: "two", Protected: true})
	l.create(Request{Name: "one", Labels: map[string]string{"other": "labels"}})
	anon, err := l.Create(ctx, Request{})
	if err != nil || len(anon.Name) != 64 {
		t.Fatal(anon, err)
	}
	l.hold("c1", "one", "three")
	l.want("all", l.names(nil), anon.Name+" one three two")
	l.reopen()
	l.Keep("c1", []string{"one", "three", "lost"})
	l.want("after a restart", l.names(nil), anon.Name+" one three two")
	l.want("by label", l.names(map[string][]string{"label": {"a=b"}}), "one")
	l.want("by name", l.names(map[string][]string{"name": {"thr"}}), "three")
	l.want("dangling", l.names(map[string][]string{"dangling": {"true"}}), anon.Name+" two")
	l.want("not dangling", l.names(map[string][]string{"dangling": {"0"}}), "one three")
	for _, c := range []struct {
		name  string
		force bool
		kind  errs.Kind
		want  string
	}{
		{"one", true, errs.Conflict, "remove one: volume is in use - [c1]"},
		{"two", true, errs.Conflict, "volume two is protected: `gantry volume update --protect=false two` lets it go"},
		{"nosuch", false, errs.NotFound, "get nosuch: no such volume"},
	} {
		if err := l.Remove(ctx, c.name, c.force); !c.kind.Is(err) || err.Error() != c.want {
			t.Errorf("%v", err)
		}
	}
	if err := l.Remove(ctx, "nosuch", true); err != nil {
		t.Error(err)
	}
	names, _, err := l.Prune(ctx, nil)
	l.want("pruned", strings.Join(names, " "), anon.Name)
	if err != nil {
		t.Error(err)
	}
	l.Release(ctx, "c1", []string{"three"})
	names, _, err = l.Prune(ctx, map[string][]string{"all": {"1"}, "label!": {"a"}})
	if err != nil || len(names) > 0 {
		t.Errorf("pruned %v, %v", names, err)
	}
	if err := l.Protect("two", false); err != nil {
		t.Error(err)
	}
	names, _, err = l.Prune(ctx, map[string][]string{"all": {"1"}})
	l.want("pruned", strings.Join(names, " "), "one two")
	if err != nil {
		t.Error(err)
	}
	l.reopen()
	l.want("in the end", l.names(nil), "")
	l.close()
	entries, _ := os.ReadDir(filepath.Join(l.root, "volumes"))
	if len(entries) != 1 || entries[0].Name() != ".removed" {
		t.Errorf("left: %v", entries)
	}
}

func TestForeignFoldersAreTakenIn(t *testing.T) {
	l := newLab(t)
	l.close()
	if err := os.MkdirAll(filepath.Join(l.root, "volumes/docker1/_data/x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(l.root, "volumes/backingFsBlockDev"), 0o755); err != nil { // holds no data
		t.Fatal(err)
	}
	l.open()
	l.want("taken in", l.names(nil), "docker1")
	l.want("content", l.content("docker1"), "x")
}

func TestFill(t *testing.T) {
	l := newLab(t)
	ctx, open := t.Context(), l.tree()
	l.hold("c1", "v1", "v2", "v3", "v4")
	fill := func(container, name, path string) error { return l.Fill(ctx, container, name, open, path, true) }
	if err := fill("c1", "v1", "/link"); err != nil { // links are followed inside the image
		t.Fatal(err)
	}
	l.want("content", l.content("v1"), "f hard out sub")
	var st, hard unix.Stat_t
	if err := unix.Stat(l.data("v1"), &st); err != nil || st.Uid != 56 || st.Gid != 78 || st.Mode&0o7777 != 0o1771 {
		t.Errorf("%v %+v", err, st)
	}
	unix.Stat(l.data("v1")+"/f", &st)
	unix.Stat(l.data("v1")+"/hard", &hard)
	if st.Uid != 12 || st.Mode&0o7777 != 0o640 || st.Ino != hard.Ino {
		t.Errorf("%+v", st)
	}
	if target, err := os.Readlink(l.data("v1") + "/out"); err != nil || target != "/etc/passwd" {
		t.Error(target, err)
	}
	os.Remove(l.data("v1") + "/f")
	if err := fill("c1", "v1", "/data"); err != nil {
		t.Fatal(err)
	}
	l.want("what is not empty stays", l.content("v1"), "hard out sub")
	if err := fill("c1", "v2", "/nosuch"); err != nil {
		t.Error(err)
	}
	if err := fill("c1", "v2", "/file"); err == nil || !strings.Contains(err.Error(), "cannot mount volume over existing file") {
		t.Error(err)
	}
	// Another container has it, and may have the directory open.
	l.hold("c2", "v3")
	dir, err := os.Open(l.data("v3"))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := fill("c1", "v3", "/data"); err != nil {
		t.Fatal(err)
	}
	if names, _ := dir.Readdirnames(-1); len(names) != 4 {
		t.Errorf("who had the directory sees %v", names)
	}
	if fi, _ := os.Stat(l.data("v3")); fi.Mode()&os.ModeSticky == 0 {
		t.Error(fi.Mode())
	}
	// Canceled halfway, it never was.
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if err := l.Fill(canceled, "c1", "v4", open, "/data", true); err == nil {
		t.Error("canceled, but filled")
	}
	l.want("v4", l.content("v4"), "")
}

// A crash while content goes into a directory that somebody has: the next engine carries on.
func TestPourIsCarriedOn(t *testing.T) {
	l := newLab(t)
	l.create(Request{Name: "v1"})
	v := l.vols["v1"]
	staged := filepath.Join(l.dir("v1"), fillDir)
	for _, err := range []error{os.Mkdir(staged, 0o700), os.WriteFile(staged+"/b", nil, 0o600), os.WriteFile(l.data("v1")+"/a", nil, 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	r := v.record
	r.Under = underFilling
	if err := l.put(&r); err != nil {
		t.Fatal(err)
	}
	l.reopen()
	l.want("content", l.content("v1"), "a b")
	if fi, err := os.Stat(l.data("v1")); err != nil || fi.Mode().Perm() != 0o700 {
		t.Error(fi.Mode(), err)
	}
	// Without the mark it was not complete: it goes.
	if err := os.Mkdir(staged, 0o700); err != nil {
		t.Fatal(err)
	}
	l.reopen()
	if _, err := os.Stat(staged); !os.IsNotExist(err) {
		t.Error("half a copy stayed:", err)
	}
}

func TestMountAndSharedTmpfs(t *testing.T) {
	l := newLab(t)
	ctx := t.Context()
	l.create(Request{Name: "tt", Options: map[string]string{"type": "tmpfs", "device": "tmpfs"}})
	l.hold("c1", "tt", "v1")
	l.hold("c2", "tt")
	src, err := l.Mount(ctx, "c1", []Use{{Name: "tt", Destination: "/t"}, {Name: "v1", Destination: "/v"}})
	if err != nil || src[0].Type != "tmpfs" || src[0].From != "" || src[1].Path != l.data("v1") {
		t.Fatal(src, err)
	}
	if src, err = l.Mount(ctx, "c2", []Use{{Name: "tt"}}); err != nil || src[0].From != "c1" {
		t.Fatal(src, err)
	}
	l.Unmount("c1")
	l.Unmount("c2")
	if src, err = l.Mount(ctx, "c1", []Use{{Name: "tt"}}); err != nil || src[0].From != "" {
		t.Fatal(src, err)
	}
	l.want("events", strings.Join(l.heard.all, ", "), "create tt, create v1, mount tt, mount v1, mount tt, unmount tt, unmount v1, unmount tt, mount tt")
}

// Many at once take, fill and release the same volumes.
func TestConcurrent(t *testing.T) {
	l := newLab(t)
	open := l.tree()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			c := "c" + string(rune('0'+i))
			for range 20 {
				if err := l.Hold(t.Context(), c, []Request{{Name: "shared", Anonymous: true}}, i%2 == 0); err != nil {
					t.Error(err)
					return
				}
				if err := l.Fill(t.Context(), c, "shared", open, "/data", false); err != nil {
					t.Error(err)
				}
				if got := l.content("shared"); got != "f hard out sub" {
					t.Errorf("content %q", got)
				}
				l.Release(t.Context(), c, []string{"shared"})
			}
		})
	}
	wg.Wait()
	l.reopen()
	l.want("in the end", l.names(nil), "")
}

// TestBoundFoldersAreFilled: a folder of the host that options bind gets the content of the image, all of it or none.
func TestBoundFoldersAreFilled(t *testing.T) {
	l := newLab(t)
	dir := t.TempDir()
	l.create(Request{Name: "bound", Options: map[string]string{"type": "none", "o": "bind", "device": dir}})
	l.hold("c1", "bound")
	names := func() string {
		t.Helper()
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var list []string
		for _, e := range entries {
			list = append(list, e.Name())
		}
		return strings.Join(list, " ")
	}
	if err := l.Fill(t.Context(), "c1", "bound", l.tree(), "/data", true); err != nil {
		t.Fatal(err)
	}
	l.want("content", names(), "f hard out sub")

	// A crash before all of it was there, and one while it was moved into its place.
	for _, under := range []string{"", underFilling} {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		for _, err := range []error{os.MkdirAll(filepath.Join(dir, boundFillDir), 0o755), os.WriteFile(filepath.Join(dir, boundFillDir, "second"), nil, 0o600)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		want := ""
		if under == underFilling {
			want = "first second"
			if err := os.WriteFile(filepath.Join(dir, "first"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.change(l.vols["bound"], func(r *record) { r.Under = under }); err != nil {
			t.Fatal(err)
		}
		l.reopen()
		l.want("after a crash", names(), want)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	l.reopen() // a folder that is gone stops nobody
	if err := l.Fill(t.Context(), "c1", "bound", l.tree(), "/data", true); err != nil {
		t.Error(err)
	}
	if err := l.Remove(t.Context(), "bound", false); err != nil {
		t.Error(err)
	}
}
