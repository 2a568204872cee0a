package container

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/moby/moby/api/types/mount"

	"gantry/internal/errs"
	kernelmount "gantry/internal/kernel/mount"
	"gantry/internal/kernel/userns"
	"gantry/internal/runtime"
	"gantry/internal/runtime/spec"
)

// An idmapped bind (`-v .:/app:map`) makes the owner of the directory and the container's user stand for each other: what
// the container writes belongs to the person on the host, and what is the person's belongs to the container's user inside.

// checkMap refuses a word of -v that is neither "map" nor "map=uid[:gid]".
func checkMap(word string) error {
	_, _, _, err := parseMap(word)
	return err
}

// parseMap reads "map" or "map=uid[:gid]". given: the IDs are there; without a gid it is the uid.
func parseMap(word string) (uid, gid uint32, given bool, err error) {
	value, ok := strings.CutPrefix(word, "map=")
	if !ok {
		return 0, 0, false, nil
	}
	u, g, two := strings.Cut(value, ":")
	if !two {
		g = u
	}
	a, err1 := strconv.ParseUint(u, 10, 31)
	b, err2 := strconv.ParseUint(g, 10, 31)
	if err1 != nil || err2 != nil {
		return 0, 0, false, errs.Invalid.Errorf("invalid mode: %s: it is map or map=UID[:GID]", word)
	}
	return uint32(a), uint32(b), true, nil
}

// mapOwners makes the user namespaces of the container's idmapped binds, and puts them into sources. They are needed until the
// launch; done lets them go. The container's goroutine calls it.
func (c *container) mapOwners(sources map[string]runtime.Source) (done func(), err error) {
	var held []*userns.Namespace
	done = func() {
		for _, n := range held {
			n.Close()
		}
	}
	for _, m := range c.now.Mounts {
		word := c.now.MountOptions[m.Destination].Map
		if m.Type != mount.TypeBind || word == "" {
			continue
		}
		n, err := c.mapOwner(word, m.Source)
		if err != nil {
			done()
			return func() {}, errs.KindOf(err).Errorf("mount %s at %s: %w", m.Source, m.Destination, err)
		}
		if n != nil {
			held = append(held, n)
			sources[m.Destination] = runtime.Source{Path: m.Source, IDMap: &spec.Process{Pid: n.Pid, StartTime: n.StartTime}}
		}
	}
	return done, nil
}

// mapOwner returns the namespace for one directory; nil where owner and user are the same.
func (c *container) mapOwner(word, source string) (*userns.Namespace, error) {
	uid, gid, given, err := parseMap(word)
	if err != nil {
		return nil, err
	}
	if user := c.now.Config.User; !given && user != "" {
		root, err := c.mountFiles(true)
		if err != nil {
			return nil, err
		}
		u, g, err := ownerOf(root, user)
		root.Close()
		if err != nil {
			return nil, err
		}
		uid, gid = uint32(u), uint32(g)
	}
	fi, err := os.Stat(source)
	if err != nil {
		return nil, err
	}
	owner := fi.Sys().(*syscall.Stat_t)
	if owner.Uid == uid && owner.Gid == gid {
		return nil, nil
	}
	n, err := userns.New(userns.Swap(owner.Uid, uid), userns.Swap(owner.Gid, gid))
	if err != nil {
		return nil, err
	}
	// Tried here, for here it can be said what is wrong.
	ns, err := n.Open()
	if err == nil {
		err = kernelmount.TryIDMap(source, int(ns.Fd()))
		ns.Close()
	}
	if err == nil {
		return n, nil
	}
	n.Close()
	switch {
	case errors.Is(err, syscall.ENOSYS):
		return nil, errs.Invalid.Errorf("owners cannot be mapped: that needs Linux 5.12")
	case errors.Is(err, syscall.EINVAL):
		return nil, errs.Invalid.Errorf("owners cannot be mapped on its file system, %s: leave out \"map\", or run the container as the owner of the directory: --user %d:%d",
			fsType(source), owner.Uid, owner.Gid)
	}
	return nil, err
}

// fsType names the file system that path lies on, as /proc/self/mountinfo does; "unknown" if it does not tell.
func fsType(path string) string {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "unknown"
	}
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "unknown"
	}
	best, name := "", "unknown"
	for line := range strings.Lines(string(data)) {
		i, ok := kernelmount.ParseInfo(strings.TrimSuffix(line, "\n"))
		if ok && len(i.Point) >= len(best) && (i.Point == "/" || real == i.Point || strings.HasPrefix(real, i.Point+"/")) {
			best, name = i.Point, i.FSType
		}
	}
	return name
}
