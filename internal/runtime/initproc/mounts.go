package initproc

import (
	"errors"
	"strconv"
	"strings"

	"gantry/internal/kernel/fs"
	"gantry/internal/kernel/mount"
	"gantry/internal/runtime/spec"

	"golang.org/x/sys/unix"
)

const (
	sysfsMagic  = unix.SYSFS_MAGIC
	devptsMagic = unix.DEVPTS_SUPER_MAGIC
)

func (l *launch) mountAll() error {
	for i := range l.spec.Mounts {
		m := &l.spec.Mounts[i]
		if err := l.mount(m); err != nil {
			source := m.Source
			if source == "" {
				source = m.Type
			}
			return explain("mount "+m.Target, `error mounting "`+source+`" to rootfs at "`+m.Target+`"`, err)
		}
	}
	return nil
}

func (l *launch) mount(m *spec.Mount) error {
	o := mount.Parse(m.Options)
	o.CopyUp = o.CopyUp || m.CopyContent
	if err := guardProc(m); err != nil {
		return err
	}
	switch {
	case o.Remount:
		return l.remount(m, o)
	case m.Type == "bind" || o.Bind || m.Subpath != "":
		return l.bind(m, o)
	}
	target, err := l.target(m, true)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	var fd int
	if m.Type == "proc" && l.joined != nil {
		fd, err = l.joined.mountProc(o)
	} else {
		fd, err = mount.New(m.Type, source(m), o)
	}
	if err == unix.EPERM && m.Type == "sysfs" {
		// In a user namespace that does not own the network namespace: the host's, read-only.
		if fd, err = mount.Clone(unix.AT_FDCWD, "/sys", true); err == nil {
			err = setAttr(fd, o.Set|unix.MOUNT_ATTR_RDONLY, 0, true)
		}
	}
	if err != nil {
		return err
	}
	if o.CopyUp {
		if err := copyUp(target, fd); err != nil {
			unix.Close(fd)
			return explain("mount "+m.Target, "copy the content of "+m.Target, err)
		}
	}
	err = l.attach(m.Target, fd, target, o)
	l.ownProc = l.ownProc || m.Type == "proc" && m.Target == "/proc" && l.joined == nil
	l.fresh[m.Target] = err == nil && m.Type == "tmpfs" && !o.CopyUp
	return err
}

func source(m *spec.Mount) string {
	if m.Source != "" {
		return m.Source
	}
	return m.Type
}

// target opens the directory or file to mount on. What lies on procfs is refused here too, for links may lead
// there: guardProc knows only names.
func (l *launch) target(m *spec.Mount, dir bool) (int, error) {
	fd, err := l.openTarget(m, dir)
	if err != nil {
		return -1, err
	}
	if t, err := fs.Type(fd); err != nil || t == unix.PROC_SUPER_MAGIC && !isOverProc(m.Target) {
		unix.Close(fd)
		return -1, insideProc(m)
	}
	return fd, nil
}

func (l *launch) openTarget(m *spec.Mount, dir bool) (int, error) {
	// Below a file system that was made by init and that nobody else has seen yet, there are no links.
	if parent, name := fs.Split(m.Target); dir && l.fresh[strings.TrimSuffix(parent, "/")] {
		at := l.mounted[strings.TrimSuffix(parent, "/")]
		if err := unix.Mkdirat(at, name, 0o755); err == nil || err == unix.EEXIST {
			return unix.Openat(at, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		}
	}
	switch m.Type {
	case "proc", "sysfs":
		// An image whose /proc is a link elsewhere would have it mounted where it is not masked.
		fd, err := l.root.OpenStrict(m.Target, unix.O_PATH|unix.O_DIRECTORY, 0)
		if errors.Is(err, unix.ENOENT) {
			if fd, err = l.root.MkdirAll(m.Target, 0o755); err == nil {
				unix.Close(fd)
				fd, err = l.root.OpenStrict(m.Target, unix.O_PATH|unix.O_DIRECTORY, 0)
			}
		}
		if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
			return -1, errors.New(`filesystem "` + m.Type + `" must be mounted on ordinary directory`)
		}
		return fd, err
	}
	if dir {
		return l.root.MkdirAll(m.Target, 0o755)
	}
	return l.root.CreateFile(m.Target, 0o755)
}

// attach puts the mount fd onto target and remembers it.
func (l *launch) attach(path string, fd, target int, o mount.Options) error {
	if err := mount.Attach(fd, target); err != nil {
		return err
	}
	if o.Propagation != 0 {
		if err := setPropagation(fd, o.Propagation, o.PropRec); err != nil {
			return err
		}
	}
	delete(l.fresh, path)
	l.ownProc = l.ownProc && path != "/proc"
	if old, ok := l.mounted[path]; ok {
		unix.Close(old)
	}
	l.mounted[path] = fd
	return nil
}

func (l *launch) bind(m *spec.Mount, o mount.Options) error {
	fd, err := l.openSource(m, o)
	if err != nil {
		return err
	}
	if m.IDMap != nil {
		if err := mapOwners(fd, *m.IDMap, o.Recursive); err != nil {
			return err
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if m.Target == "/proc" {
		if t, err := fs.Type(fd); err != nil || t != unix.PROC_SUPER_MAGIC {
			return errors.New("\"/proc\" cannot be mounted because it is not of type proc")
		}
	}
	target, err := l.target(m, st.Mode&unix.S_IFMT == unix.S_IFDIR)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	var ts unix.Stat_t
	if err := unix.Fstat(target, &ts); err == nil && (st.Mode&unix.S_IFMT == unix.S_IFDIR) != (ts.Mode&unix.S_IFMT == unix.S_IFDIR) {
		return errors.New("not a directory: Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host path exists and is the expected type")
	}
	// The clone shares the propagation of its source. It must be private before anything is seen of it.
	if o.Propagation == 0 {
		o.Propagation, o.PropRec = unix.MS_PRIVATE, true
	}
	if l.mountSetattr() {
		if o.RecSet != 0 {
			if err := mount.SetAttr(fd, o.RecSet, 0, 0, true); err != nil {
				return err
			}
		}
		if err := mount.SetAttr(fd, o.Set, o.Clear, 0, false); err != nil {
			return err
		}
		if err := mount.SetAttr(fd, 0, 0, o.Propagation, o.PropRec); err != nil {
			return err
		}
		o.Propagation = 0
		return l.attach(m.Target, fd, target, o)
	}
	if err := l.attach(m.Target, fd, target, o); err != nil {
		return err
	}
	if o.Set|o.Clear == 0 {
		return nil
	}
	return setAttr(fd, o.Set, o.Clear, false)
}

// openSource makes a detached copy of what is to be bound.
func (l *launch) openSource(m *spec.Mount, o mount.Options) (int, error) {
	recursive := o.Recursive
	switch {
	case m.Of != nil:
	case m.Root != nil:
		return l.openInside(m.Root, m.Source)
	case m.Type != "bind" && !o.Bind:
		fd, err := mount.New(m.Type, source(m), o)
		if err != nil {
			return -1, err
		}
		defer unix.Close(fd)
		// Only what is in the mount namespace can be cloned in part (open_tree(2)): it is there for a moment, on top of the
		// root, whose descriptor still leads to what is below.
		if err := mount.Attach(fd, l.root.Fd()); err != nil {
			return -1, err
		}
		defer unix.Unmount(fdPath(fd), unix.MNT_DETACH)
		return clonePart(fs.RootAt(fd), m.Subpath, false)
	case m.Subpath != "":
		dir, err := fs.OpenRoot(m.Source)
		if err != nil {
			return -1, err
		}
		defer dir.Close()
		return clonePart(dir, m.Subpath, recursive)
	default:
		return mount.Clone(unix.AT_FDCWD, m.Source, recursive)
	}
	dir, err := openProcess(*m.Of)
	if err != nil {
		return -1, err
	}
	defer unix.Close(dir)
	return cloneFrom(dir, m.Source, m.Subpath, recursive)
}

// clonePart makes a detached copy of what is at subpath below root. Links on the way are followed inside root: whoever
// can write a volume must not lead a mount out of it.
func clonePart(root fs.Root, subpath string, recursive bool) (int, error) {
	fd, err := root.Open("/"+subpath, unix.O_PATH, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fd)
	return mount.Clone(fd, "", recursive)
}

// mapOwners has the files of the detached mount fd seen through the user namespace of a process.
func mapOwners(fd int, p spec.Process, recursive bool) error {
	dir, err := openProcess(p)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	ns, err := unix.Openat(dir, "ns/user", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(ns)
	return mount.SetIDMap(fd, ns, recursive)
}

// openInside makes a detached copy of a part of another file system, whose links are followed inside it.
func (l *launch) openInside(r *spec.Root, path string) (int, error) {
	var root fs.Root
	var err error
	if r.Dir != "" {
		root, err = fs.OpenRoot(r.Dir)
	} else {
		var fd int
		if fd, err = l.mountOverlay(r); err == nil {
			// What is on the target below, the container's own root perhaps, must not stay covered.
			defer unix.Unmount(r.Target, unix.MNT_DETACH)
		}
		root = fs.RootAt(fd)
	}
	if err != nil {
		return -1, err
	}
	defer root.Close()
	return clonePart(root, path, false)
}

// cloneFrom makes a detached copy of the mount at path in the mount namespace of the process whose directory in
// /proc is dir. That is only allowed from within; the main thread goes there and back, for which it needs a
// root and a working directory that it shares with no other thread (setns(2)).
func cloneFrom(dir int, path, subpath string, recursive bool) (int, error) {
	own, err := unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(own)
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return -1, err
	}
	if err := setnsAt(dir, "mnt", unix.CLONE_NEWNS); err != nil {
		return -1, err
	}
	// The other container may have links on the way: resolve below its root, then copy what was found.
	fd, err := fs.RootAt(unix.AT_FDCWD).Open(path, unix.O_PATH, 0)
	tree := -1
	if err == nil {
		tree, err = clonePart(fs.RootAt(fd), subpath, recursive)
		unix.Close(fd)
	}
	if back := unix.Setns(own, unix.CLONE_NEWNS); back != nil {
		return -1, back
	}
	return tree, err
}

// remount changes the flags of what is mounted at the target already.
func (l *launch) remount(m *spec.Mount, o mount.Options) error {
	fd, ok := l.mounted[m.Target]
	if !ok {
		return errors.New("nothing is mounted there")
	}
	return setAttr(fd, o.Set, o.Clear, false)
}

// overProc are the files of procfs that may be mounted over: those by which tools like lxcfs give a container
// its own numbers. Anything else would undo the masks or redirect the writes of privileged processes.
var overProc = []string{
	"/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps", "/proc/uptime", "/proc/loadavg",
	"/proc/slabinfo", "/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled", "/proc/net/dev",
}

// guardProc refuses mounts over parts of /proc, and anything but procfs on /proc itself.
func guardProc(m *spec.Mount) error {
	if m.Target == "/proc" {
		if m.Type == "proc" || m.Type == "bind" { // the source of a bind is checked once it is open
			return nil
		}
		return errors.New("\"/proc\" cannot be mounted because it is not of type proc")
	}
	if !strings.HasPrefix(m.Target, "/proc/") {
		return nil
	}
	if isOverProc(m.Target) {
		return nil
	}
	return insideProc(m)
}

func isOverProc(path string) bool {
	for _, p := range overProc {
		if path == p {
			return true
		}
	}
	return false
}

func insideProc(m *spec.Mount) error {
	return errors.New("\"" + m.Target + "\" cannot be mounted because it is inside /proc")
}

// hide applies the masked and the read-only paths.
func (l *launch) hide() error {
	for _, path := range l.spec.ReadOnly {
		if err := l.readOnly(path); err != nil {
			return explain("readonly path", "make "+path+" read-only", err)
		}
	}
	// The container's own null device, where it is one: a mount of the host's would show in its mount table.
	if dev, ok := l.mounted["/dev"]; ok {
		if fd, err := unix.Openat(dev, "null", unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err == nil && isDevice(fd, unix.S_IFCHR, 1, 3) {
			unix.Close(l.null)
			l.null = fd
		}
	}
	empty := -1
	for _, path := range l.spec.Masked {
		var err error
		if empty, err = l.mask(path, empty); err != nil {
			return explain("masked path", "mask "+path, err)
		}
	}
	if empty >= 0 {
		unix.Close(empty)
	}
	return nil
}

// openKernel opens a path to be masked or made read-only. Those below /proc and /sys must really lie on
// procfs and sysfs: were something else mounted there, the real file would stay reachable (CVE-2025-31133).
func (l *launch) openKernel(path string) (int, error) {
	fd, err := l.root.Open(path, unix.O_PATH, 0)
	if err != nil {
		return -1, err
	}
	var want int64
	switch {
	case strings.HasPrefix(path, "/proc/"):
		want = unix.PROC_SUPER_MAGIC
	case strings.HasPrefix(path, "/sys/"):
		want = sysfsMagic
	default:
		return fd, nil
	}
	if t, err := fs.Type(fd); err != nil || t != want && !l.isTarget(path) {
		unix.Close(fd)
		return -1, errors.New("it does not lie on the file system of the kernel that belongs there")
	}
	return fd, nil
}

// isTarget reports whether something is mounted at or above path (below /proc or /sys) because the spec says so.
func (l *launch) isTarget(path string) bool {
	for t := range l.mounted {
		if t != "/proc" && t != "/sys" && (path == t || strings.HasPrefix(path, t+"/")) {
			return true
		}
	}
	return false
}

func (l *launch) readOnly(path string) error {
	target, err := l.openKernel(path)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(target)
	fd, err := mount.Clone(target, "", true)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if l.mountSetattr() {
		if err := mount.SetAttr(fd, unix.MOUNT_ATTR_RDONLY, 0, 0, true); err != nil {
			return err
		}
		return mount.Attach(fd, target)
	}
	if err := mount.Attach(fd, target); err != nil {
		return err
	}
	return setAttr(fd, unix.MOUNT_ATTR_RDONLY, 0, false)
}

// mask hides path: a directory under an empty read-only one, all else under /dev/null. empty is the tmpfs to
// use for directories, made when first needed.
func (l *launch) mask(path string, empty int) (int, error) {
	target, err := l.openKernel(path)
	if errors.Is(err, unix.ENOENT) {
		return empty, nil
	}
	if err != nil {
		return empty, err
	}
	defer unix.Close(target)
	var st unix.Stat_t
	if err := unix.Fstat(target, &st); err != nil {
		return empty, err
	}
	source := l.null // checked to be the null device when it was opened, and never looked up again
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if empty < 0 {
			empty, err = mount.New("tmpfs", "tmpfs", mount.Options{
				Set: unix.MOUNT_ATTR_RDONLY, Data: []string{"nr_blocks=1", "nr_inodes=1"},
			})
			if err != nil {
				return -1, err
			}
			// Once attached it can be cloned for the others: open_tree(2) clones only what is in a namespace.
			return empty, mount.Attach(empty, target)
		}
		source = empty
	}
	fd, err := mount.Clone(source, "", false)
	if err != nil {
		return empty, err
	}
	defer unix.Close(fd)
	return empty, mount.Attach(fd, target)
}

// mountSetattr reports whether the kernel has mount_setattr(2) (Linux 5.12).
func (l *launch) mountSetattr() bool {
	if !l.probed {
		l.setattr = mount.SetAttr(-1, 0, 0, 0, false) != unix.ENOSYS
		l.probed = true
	}
	return l.setattr
}

// setAttr sets flags of the mount whose root fd is, on old kernels too (there never recursively).
func setAttr(fd int, set, clear uint64, recursive bool) error {
	err := mount.SetAttr(fd, set, clear, 0, recursive)
	if err != unix.ENOSYS {
		return err
	}
	flags, err := mount.RemountFlags(fd, set, clear)
	if err != nil {
		return err
	}
	return unix.Mount("", fdPath(fd), "", flags, "")
}

func setPropagation(fd int, flag uintptr, recursive bool) error {
	err := mount.SetAttr(fd, 0, 0, flag, recursive)
	if err != unix.ENOSYS {
		return err
	}
	if recursive {
		flag |= unix.MS_REC
	}
	return unix.Mount("", fdPath(fd), "", flag, "")
}

func makePrivate(fd int) { setPropagation(fd, unix.MS_PRIVATE, true) }

// fdPath is a path to fd for mount(2), which takes no descriptors. It goes through the host's /proc and so is
// only good before pivot_root.
func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
