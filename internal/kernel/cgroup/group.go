package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/errs"
)

// DefaultParent is the parent of containers' groups where --cgroup-parent says nothing.
const DefaultParent = "/gantry"

// Group is one group: a directory in every hierarchy of its host. It holds no open files.
type Group struct {
	host *Host
	dirs []string // as host.trees; "" where the group does not exist in that hierarchy
	name string   // parent/id, for errors

	// Warnings says, in Docker's words, which limits the host could not set when the group was made.
	Warnings []string

	pidsMax string // for Join: a limit that is too low to be set already
}

// Join tells how to fork a process into a group. It has the fields of spec.Cgroup, so that one converts to the
// other; this package does not import package spec, which lies above it.
type Join struct {
	Unified     string   // the cgroup2 directory, for CLONE_INTO_CGROUP
	Tasks       []string // version 1 `tasks` files, into which the forking thread writes "0"
	Home        []string // the `tasks` files that bring it back
	PidsMaxFile string   // to be written when init is about to exec: its own threads need more
	PidsMax     string
}

// Create makes the group id below parent and limits it to r, before anything can run in it. On failure nothing
// of it is left. A group of that name which a crash left behind empty is replaced; one with processes is
// errs.Conflict.
//
// parent is Docker's --cgroup-parent with its cgroupfs driver: with a leading slash it counts from the top of
// every hierarchy; without, from the group of this process. "" is [DefaultParent].
func (h *Host) Create(parent, id string, r Resources) (*Group, error) {
	return h.CreateFor(parent, id, r, func(*Group) {})
}

// CreateFor is Create that calls born as soon as a process can be born into the group's cgroup2 directory as its Join says, before
// any limit is set: what starts there must not go on to anything of the container's until CreateFor has returned. If it fails
// after that, the directory in which something was born is the caller's to empty and remove.
func (h *Host) CreateFor(parent, id string, r Resources, born func(*Group)) (*Group, error) {
	r, warnings, err := h.Check(r)
	if err != nil {
		return nil, err
	}
	g, err := h.Open(parent, id)
	if err != nil {
		return nil, err
	}
	g.Warnings = warnings
	if _, ok := h.where["pids"]; ok && r.PidsLimit > 0 && r.PidsLimit < lowPids {
		g.pidsMax = numOrMax(r.PidsLimit)
	}
	called := false
	err = h.make(g, parent, false, func() {
		if !called { // make may begin anew
			called = true
			born(g)
		}
	})
	if err == nil {
		if err = g.limit(r); err != nil {
			_ = g.remove(0)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("create cgroup: %w", err)
	}
	return g, nil
}

// CreatePlain makes a group without limits or device filter, for Gantry's own processes; name is a path as
// Create's parent. A group that exists is returned as it is.
func (h *Host) CreatePlain(name string) (*Group, error) {
	parent := path.Dir(name)
	g, err := h.Open(parent, path.Base(name))
	if err != nil {
		return nil, err
	}
	if err := h.make(g, parent, true, func() {}); err != nil {
		return nil, fmt.Errorf("create cgroup: %w", err)
	}
	return g, nil
}

// Open returns the group id below parent as Create names it, which a daemon before this one made. It need not
// exist (any more), and Remove of what does not exist succeeds.
func (h *Host) Open(parent, id string) (*Group, error) {
	dirs, err := h.locate(parent)
	if err != nil {
		return nil, err
	}
	if err := checkID(id); err != nil {
		return nil, err
	}
	g := &Group{host: h, dirs: make([]string, len(dirs)), name: path.Join(parent, id)}
	for i, d := range dirs {
		g.dirs[i] = d + "/" + id
	}
	return g, nil
}

// OpenDirs returns the group whose directories [Group.Dirs] told. It serves groups below a relative parent,
// which [Host.Open] finds only while the daemon runs in the group it ran in then.
func (h *Host) OpenDirs(dirs []string) (*Group, error) {
	g := &Group{host: h, dirs: make([]string, len(h.trees))}
	for _, d := range dirs {
		c := path.Clean(d)
		best := -1
		for i, t := range h.trees {
			if strings.HasPrefix(c, t.mount+"/") && (best < 0 || len(t.mount) > len(h.trees[best].mount)) {
				best = i
			}
		}
		if best < 0 {
			return nil, errs.Invalid.Errorf("open cgroup: %s is in no control group hierarchy of this host", d)
		}
		g.dirs[best], g.name = c, strings.TrimPrefix(c, h.trees[best].mount)
	}
	return g, nil
}

// Own returns the group that this process was in when it called Detect: home for what it forks elsewhere.
func (h *Host) Own() *Group {
	h.mu.Lock()
	defer h.mu.Unlock()
	g := &Group{host: h, name: "own", dirs: make([]string, len(h.trees))}
	for i, t := range h.trees {
		g.dirs[i] = path.Join(t.mount, t.own)
	}
	return g
}

// Dirs returns the group's directories, one a hierarchy.
func (g *Group) Dirs() []string {
	var out []string
	for _, d := range g.dirs {
		if d != "" {
			out = append(out, d)
		}
	}
	return out
}

// Path returns the group's directory of the given controller, or of the cgroup2 hierarchy for "". It is ""
// where the host has none.
func (g *Group) Path(controller string) string {
	i := g.host.unified
	if controller != "" {
		var ok bool
		if i, ok = g.host.where[controller]; !ok {
			return ""
		}
	}
	if i < 0 {
		return ""
	}
	return g.dirs[i]
}

// Join returns what a supervisor, itself in home, needs to fork a process into g. PidsMax is only set on
// the Group that Create returned: a process that is added later (an exec) finds the limit in place.
func (g *Group) Join(home *Group) Join {
	var j Join
	for i, t := range g.host.trees {
		switch {
		case g.dirs[i] == "":
		case t.unified:
			j.Unified = g.dirs[i]
		default:
			j.Tasks = append(j.Tasks, g.dirs[i]+"/tasks")
			j.Home = append(j.Home, home.dirs[i]+"/tasks")
		}
	}
	if g.pidsMax != "" {
		j.PidsMaxFile, j.PidsMax = g.Path("pids")+"/pids.max", g.pidsMax
	}
	return j
}

func checkID(id string) error {
	if id == "" || id == "." || id == ".." || len(id) > 255 || strings.ContainsAny(id, "/\n\x00") {
		return errs.Invalid.Errorf("invalid cgroup name %q", id)
	}
	return nil
}

// locate returns parent's directory in each hierarchy.
func (h *Host) locate(parent string) (dirs []string, err error) {
	if parent == "" {
		parent = DefaultParent
	}
	if strings.ContainsAny(parent, "\n\x00") || len(parent) > 2048 {
		return nil, errs.Invalid.Errorf("invalid cgroup parent %q", parent)
	}
	for c := range strings.SplitSeq(parent, "/") {
		if strings.HasSuffix(c, ".slice") {
			return nil, errs.Invalid.Errorf("cgroup parent %q names a systemd slice, and systemd alone may put groups there: the cgroup driver here is cgroupfs, give a path such as %q",
				parent, "/"+strings.TrimSuffix(path.Base(c), ".slice"))
		}
	}
	clean := path.Clean("/" + parent) // confines ".." to the top
	h.mu.Lock()
	defer h.mu.Unlock()
	dirs = make([]string, len(h.trees))
	for i, t := range h.trees {
		base := t.mount
		if !strings.HasPrefix(parent, "/") {
			base = path.Join(t.mount, t.own)
		}
		dirs[i] = path.Join(base, clean)
	}
	return dirs, nil
}

// make makes the directories of g, which is below parent. keep says that one that exists is as good. born is called when the one of
// version 2 is there, or is not to be.
func (h *Host) make(g *Group, parent string, keep bool, born func()) error {
	if parent == "" {
		parent = DefaultParent
	}
	if err := h.prepare(parent); err != nil {
		return err
	}
	err := g.mkdirs(keep, born)
	if errors.Is(err, fs.ErrNotExist) {
		// Someone removed the parent since it was prepared.
		h.forget(parent)
		if err = h.prepare(parent); err == nil {
			err = g.mkdirs(keep, born)
		}
	}
	if err != nil {
		return err
	}
	if err := g.fillCpuset(parent); err != nil {
		if !keep {
			_ = g.remove(0)
		}
		return err
	}
	return nil
}

func (g *Group) mkdirs(keep bool, born func()) (err error) {
	made := make([]string, 0, len(g.dirs))
	defer func() {
		if err != nil {
			for _, d := range made {
				_ = removeTree(d)
			}
		}
	}()
	mk := func(d string) error {
		err := mkdir(d)
		if errors.Is(err, fs.ErrExist) {
			if keep {
				return nil
			}
			if rmErr := removeTree(d); rmErr != nil {
				return errs.Conflict.Errorf("cgroup %s exists and is in use: %w", d, rmErr)
			}
			err = mkdir(d)
		}
		if err == nil {
			made = append(made, d)
		}
		return err
	}
	unified := g.host.unified
	if unified >= 0 {
		if err := mk(g.dirs[unified]); err != nil {
			return err
		}
	}
	born()
	for i, d := range g.dirs {
		if i == unified {
			continue
		}
		if err := mk(d); err != nil {
			return err
		}
	}
	return nil
}

// limit writes r into a group that is new and empty.
func (g *Group) limit(r Resources) error {
	if err := g.apply(r, false); err != nil {
		return err
	}
	devices := r.Devices
	if devices == nil {
		devices = DefaultDevices()
	}
	return g.setDevices(devices)
}

// plan splits what r asks for by the version that each controller has here.
func (h *Host) plan(r Resources) []write {
	var p []write
	if h.kind != V2 {
		p = planV1(r)
	} else {
		p = planV2(r)
	}
	kept := p[:0]
	for _, w := range p {
		if _, ok := h.where[w.controller]; ok {
			kept = append(kept, w)
		}
	}
	return kept
}

// lowPids is more than init has threads; see package spec.
const lowPids = 32

func (g *Group) apply(r Resources, update bool) error {
	var again []write
	late := g.pidsMax != "" && !update
	for _, w := range g.host.plan(r) {
		if late && w.file == "pids.max" {
			continue
		}
		err := g.write(&w)
		if update && g.host.kind != V2 && errors.Is(err, unix.EINVAL) {
			// Two files bound each other (limit and memsw, period and quota), and here the other has to move first.
			again = append(again, w)
		} else if err != nil {
			return err
		}
	}
	for _, w := range again {
		if err := g.write(&w); err != nil {
			return err
		}
	}
	if _, ok := g.host.where["pids"]; ok && !late && r.PidsLimit != 0 && g.host.kind != V2 {
		return writeFile(g.Path("pids")+"/pids.max", numOrMax(r.PidsLimit))
	}
	return nil
}

func (g *Group) write(w *write) error {
	dir := g.Path(w.controller)
	err := writeFile(dir+"/"+w.file, w.values...)
	if errors.Is(err, fs.ErrNotExist) && w.alt != nil {
		err = writeFile(dir+"/"+w.alt.file, w.alt.values...)
	}
	if errors.Is(err, fs.ErrNotExist) && w.warning != "" {
		if w.warning != silently {
			g.Warnings = append(g.Warnings, w.warning)
		}
		return nil
	}
	return explain(w, err)
}

// explain gives the errors that users meet a cause.
func explain(w *write, err error) error {
	switch {
	case err == nil:
		return nil
	case w.file == "memory.limit_in_bytes" && errors.Is(err, unix.EBUSY):
		return errs.Conflict.Errorf("the memory in use exceeds the new limit: %w", err)
	case strings.HasPrefix(w.file, "cpuset.") && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ERANGE)):
		return errs.Invalid.Errorf("Requested CPUs or memory nodes are not available - requested %s: %w", w.values[0], err)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ERANGE):
		return errs.Invalid.Wrap(err)
	case errors.Is(err, fs.ErrNotExist):
		return errs.Unavailable.Errorf("the %s controller is not handed down to this cgroup: %w", w.controller, err)
	}
	return err
}

// Update changes the limits of a living group. r is the whole new set (old limits with the changes merged
// in), of which zero fields are left as they are; Devices is ignored. [Group.Warnings] gets new warnings.
func (g *Group) Update(r Resources) error {
	r, warnings, err := g.host.Check(r)
	if err != nil {
		return err
	}
	g.Warnings = warnings
	if err := g.apply(r, true); err != nil {
		return fmt.Errorf("update cgroup: %w", err)
	}
	return nil
}

// removeWait bounds Remove. What it waits for is the kernel's last work on processes that have been reaped, or
// killed and not reaped yet, some milliseconds; under memory pressure seconds have been seen.
const removeWait = 5 * time.Second

// Remove removes the group and those that its processes made below it. It may be called again, and of a group
// that is gone. While processes live in it, it fails with errs.Conflict after some seconds.
func (g *Group) Remove() error {
	if err := g.remove(removeWait); err != nil {
		return fmt.Errorf("remove cgroup %s: %w", g.name, err)
	}
	return nil
}

func (g *Group) remove(wait time.Duration) error {
	deadline := time.Now().Add(wait)
	pause := 500 * time.Microsecond
	for {
		var last error
		for _, d := range g.dirs {
			if d == "" {
				continue
			}
			if err := removeTree(d); err != nil {
				last = err
			}
		}
		if last == nil || !errors.Is(last, unix.EBUSY) {
			return last
		}
		if !time.Now().Before(deadline) {
			return errs.Conflict.Wrap(last)
		}
		time.Sleep(pause)
		pause = min(2*pause, 50*time.Millisecond)
	}
}
