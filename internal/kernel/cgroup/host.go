package cgroup

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"gantry/internal/errs"

	"gantry/internal/kernel/mount"
)

// Kind says which versions of the interface a host has mounted.
type Kind uint8

const (
	// V1 is version 1 alone.
	V1 Kind = iota + 1
	// Hybrid is version 1 with a cgroup2 mount beside it.
	Hybrid
	// V2 is version 2 alone ("unified").
	V2
)

// String returns "v1", "hybrid" or "v2".
func (k Kind) String() string {
	switch k {
	case V1:
		return "v1"
	case Hybrid:
		return "hybrid"
	case V2:
		return "v2"
	}
	return "unknown"
}

// Version is the number that Docker's /info calls CgroupVersion: "1" for V1 and Hybrid, else "2".
func (k Kind) Version() string {
	if k == V2 {
		return "2"
	}
	return "1"
}

// systemd is the name of the version 1 hierarchy by which systemd follows its services. Containers leave
// their starter's group there too, lest stopping the service be taken for stopping them.
const systemd = "name=systemd"

// hierarchy is one mounted tree of groups.
type hierarchy struct {
	mount       string   // the mount point
	own         string   // this process's group, relative to mount, "/" at least
	controllers []string // of version 1: its controllers, or "name=systemd"; of version 2: cgroup.controllers
	unified     bool
}

// Host is what [Detect] found. Its methods may be called by many goroutines.
type Host struct {
	kind    Kind
	trees   []hierarchy
	unified int // index of the cgroup2 tree, or -1
	where   map[string]int
	support Support

	mu       sync.Mutex
	prepared map[string][]string // parents that exist and hand their controllers down → their directories
	filters  map[string]int      // device programs in use, by their instructions → fd
}

// Detect reads how this process sees control groups (proc_pid_mountinfo(5), cgroups(7)).
func Detect() (*Host, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("detect control groups: %w", err)
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("detect control groups: %w", err)
	}
	h, err := parseHost(mounts, own, visible)
	if err != nil {
		return nil, err
	}
	if h.unified >= 0 {
		t := &h.trees[h.unified]
		b, err := readFile(t.mount + "/cgroup.controllers")
		if err != nil {
			return nil, fmt.Errorf("detect control groups: %w", err)
		}
		t.controllers = strings.Fields(string(b))
		h.index()
	}
	h.support = h.probe()
	return h, nil
}

// visible reports whether a control group file system is at point indeed: mountinfo also lists mounts that a
// later one hides.
func visible(point string) bool {
	var st unix.Statfs_t
	if unix.Statfs(point, &st) != nil {
		return false
	}
	return st.Type == unix.CGROUP_SUPER_MAGIC || st.Type == unix.CGROUP2_SUPER_MAGIC
}

// parseHost builds a Host from the two files of /proc and a look at each mount point. The cgroup2 tree's
// controllers are not in them.
func parseHost(mountinfo, self []byte, visible func(point string) bool) (*Host, error) {
	own := parseSelf(self)
	h := &Host{unified: -1, prepared: map[string][]string{}, filters: map[string]int{}}
	seen := map[string]int{}
	for line := range bytes.Lines(mountinfo) {
		m, ok := mount.ParseInfo(string(line))
		if !ok {
			continue
		}
		key, t := "", hierarchy{mount: m.Point}
		switch m.FSType {
		case "cgroup2":
			t.unified = true
		case "cgroup":
			t.controllers = v1Controllers(m.Super)
			if len(t.controllers) == 0 {
				continue // a named hierarchy that is someone else's
			}
			key = strings.Join(t.controllers, ",")
		default:
			continue
		}
		if !visible(m.Point) {
			continue
		}
		t.own = relative(own[key], m.Root)
		if i, dup := seen[key]; dup {
			// Mounted more than once (inside chroots, by snaps): the usual place, else the first, wins.
			if !usualPlace(h.trees[i].mount) && usualPlace(t.mount) {
				h.trees[i] = t
			}
			continue
		}
		seen[key] = len(h.trees)
		h.trees = append(h.trees, t)
	}
	v1 := false
	for i, t := range h.trees {
		if t.unified {
			h.unified = i
		} else if t.controllers[0] != systemd {
			v1 = true
		}
	}
	switch {
	case v1 && h.unified >= 0:
		h.kind = Hybrid
	case v1:
		h.kind = V1
	case h.unified >= 0:
		h.kind = V2
	default:
		return nil, errs.Unavailable.Errorf("detect control groups: no cgroup or cgroup2 file system with controllers is mounted (see cgroups(7); usually at /sys/fs/cgroup)")
	}
	h.index()
	return h, nil
}

func (h *Host) index() {
	h.where = map[string]int{}
	if h.unified >= 0 {
		for _, c := range h.trees[h.unified].controllers {
			h.where[c] = h.unified
		}
	}
	for i, t := range h.trees {
		if !t.unified {
			for _, c := range t.controllers {
				h.where[c] = i
			}
		}
	}
	// The cgroup2 tree beside version 1 is not asked to hand controllers down: it has only what systemd
	// and the host's administrator left over, and no limit of Docker's is among that.
	if h.kind == Hybrid {
		for c, i := range h.where {
			if i == h.unified {
				delete(h.where, c)
			}
		}
	}
}

func usualPlace(mount string) bool { return strings.HasPrefix(mount, "/sys/fs/cgroup") }

var v1Known = []string{"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "hugetlb", "net_cls", "net_prio", "perf_event", "rdma", "misc"}

// v1Controllers picks the controllers out of super block options such as "rw,cpu,cpuacct", sorted.
func v1Controllers(super string) []string {
	var c []string
	for o := range strings.SplitSeq(super, ",") {
		if o == systemd || slices.Contains(v1Known, o) {
			c = append(c, o)
		}
	}
	slices.Sort(c)
	return slices.Compact(c)
}

// parseSelf reads /proc/self/cgroup: "ID:controllers:path" lines; version 2 has no controllers.
func parseSelf(b []byte) map[string]string {
	own := map[string]string{}
	for line := range bytes.Lines(b) {
		f := strings.SplitN(strings.TrimSuffix(string(line), "\n"), ":", 3)
		if len(f) != 3 || !strings.HasPrefix(f[2], "/") {
			continue
		}
		c := strings.Split(f[1], ",")
		slices.Sort(c)
		own[strings.Join(c, ",")] = strings.TrimSuffix(f[2], " (deleted)")
	}
	return own
}

// relative says where own lies below a mount whose root is root. In a container without a cgroup namespace
// both are host paths; a group outside of what is mounted can't be named, and the mount's top stands for it.
func relative(own, root string) string {
	own, root = path.Clean("/"+own), path.Clean("/"+root)
	if root == "/" {
		return own
	}
	if rest, ok := strings.CutPrefix(own, root); ok && (rest == "" || rest[0] == '/') {
		return path.Clean("/" + rest)
	}
	return "/"
}

// Kind says which versions are mounted.
func (h *Host) Kind() Kind { return h.kind }

// Support says what this host can limit.
func (h *Host) Support() Support { return h.support }
