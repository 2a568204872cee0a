package initproc

import (
	"errors"
	"strings"

	"gantry/internal/kernel/fs"
	"gantry/internal/kernel/mount"
	"gantry/internal/runtime/spec"

	"golang.org/x/sys/unix"
)

// mountRoot mounts the root file system, in a mount namespace of the container's own: nothing of it is ever
// seen on the host.
func (l *launch) mountRoot() error {
	r := &l.spec.Root
	if l.spec.Clone&unix.CLONE_NEWNS == 0 {
		return failed("mount /", errors.New("a container needs a mount namespace of its own"))
	}
	var flag uintptr = unix.MS_PRIVATE
	switch r.Propagation {
	case "", "private", "rprivate":
	case "slave", "rslave":
		flag = unix.MS_SLAVE
	case "shared", "rshared":
		flag = 0 // stays as it is on the host, so that volumes can be shared with it
	default:
		return failed("mount /", errors.New("unknown propagation of the root: "+r.Propagation))
	}
	if flag != 0 {
		if err := unix.Mount("", "/", "", flag|unix.MS_REC, ""); err != nil {
			return explain("mount /", "make / private", err)
		}
	} else if err := isolate(r.Target); err != nil {
		return explain("mount /", "make the mount under "+r.Target+" private", err)
	}
	var fd int
	var err error
	if r.Dir != "" {
		if fd, err = mount.Clone(unix.AT_FDCWD, r.Dir, true); err == nil {
			target := r.Target
			if target == "" {
				target = r.Dir
			}
			err = attachAt(fd, target)
		}
		if err != nil {
			return explain("mount /", "mount the root file system "+r.Dir, err)
		}
		makePrivate(fd)
	} else if fd, err = l.mountOverlay(r); err != nil {
		return explain("mount /", "mount the overlay on "+r.Target, err)
	}
	l.root = fs.RootAt(fd)
	return nil
}

// isolate makes the mount that target lies on private, so that what is mounted on target does not appear on
// the host. Going up until a mount's root (STATX_ATTR_MOUNT_ROOT: Linux 5.8) saves reading mountinfo.
func isolate(target string) error {
	fd, err := unix.Open(target, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	for {
		var st unix.Statx_t
		if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, 0, &st); err != nil {
			return err
		}
		if st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
			defer unix.Close(fd)
			return setPropagation(fd, unix.MS_PRIVATE, false)
		}
		up, err := unix.Openat(fd, "..", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		unix.Close(fd)
		fd = up
	}
}

func attachAt(fd int, target string) error {
	t, err := unix.Open(target, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(t)
	return mount.Attach(fd, t)
}

// mountOverlay mounts with mount(2), for fsconfig(2) takes values of at most 255 bytes. The directories are
// relative to the base, so that many fit into its one page.
func (l *launch) mountOverlay(r *spec.Root) (int, error) {
	if r.Base != "" {
		if err := unix.Chdir(r.Base); err != nil {
			return -1, err
		}
	}
	if len(r.Lower) == 0 {
		return -1, errors.New("the overlay has no lower directory")
	}
	if r.Upper == "" && len(r.Lower) == 1 {
		// An overlay wants two; one directory alone is bound, read-only.
		fd, err := mount.Clone(unix.AT_FDCWD, r.Lower[0], false)
		if err == nil {
			err = setAttr(fd, unix.MOUNT_ATTR_RDONLY, 0, false)
		}
		if err == nil {
			err = attachAt(fd, r.Target)
		}
		return fd, err
	}
	data := "lowerdir=" + escapeLower(r.Lower)
	if r.Upper != "" {
		data += ",upperdir=" + escapeOption(r.Upper) + ",workdir=" + escapeOption(r.Work)
		if r.Volatile {
			data += ",volatile"
		}
	}
	if l.spec.User {
		data += ",userxattr"
	}
	if err := unix.Mount("overlay", r.Target, "overlay", 0, data); err != nil {
		return -1, err
	}
	fd, err := unix.Open(r.Target, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if t, err := fs.Type(fd); err != nil || t != unix.OVERLAYFS_SUPER_MAGIC {
		return -1, errors.New("the mount did not appear")
	}
	return fd, nil
}

func escapeLower(dirs []string) string {
	var b strings.Builder
	for i, d := range dirs {
		if i > 0 {
			b.WriteByte(':')
		}
		b.WriteString(strings.ReplaceAll(escapeOption(d), ":", `\:`))
	}
	return b.String()
}

// escapeOption escapes what overlayfs's option parser takes apart.
func escapeOption(s string) string {
	if !strings.ContainsAny(s, `\,`) {
		return s
	}
	return strings.ReplaceAll(strings.ReplaceAll(s, `\`, `\\`), ",", `\,`)
}

// finishRoot makes the root the process's root, with the host's mounts gone.
func (l *launch) finishRoot() error {
	if err := l.makeWorkdir(); err != nil {
		return err
	}
	if l.spec.Root.ReadOnly {
		if err := setAttr(l.root.Fd(), unix.MOUNT_ATTR_RDONLY, 0, false); err != nil {
			return explain("mount /", "make the root file system read-only", err)
		}
	}
	// pivot_root(".", "."): the old root ends up on top of the new one, at the working directory
	// (pivot_root(2)). It is made a slave before it is detached, so that nothing is unmounted on the host: by a descriptor, for "."
	// would be the new root, and what is shared with the host in that stays shared.
	old, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return failed("pivot_root", err)
	}
	defer unix.Close(old)
	if err := unix.Fchdir(l.root.Fd()); err != nil {
		return failed("pivot_root", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return explain("pivot_root", "pivot_root", err)
	}
	if err := unix.Fchdir(old); err != nil {
		return failed("pivot_root", err)
	}
	if err := unix.Mount("", ".", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return explain("pivot_root", "make the old root a slave", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return explain("pivot_root", "detach the old root", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return failed("pivot_root", err)
	}
	switch l.spec.Root.Propagation {
	case "shared", "rshared":
		if err := unix.Mount("", "/", "", unix.MS_SHARED, ""); err != nil {
			return explain("mount /", "make / shared", err)
		}
	}
	return nil
}

// makeWorkdir makes a missing working directory, root's and 0755, as Docker does.
func (l *launch) makeWorkdir() error {
	cwd := l.spec.Exec.Cwd
	if cwd == "" || cwd == "/" {
		return nil
	}
	fd, err := l.root.MkdirAll(cwd, 0o755)
	if err == nil {
		unix.Close(fd)
		return nil
	}
	if errors.Is(err, unix.ENOTDIR) {
		return failed("chdir", errors.New("Cannot mkdir: "+cwd+" is not a directory"))
	}
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) {
		return nil // chdir(2) will say what is wrong, if anything is: /proc/self/cwd exists, for example
	}
	return explain("chdir", "mkdir "+cwd, err)
}
