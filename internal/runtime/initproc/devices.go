package initproc

import (
	"strings"

	"gantry/internal/kernel/fs"
	"gantry/internal/kernel/mount"
	"gantry/internal/runtime/spec"

	"golang.org/x/sys/unix"
)

// devLinks are the links every /dev has.
var devLinks = [][2]string{
	{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"},
	{"pts/ptmx", "ptmx"},
}

// makeDevices fills /dev, unless the user has bound a directory there, which is his.
func (l *launch) makeDevices() error {
	bound := false
	for _, m := range l.spec.Mounts {
		if m.Target == "/dev" {
			bound = m.Type == "bind"
		}
	}
	if bound {
		return nil
	}
	for i := range l.spec.Devices {
		d := &l.spec.Devices[i]
		if err := l.makeDevice(d); err != nil {
			return explain("device "+d.Path, "make the device "+d.Path, err)
		}
	}
	dev, ok := l.mounted["/dev"]
	if !ok {
		fd, err := l.root.MkdirAll("/dev", 0o755)
		if err != nil {
			return failed("device /dev", err)
		}
		defer unix.Close(fd)
		dev = fd
	}
	links := devLinks
	if unix.Access("/proc/kcore", unix.F_OK) == nil { // still the host's /proc; a kernel may be without it
		links = append(links[:len(links):len(links)], [2]string{"/proc/kcore", "core"})
	}
	for _, link := range links {
		if err := unix.Symlinkat(link[0], dev, link[1]); err != nil && err != unix.EEXIST {
			return explain("device /dev/"+link[1], "make the link /dev/"+link[1], err)
		}
	}
	return nil
}

func (l *launch) makeDevice(d *spec.Device) error {
	parent, name, err := l.parent(d.Path)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	if l.spec.User {
		return l.bindDevice(d, parent, name)
	}
	format := uint32(unix.S_IFCHR)
	if d.Type == 'b' {
		format = unix.S_IFBLK
	}
	err = unix.Mknodat(parent, name, format|d.Mode&0o777, int(unix.Mkdev(d.Major, d.Minor)))
	if err == unix.EEXIST {
		// The image or another mount has it. It will do if it is the same.
		fd, err := unix.Openat(parent, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if isDevice(fd, format, d.Major, d.Minor) {
			return nil
		}
		return unix.EEXIST
	}
	if err == unix.EPERM {
		return l.bindDevice(d, parent, name)
	}
	if err == nil && (d.UID != 0 || d.GID != 0) {
		err = unix.Fchownat(parent, name, int(d.UID), int(d.GID), unix.AT_SYMLINK_NOFOLLOW)
	}
	return err
}

// parent opens the directory that holds path.
func (l *launch) parent(path string) (int, string, error) {
	dir, name := fs.Split(path)
	if dir = strings.TrimSuffix(dir, "/"); l.fresh[dir] {
		fd, err := unix.FcntlInt(uintptr(l.mounted[dir]), unix.F_DUPFD_CLOEXEC, 0)
		return fd, name, err
	}
	return l.root.Parent(path, 0o755)
}

// bindDevice puts the host's node there, where mknod(2) is not allowed.
func (l *launch) bindDevice(d *spec.Device, parent int, name string) error {
	source, err := unix.Open(d.Host, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(source)
	format := uint32(unix.S_IFCHR)
	if d.Type == 'b' {
		format = unix.S_IFBLK
	}
	if !isDevice(source, format, d.Major, d.Minor) {
		return unix.ENODEV
	}
	fd, err := unix.Openat(parent, name, unix.O_CREAT|unix.O_EXCL|unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	tree, err := mount.Clone(source, "", false)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	return mount.Attach(tree, fd)
}
