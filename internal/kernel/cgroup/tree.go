package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"gantry/internal/errs"
)

// wanted are the version 2 controllers that limits here need. Each one handed down makes every group dearer.
var wanted = []string{"cpuset", "cpu", "io", "memory", "pids"}

// prepare makes parent where it is missing and has it hand its controllers down. That holds until someone
// removes the directories, which Create notices.
func (h *Host) prepare(parent string) error {
	dirs, err := h.locate(parent)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.prepared[parent]; ok {
		return nil
	}
	for i := range h.trees {
		t := &h.trees[i]
		from := t.mount
		if !strings.HasPrefix(parent, "/") {
			from = path.Join(t.mount, t.own) // what lies above is not ours to change
		}
		if err := h.prepareTree(t, from, dirs[i]); err != nil {
			return err
		}
	}
	h.prepared[parent] = h.emptyCpuset(dirs)
	return nil
}

func (h *Host) forget(parent string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.prepared, parent)
}

// prepareTree makes dir and the directories above it as far as at, which exists.
func (h *Host) prepareTree(t *hierarchy, at, dir string) error {
	rest := strings.TrimPrefix(strings.TrimPrefix(dir, at), "/")
	for {
		if t.unified && h.kind == V2 {
			if err := h.enable(t, at); err != nil {
				return err
			}
		}
		if rest == "" {
			return nil
		}
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		at = path.Join(at, name)
		err := mkdir(at)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err == nil && !t.unified && slices.Contains(t.controllers, "memory") {
			// Before 5.11 a group's limit does not hold for those below it unless told so; since then it always does.
			if err := writeFile(at+"/memory.use_hierarchy", "1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if slices.Contains(t.controllers, "cpuset") && !t.unified {
			if err == nil {
				// Groups below then begin with a copy of this one's CPUs and nodes instead of none at all:
				// two files for every container that need not be read and written.
				if err := writeFile(at+"/cgroup.clone_children", "1"); err != nil {
					return err
				}
			}
			if err := copyCpuset(path.Dir(at), at); err != nil {
				return err
			}
		}
	}
}

// emptyCpuset returns the cpuset directory among dirs if groups below it begin empty, so that each must be
// filled by hand; nil if they inherit.
func (h *Host) emptyCpuset(dirs []string) []string {
	i, ok := h.where["cpuset"]
	if !ok || h.trees[i].unified {
		return nil
	}
	if b, err := readFile(dirs[i] + "/cgroup.clone_children"); err == nil && strings.TrimSpace(string(b)) == "1" {
		return nil
	}
	return []string{dirs[i]}
}

// fillCpuset gives a new version 1 group its parent's CPUs and nodes; nothing can join a group that has none.
func (g *Group) fillCpuset(parent string) error {
	g.host.mu.Lock()
	from := g.host.prepared[parent]
	g.host.mu.Unlock()
	if len(from) == 0 {
		return nil
	}
	return copyCpuset(from[0], g.Path("cpuset"))
}

func copyCpuset(from, to string) error {
	for _, f := range []string{"/cpuset.cpus", "/cpuset.mems"} {
		have, err := readFile(to + f)
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(have)) != "" {
			continue
		}
		v, err := readFile(from + f)
		if err != nil {
			return err
		}
		if err := writeFile(to+f, strings.TrimSpace(string(v))); err != nil {
			return err
		}
	}
	return nil
}

// enable has the version 2 group dir hand down every controller in wanted that it has.
func (h *Host) enable(t *hierarchy, dir string) error {
	have, err := readFile(dir + "/cgroup.controllers")
	if err != nil {
		return err
	}
	given, err := readFile(dir + "/cgroup.subtree_control")
	if err != nil {
		return err
	}
	available, on := strings.Fields(string(have)), strings.Fields(string(given))
	var missing []string
	for _, c := range wanted {
		if slices.Contains(available, c) && !slices.Contains(on, c) {
			missing = append(missing, "+"+c)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	file := dir + "/cgroup.subtree_control"
	err = writeFile(file, strings.Join(missing, " "))
	if errors.Is(err, unix.EBUSY) {
		// Version 2's rule of no internal processes: a group either holds processes or hands controllers
		// down. Only the real root may do both, and a container's or a service's top is not it.
		if dir != path.Join(t.mount, t.own) {
			return errs.Conflict.Errorf("cgroup %s holds processes, so it cannot hand controllers down to groups below it (cgroups(7), \"no internal processes\"): choose another --cgroup-parent, or move its processes away: %w", dir, err)
		}
		if err = h.vacate(t, dir); err == nil {
			err = writeFile(file, strings.Join(missing, " "))
		}
	}
	if err == nil {
		return nil
	}
	// One of them may be refused alone: cpu, while a real-time process is somewhere below. Do without it, and
	// let the limit that needs it say so.
	var last error
	enabled := 0
	for _, m := range missing {
		if e := writeFile(file, m); e != nil {
			last = e
		} else {
			enabled++
		}
	}
	if enabled == 0 && last != nil {
		return last
	}
	return nil
}

// vacateTo is where the processes go that stood in the group this process started in.
const vacateTo = "gantry-host"

// vacate moves the processes of dir, this one's own group, into a group below it.
func (h *Host) vacate(t *hierarchy, dir string) error {
	leaf := path.Join(dir, vacateTo)
	if err := mkdir(leaf); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// Processes fork while they are moved, so until none is left; not forever, though.
	for range 20 {
		b, err := readFile(dir + "/cgroup.procs")
		if err != nil {
			return err
		}
		pids := strings.Fields(string(b))
		if len(pids) == 0 {
			t.own = path.Join(t.own, vacateTo)
			return nil
		}
		for _, pid := range pids {
			if pid == "0" {
				return errs.Conflict.Errorf("cgroup %s holds processes of another PID namespace, which cannot be moved out of the way", dir)
			}
			if err := writeFile(leaf+"/cgroup.procs", pid); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("move the processes of cgroup %s out of the way: %w", dir, err)
			}
		}
	}
	return errs.Unavailable.Errorf("move the processes of cgroup %s out of the way: new ones keep appearing", dir)
}

// maxDepth bounds the groups that a container may have nested in its own. A container that goes deeper keeps
// its groups; its files and processes are removed all the same.
const maxDepth = 200

// removeTree removes a directory and those below it, deepest first. What does not exist is removed already.
func removeTree(dir string) error {
	err := unix.Rmdir(dir)
	switch err {
	case nil, unix.ENOENT:
		return nil
	case unix.EBUSY, unix.ENOTEMPTY:
	default:
		return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	fd, err := openFile(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	err = removeBelow(fd, dir, 0)
	unix.Close(fd)
	if err != nil {
		return err
	}
	if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
		return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}

// removeBelow works relative to open directories, for a hostile container can nest beyond PATH_MAX.
func removeBelow(fd int, dir string, depth int) error {
	if depth == maxDepth {
		return fmt.Errorf("remove %s: groups are nested more than %d deep", dir, maxDepth)
	}
	var last error
	err := subdirs(fd, dir, func(name string) {
		if err := unix.Unlinkat(fd, name, unix.AT_REMOVEDIR); err == nil || err == unix.ENOENT {
			return
		}
		sub, err := openFileAt(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				last = err
			}
			return
		}
		err = removeBelow(sub, dir+"/"+name, depth+1)
		unix.Close(sub)
		if err == nil {
			if err = unix.Unlinkat(fd, name, unix.AT_REMOVEDIR); err != nil && err != unix.ENOENT {
				err = &fs.PathError{Op: "rmdir", Path: dir + "/" + name, Err: err}
			} else {
				err = nil
			}
		}
		if err != nil {
			last = err
		}
	})
	if err != nil {
		return err
	}
	return last
}

// subdirs calls f with the name of every directory in fd.
func subdirs(fd int, dir string, f func(name string)) error {
	var names []string
	buf := make([]byte, 8192)
	for {
		n, err := unix.ReadDirent(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil && err != unix.ENOENT {
			return &fs.PathError{Op: "readdir", Path: dir, Err: err}
		}
		if n <= 0 {
			break
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
	for _, name := range names {
		// Control files all have a dot in their names except version 1's tasks and release files; a look at
		// the rest costs one system call each.
		var st unix.Stat_t
		if unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			f(name)
		}
	}
	return nil
}
