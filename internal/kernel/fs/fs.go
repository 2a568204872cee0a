// Package fs opens files in trees that somebody hostile may have written, or may be writing now.
//
// A container's root file system belongs to the container: every link in it may point anywhere, and with
// shared volumes a directory may become a link between two system calls. So nothing here checks a path and
// then uses it. A path is resolved once, by openat2(2), which confines it to the root in the kernel, and from
// then on the file descriptor is the name. For procfs, where a mount over /proc could turn a write to an
// attribute into a write to something else (CVE-2025-52881), Proc opens files of an instance of its own.
//
// The package is linked into the init program and so keeps to x/sys/unix.
package fs

import (
	"strings"

	"golang.org/x/sys/unix"
)

// Error is a failed system call on a path.
type Error struct {
	Op, Path string
	Errno    unix.Errno
}

// Error returns "open /x: no such file or directory".
func (e *Error) Error() string { return e.Op + " " + e.Path + ": " + e.Errno.Error() }

// Unwrap returns the errno, for errors.Is.
func (e *Error) Unwrap() error { return e.Errno }

func wrap(op, path string, err error) error {
	if err == nil {
		return nil
	}
	errno, _ := err.(unix.Errno)
	return &Error{op, path, errno}
}

// Root is an open directory that stands for "/" of the paths resolved in it.
type Root struct{ fd int }

// OpenRoot opens a directory of the host.
func OpenRoot(path string) (Root, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	return Root{fd}, wrap("open", path, err)
}

// RootAt takes over fd, an open directory.
func RootAt(fd int) Root { return Root{fd} }

// Fd returns the directory's descriptor, which stays the Root's.
func (r Root) Fd() int { return r.fd }

// Close closes it.
func (r Root) Close() { unix.Close(r.fd) }

// retries bounds how often a resolution is tried again that a concurrent rename disturbed: openat2(2) says
// EAGAIN then, and an attacker could make it say so for ever.
const retries = 128

func openat2(dir int, path string, how *unix.OpenHow) (int, error) {
	for i := 0; ; i++ {
		fd, err := unix.Openat2(dir, path, how)
		if err != unix.EINTR && (err != unix.EAGAIN || i == retries) {
			return fd, err
		}
	}
}

// Open resolves path as a process chrooted to r would: absolute links and ".." stay inside. Magic links of
// procfs, which lead out of any root, are refused. flags are those of open(2).
func (r Root) Open(path string, flags int, mode uint32) (int, error) {
	return r.open(path, flags, mode, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
}

// OpenStrict is Open for a path that must not contain any symbolic link (ELOOP).
func (r Root) OpenStrict(path string, flags int, mode uint32) (int, error) {
	return r.open(path, flags, mode, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_SYMLINKS)
}

func (r Root) open(path string, flags int, mode uint32, resolve uint64) (int, error) {
	if path == "" {
		path = "/"
	}
	fd, err := openat2(r.fd, path, &unix.OpenHow{
		Flags:   uint64(flags|unix.O_CLOEXEC) &^ unix.O_LARGEFILE,
		Mode:    uint64(mode),
		Resolve: resolve,
	})
	return fd, wrap("open", path, err)
}

// maxLinks is how many dangling links MkdirAll follows, as many as the kernel follows links (path_resolution(7)).
const maxLinks = 40

// MkdirAll makes path and its missing parents inside r, each with mode and owned by the caller, and returns
// the directory opened with O_PATH. As with Docker, a dangling link on the way has its target made.
func (r Root) MkdirAll(path string, mode uint32) (int, error) {
	return r.mkdirAll(path, mode, maxLinks)
}

func (r Root) mkdirAll(path string, mode uint32, links int) (int, error) {
	const dir = unix.O_PATH | unix.O_DIRECTORY
	fd, err := r.Open(path, dir, 0)
	if err == nil || !isErrno(err, unix.ENOENT) {
		return fd, err
	}
	done := ""
	cur, err := r.Open("/", dir, 0)
	if err != nil {
		return -1, err
	}
	rest := strings.Split(path, "/")
	for i, name := range rest {
		if name == "" || name == "." {
			continue
		}
		next := done + "/" + name
		fd, err := r.Open(next, dir, 0)
		if isErrno(err, unix.ENOENT) {
			err = unix.Mkdirat(cur, name, mode)
			switch err {
			case nil:
				// Opened below cur and without following, so that what was made is what is used.
				fd, err = unix.Openat(cur, name, dir|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
				err = wrap("open", next, err)
				if err == nil && mode&0o7777 != 0o755 {
					err = wrap("chmod", next, chmod(fd, mode))
				}
			case unix.EEXIST:
				// There is something that does not resolve: a dangling link, or somebody was faster.
				var buf [unix.PathMax]byte
				n, lerr := unix.Readlinkat(cur, name, buf[:])
				unix.Close(cur)
				if links == 0 {
					return -1, wrap("mkdir", next, unix.ELOOP)
				}
				target := next
				if lerr == nil {
					target = string(buf[:n])
					if !strings.HasPrefix(target, "/") {
						target = done + "/" + target
					}
				}
				return r.mkdirAll(target+"/"+strings.Join(rest[i+1:], "/"), mode, links-1)
			default:
				err = wrap("mkdir", next, err)
			}
		}
		unix.Close(cur)
		if err != nil {
			return -1, err
		}
		cur, done = fd, next
	}
	return cur, nil
}

// chmod changes an O_PATH directory's mode past the umask; fchmod(2) refuses O_PATH.
func chmod(fd int, mode uint32) error {
	d, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(d)
	return unix.Fchmod(d, mode)
}

// CreateFile opens path, making an empty file and the parents of it where missing. The result is O_PATH. Where
// path is a dangling link (many images have an /etc/resolv.conf like that), its target inside r is made.
func (r Root) CreateFile(path string, mode uint32) (int, error) {
	return r.createFile(path, mode, maxLinks)
}

func (r Root) createFile(path string, mode uint32, links int) (int, error) {
	fd, err := r.Open(path, unix.O_PATH, 0)
	if err == nil || !isErrno(err, unix.ENOENT) {
		return fd, err
	}
	dir, name := Split(path)
	parent, err := r.MkdirAll(dir, 0o755)
	if err != nil {
		return -1, err
	}
	defer unix.Close(parent)
	// O_EXCL: never through a link that appeared meanwhile.
	fd, err = unix.Openat(parent, name, unix.O_CREAT|unix.O_EXCL|unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
	if err == unix.EEXIST && links > 0 {
		var buf [unix.PathMax]byte
		n, err := unix.Readlinkat(parent, name, buf[:])
		if err != nil {
			return r.createFile(path, mode, links-1) // somebody was faster
		}
		target := string(buf[:n])
		if !strings.HasPrefix(target, "/") {
			target = dir + "/" + target
		}
		return r.createFile(target, mode, links-1)
	}
	if err != nil {
		return -1, wrap("create", path, err)
	}
	unix.Close(fd)
	fd, err = unix.Openat(parent, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	return fd, wrap("open", path, err)
}

// Parent opens the directory that holds path, making it where missing, and returns path's last element.
func (r Root) Parent(path string, mode uint32) (int, string, error) {
	dir, name := Split(path)
	fd, err := r.MkdirAll(dir, mode)
	return fd, name, err
}

// Split cuts path into directory and last element; trailing slashes do not count.
func Split(path string) (dir, name string) {
	path = strings.TrimRight(path, "/")
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "/", path
	}
	return path[:i+1], path[i+1:]
}

// ReadFile reads path in r, at most limit bytes (EFBIG beyond). Only regular files are read, so that a FIFO
// or device in the container cannot hold the reader.
func (r Root) ReadFile(path string, limit int) ([]byte, error) {
	fd, err := r.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, wrap("stat", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, wrap("read", path, unix.EINVAL)
	}
	return readAll(fd, path, limit)
}

func readAll(fd int, path string, limit int) ([]byte, error) {
	buf := make([]byte, 0, 4096)
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, make([]byte, len(buf))...)[:len(buf)]
		}
		n, err := unix.Read(fd, buf[len(buf):cap(buf)])
		switch {
		case err == unix.EINTR:
		case err != nil:
			return nil, wrap("read", path, err)
		case n == 0:
			return buf, nil
		default:
			buf = buf[:len(buf)+n]
			if len(buf) > limit {
				return nil, wrap("read", path, unix.EFBIG)
			}
		}
	}
}

// Type returns the magic number of the file system that fd lies on (statfs(2)).
func Type(fd int) (int64, error) {
	var st unix.Statfs_t
	err := unix.Fstatfs(fd, &st)
	return int64(st.Type), wrap("statfs", "fd", err)
}

// TypeName returns what Docker calls the file system of that magic number; "unknown" where it has no name for it.
func TypeName(magic int64) string {
	switch uint32(magic) {
	case unix.EXT4_SUPER_MAGIC: // ext2 and ext3, too
		return "extfs"
	case unix.XFS_SUPER_MAGIC:
		return "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs"
	case unix.TMPFS_MAGIC:
		return "tmpfs"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlayfs"
	case unix.F2FS_SUPER_MAGIC:
		return "f2fs"
	case unix.NFS_SUPER_MAGIC:
		return "nfs"
	case 0x2fc12fc1:
		return "zfs"
	}
	return "unknown"
}

func isErrno(err error, errno unix.Errno) bool {
	e, ok := err.(*Error)
	return ok && e.Errno == errno
}
