package layer

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// lowerEntry is what the layers below show at a path.
type lowerEntry struct {
	dirfd int // of the directory that holds it; closed by close
	own   bool
	name  string
	st    unix.Stat_t
}

// kind is the S_IFMT part of its mode; 0: there is nothing.
func (e *lowerEntry) kind() uint32 { return uint32(e.st.Mode) & unix.S_IFMT }

func (e *lowerEntry) close() {
	if e.own {
		unix.Close(e.dirfd)
		e.own = false
	}
}

// lookupLower finds the canonical path (no links among its parents) in the stack of layers, as overlayfs does: the
// topmost layer that has the name wins, whiteouts and opaque directories end the search.
func lookupLower(roots []int, path string) (_ *lowerEntry, err error) {
	dirs := roots
	own := false
	defer func() {
		if own {
			closeAll(dirs)
		}
	}()
	for {
		name, rest, more := strings.Cut(path, "/")
		var next []int
		found := &lowerEntry{}
		for _, fd := range dirs {
			var st unix.Stat_t
			err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
			if err == unix.ENOENT {
				continue
			}
			if err != nil {
				closeAll(next)
				return nil, fmt.Errorf("look up %q in a lower layer: %w", path, err)
			}
			if isWhiteout(&st) {
				break
			}
			if found.kind() == 0 {
				found = &lowerEntry{dirfd: fd, name: name, st: st}
			}
			if st.Mode&unix.S_IFMT != unix.S_IFDIR || !more {
				break
			}
			sub, err := unix.Openat(fd, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err != nil {
				closeAll(next)
				return nil, fmt.Errorf("open %q in a lower layer: %w", path, err)
			}
			next = append(next, sub)
			opaque, err := isOpaque(fd, name)
			if err != nil {
				closeAll(next)
				return nil, err
			}
			if opaque {
				break
			}
		}
		if !more {
			if found.kind() != 0 {
				if found.dirfd, err = unix.FcntlInt(uintptr(found.dirfd), unix.F_DUPFD_CLOEXEC, 0); err != nil {
					return nil, fmt.Errorf("look up in a lower layer: %w", err)
				}
				found.own = true
			}
			return found, nil
		}
		if own {
			closeAll(dirs)
		}
		dirs, own = next, true
		if len(dirs) == 0 {
			return &lowerEntry{}, nil
		}
		path = rest
	}
}

// mkdirLike makes the directory name in d as it is in the layers below.
func (t *tree) mkdirLike(d *dir, name string, e *lowerEntry) error {
	path := join(d.path, name)
	if err := unix.Mkdirat(d.fd, name, 0o700); err != nil {
		return pathError("make directory", path, err)
	}
	if err := copyAttributes(d.fd, name, e); err != nil {
		return fmt.Errorf("make directory %q as below: %w", path, err)
	}
	acl, err := postponeACL(d.fd, name)
	if err != nil {
		return fmt.Errorf("make directory %q as below: %w", path, err)
	}
	t.made[path] = dirTimes{e.st.Atim, e.st.Mtim, acl}
	return nil
}

const defaultACL = "system.posix_acl_default"

// postponeACL takes a directory's default ACL away and returns it.
func postponeACL(dirfd int, name string) (string, error) {
	v, err := getXattr(dirfd, name, defaultACL)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return string(v), unix.Lremovexattr(at(dirfd, name), defaultACL)
}

// copyUp copies a file from the layers below into d, as overlayfs does before it is changed or linked.
func (t *tree) copyUp(d *dir, name string, e *lowerEntry, budget *budget) (err error) {
	path := join(d.path, name)
	defer func() {
		if err != nil {
			err = fmt.Errorf("copy up %q: %w", path, err)
		}
	}()
	switch e.kind() {
	case unix.S_IFREG:
		if err := budget.bytes(e.st.Size); err != nil {
			return err
		}
		in, err := unix.Openat(e.dirfd, e.name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(in)
		out, err := unix.Openat(d.fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		defer unix.Close(out)
		for {
			n, err := unix.CopyFileRange(in, nil, out, nil, 1<<30, 0)
			if err != nil {
				return err
			}
			if n == 0 {
				break
			}
		}
	case unix.S_IFLNK:
		target, err := readlink(e.dirfd, e.name)
		if err != nil {
			return err
		}
		if err := unix.Symlinkat(target, d.fd, name); err != nil {
			return err
		}
	default:
		if err := unix.Mknodat(d.fd, name, uint32(e.st.Mode), int(e.st.Rdev)); err != nil {
			return err
		}
	}
	if err := copyAttributes(d.fd, name, e); err != nil {
		return err
	}
	return unix.UtimesNanoAt(d.fd, name, []unix.Timespec{e.st.Atim, e.st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// copyAttributes gives dirfd/name the owner, mode and xattrs of e; overlayfs's own xattrs excepted.
func copyAttributes(dirfd int, name string, e *lowerEntry) error {
	if err := unix.Fchownat(dirfd, name, int(e.st.Uid), int(e.st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if e.kind() != unix.S_IFLNK {
		if err := chmodAt(dirfd, name, uint32(e.st.Mode)&0o7777); err != nil {
			return err
		}
	}
	names, err := listXattrs(e.dirfd, e.name)
	if err != nil {
		return err
	}
	for _, x := range names {
		if reservedXattr(x) {
			continue
		}
		v, err := getXattr(e.dirfd, e.name, x)
		if err != nil {
			return err
		}
		if err := setXattr(dirfd, name, x, v); err != nil {
			return err
		}
	}
	return nil
}
