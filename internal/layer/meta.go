package layer

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const opaqueXattr = "trusted.overlay.opaque"

// isWhiteout reports overlayfs's mark of a deleted name: a character device 0/0.
func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// reservedXattr reports the names in which overlayfs keeps its own state. From an archive they could redirect
// a directory to anywhere, so they are never set and never copied. (user.overlay.* is its name space in user namespaces.)
func reservedXattr(name string) bool {
	return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.")
}

// at names dirfd/name for the calls that know no *at form. The descriptor's magic link is the only one on the
// way; the l-variants do not follow name itself.
func at(dirfd int, name string) string { return "/proc/self/fd/" + strconv.Itoa(dirfd) + "/" + name }

func setXattr(dirfd int, name, attr string, value []byte) error {
	if err := unix.Lsetxattr(at(dirfd, name), attr, value, 0); err != nil {
		return fmt.Errorf("set xattr %s: %w", attr, err)
	}
	return nil
}

func getXattr(dirfd int, name, attr string) ([]byte, error) {
	path := at(dirfd, name)
	return xattrValue(attr, func(b []byte) (int, error) { return unix.Lgetxattr(path, attr, b) })
}

// fgetXattr is getXattr of an open file.
func fgetXattr(fd int, attr string) ([]byte, error) {
	return xattrValue(attr, func(b []byte) (int, error) { return unix.Fgetxattr(fd, attr, b) })
}

func xattrValue(attr string, get func([]byte) (int, error)) ([]byte, error) {
	buf := make([]byte, 256)
	for {
		n, err := get(buf)
		if err == nil {
			return buf[:n], nil
		}
		if err != unix.ERANGE || len(buf) >= 64<<10 { // XATTR_SIZE_MAX
			return nil, fmt.Errorf("get xattr %s: %w", attr, err)
		}
		buf = make([]byte, 64<<10)
	}
}

func listXattrs(dirfd int, name string) ([]string, error) {
	path := at(dirfd, name)
	return xattrNames(func(b []byte) (int, error) { return unix.Llistxattr(path, b) })
}

// flistXattrs is listXattrs of an open file.
func flistXattrs(fd int) ([]string, error) {
	return xattrNames(func(b []byte) (int, error) { return unix.Flistxattr(fd, b) })
}

func xattrNames(list func([]byte) (int, error)) ([]string, error) {
	buf := make([]byte, 512) // most have none
	n, err := list(buf)
	if err == unix.ERANGE {
		buf = make([]byte, 64<<10) // XATTR_LIST_MAX
		n, err = list(buf)
	}
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list xattrs: %w", err)
	}
	var names []string
	for x := range bytes.SplitSeq(buf[:n], []byte{0}) {
		if len(x) > 0 {
			names = append(names, string(x))
		}
	}
	return names, nil
}

func isOpaque(dirfd int, name string) (bool, error) {
	var v [1]byte
	n, err := unix.Lgetxattr(at(dirfd, name), opaqueXattr, v[:])
	if err == nil {
		return n == 1 && v[0] == 'y', nil
	}
	if err == unix.ENODATA || err == unix.ENOTSUP || err == unix.ERANGE {
		return false, nil
	}
	return false, fmt.Errorf("get xattr %s of %q: %w", opaqueXattr, name, err)
}

func setOpaque(dirfd int, name string) error {
	if err := setXattr(dirfd, name, opaqueXattr, []byte{'y'}); err != nil {
		return fmt.Errorf("make %q opaque: %w", name, err)
	}
	return nil
}

// chmodAt sets the mode of dirfd/name, which is not a symbolic link. (fchmodat2, which could be told not to follow
// one, came with 6.6; name was just made by us, in a directory that nobody else reaches.)
func chmodAt(dirfd int, name string, mode uint32) error {
	return unix.Fchmodat(dirfd, name, mode, 0)
}

// removeAll removes dirfd/name, whatever it is, without following links or crossing mounts.
func removeAll(dirfd int, name string) error {
	err := unix.Unlinkat(dirfd, name, 0)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	if err != unix.EISDIR && err != unix.EPERM {
		return fmt.Errorf("remove %q: %w", name, err)
	}
	fd, err := unix.Openat(dirfd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("remove %q: %w", name, err)
	}
	defer unix.Close(fd)
	// What is removed while the folder is read may move what comes later: read it again until a whole
	// pass finds it empty.
	buf := make([]byte, 32<<10)
	for removed := true; removed; {
		removed = false
		if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
			return fmt.Errorf("remove %q: %w", name, err)
		}
		for {
			n, err := unix.ReadDirent(fd, buf)
			if err != nil {
				return fmt.Errorf("remove %q: %w", name, err)
			}
			if n == 0 {
				break
			}
			_, _, names := unix.ParseDirent(buf[:n], -1, nil)
			for _, child := range names {
				removed = true
				if err := removeAll(fd, child); err != nil {
					return err
				}
			}
		}
	}
	if err := unix.Unlinkat(dirfd, name, unix.AT_REMOVEDIR); err != nil && err != unix.ENOENT {
		return fmt.Errorf("remove %q: %w", name, err)
	}
	return nil
}
