package cgroup

import (
	"slices"
	"strings"
	"testing"

	"gantry/internal/errs"
)

const (
	hybridMounts = `22 1 254:0 / / rw,relatime - ext4 /dev/root rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
42 31 0:39 / /sys/fs/cgroup/elsewhere rw,relatime - cgroup cgroup rw,name=other
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`
	hybridSelf = "9:name=systemd:/user.slice\n8:pids:/\n5:devices:/\n4:memory:/api/bf17\n3:cpuset:/\n2:cpuacct,cpu:/a\n0::/u\n"

	v1Mounts = `30 24 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
31 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
90 24 0:27 / /chroot/sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
`
	v1Self = "2:memory:/\n1:cpu:/\n"

	v2Mounts = `24 23 0:22 / /mnt/old\040place rw - cgroup2 cgroup rw
25 23 0:22 / /sys/fs/cgroup rw,nosuid,nodev shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
`
	v2Self = "0::/system.slice/gantry.service\n"

	// A container without a cgroup namespace: the mount shows only its own part, the paths are the host's.
	boxedMounts = `640 630 0:29 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu
641 630 0:30 /docker/abc /sys/fs/cgroup/memory ro master:7 - cgroup cgroup rw,memory
`
	boxedSelf = "2:memory:/docker/abc/inner\n1:cpu:/docker/abcdef\n"
)

func all(string) bool { return true }

func TestParseHost(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, mounts, self string
		kind               Kind
		want               []string // mount own controllers
	}{
		{"hybrid", hybridMounts, hybridSelf, Hybrid, []string{
			"/sys/fs/cgroup/cpu,cpuacct /a cpu,cpuacct",
			"/sys/fs/cgroup/cpuset / cpuset",
			"/sys/fs/cgroup/memory /api/bf17 memory",
			"/sys/fs/cgroup/devices / devices",
			"/sys/fs/cgroup/pids / pids",
			"/sys/fs/cgroup/systemd /user.slice name=systemd",
			"/sys/fs/cgroup/unified /u unified",
		}},
		{"v1", v1Mounts, v1Self, V1, []string{"/sys/fs/cgroup/cpu / cpu", "/sys/fs/cgroup/memory / memory"}},
		{"v2", v2Mounts, v2Self, V2, []string{"/sys/fs/cgroup /system.slice/gantry.service unified"}},
		{"v2 with systemd's old hierarchy", v2Mounts + "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n", v2Self, V2, []string{
			"/sys/fs/cgroup /system.slice/gantry.service unified", "/sys/fs/cgroup/systemd / name=systemd",
		}},
		{"container", boxedMounts, boxedSelf, V1, []string{"/sys/fs/cgroup/cpu / cpu", "/sys/fs/cgroup/memory /inner memory"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, err := parseHost([]byte(c.mounts), []byte(c.self), all)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, tr := range h.trees {
				what := strings.Join(tr.controllers, ",")
				if tr.unified {
					what = "unified"
				}
				got = append(got, tr.mount+" "+tr.own+" "+what)
			}
			if h.kind != c.kind || !slices.Equal(got, c.want) {
				t.Errorf("got %v\n%s\nwant %v\n%s", h.kind, strings.Join(got, "\n"), c.kind, strings.Join(c.want, "\n"))
			}
		})
	}
	if _, err := parseHost([]byte("31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"), nil, all); !errs.Unavailable.Is(err) {
		t.Errorf("without control groups: got %v", err)
	}
}

func TestHiddenMountsAreIgnored(t *testing.T) {
	t.Parallel()
	// Version 2 at first, then version 1 mounted over it.
	h, err := parseHost([]byte(v2Mounts+v1Mounts), []byte(v1Self), func(p string) bool { return p != "/sys/fs/cgroup" && p != "/mnt/old place" })
	if err != nil || h.kind != V1 || h.unified != -1 {
		t.Errorf("got %v, %v", h, err)
	}
}

func TestLocate(t *testing.T) {
	t.Parallel()
	h, err := parseHost([]byte(hybridMounts), []byte(hybridSelf), all)
	if err != nil {
		t.Fatal(err)
	}
	memory := h.where["memory"]
	for parent, want := range map[string]string{
		"":               "/sys/fs/cgroup/memory/gantry",
		"/":              "/sys/fs/cgroup/memory",
		"/a/b/":          "/sys/fs/cgroup/memory/a/b",
		"foo":            "/sys/fs/cgroup/memory/api/bf17/foo",
		"/../../etc":     "/sys/fs/cgroup/memory/etc",
		"../../../../up": "/sys/fs/cgroup/memory/api/bf17/up",
	} {
		dirs, err := h.locate(parent)
		if err != nil {
			t.Fatal(err)
		}
		if dirs[memory] != want {
			t.Errorf("%q: got %s, want %s", parent, dirs[memory], want)
		}
	}
	for _, parent := range []string{"system.slice", "/a/machine.slice/b", "a\nb"} {
		if _, err := h.locate(parent); !errs.Invalid.Is(err) {
			t.Errorf("%q: got %v", parent, err)
		}
	}
	for _, id := range []string{"", ".", "..", "a/b", "x\n"} {
		if _, err := h.Open("/p", id); !errs.Invalid.Is(err) {
			t.Errorf("%q: got %v", id, err)
		}
	}
}

func TestOpenDirs(t *testing.T) {
	t.Parallel()
	h, err := parseHost([]byte(hybridMounts), []byte(hybridSelf), all)
	if err != nil {
		t.Fatal(err)
	}
	g, err := h.Open("/p", "x")
	if err != nil {
		t.Fatal(err)
	}
	again, err := h.OpenDirs(g.Dirs())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(again.dirs, g.dirs) {
		t.Errorf("got %v, want %v", again.dirs, g.dirs)
	}
	for _, d := range []string{"/etc", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/../../../etc"} {
		if _, err := h.OpenDirs([]string{d}); !errs.Invalid.Is(err) {
			t.Errorf("%s: got %v", d, err)
		}
	}
}

func TestJoinNamesEveryHierarchy(t *testing.T) {
	t.Parallel()
	h, err := parseHost([]byte(hybridMounts), []byte(hybridSelf), all)
	if err != nil {
		t.Fatal(err)
	}
	g, err := h.Open("/p", "x")
	if err != nil {
		t.Fatal(err)
	}
	g.pidsMax = "7"
	j := g.Join(h.Own())
	if j.Unified != "/sys/fs/cgroup/unified/p/x" || j.PidsMaxFile != "/sys/fs/cgroup/pids/p/x/pids.max" || j.PidsMax != "7" {
		t.Errorf("got %+v", j)
	}
	if len(j.Tasks) != 6 || len(j.Home) != 6 || j.Tasks[2] != "/sys/fs/cgroup/memory/p/x/tasks" || j.Home[2] != "/sys/fs/cgroup/memory/api/bf17/tasks" {
		t.Errorf("got %v and %v", j.Tasks, j.Home)
	}
}

func FuzzParseHost(f *testing.F) {
	for _, s := range [][2]string{{hybridMounts, hybridSelf}, {v1Mounts, v1Self}, {v2Mounts, v2Self}, {boxedMounts, boxedSelf}, {`1 2 3 / \04 \777 - cgroup2 x y`, "0::"}} {
		f.Add([]byte(s[0]), []byte(s[1]))
	}
	f.Fuzz(func(t *testing.T, mounts, self []byte) {
		h, err := parseHost(mounts, self, all)
		if err != nil {
			return
		}
		for _, tr := range h.trees {
			if !strings.HasPrefix(tr.own, "/") || strings.Contains(tr.own+"/", "/../") {
				t.Errorf("own group %q", tr.own)
			}
		}
		g, err := h.Open("/p", "x")
		if err != nil {
			t.Fatal(err)
		}
		g.Join(h.Own())
	})
}
