package layer

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"gantry/internal/errs"
	kernelfs "gantry/internal/kernel/fs"
)

// Reader reads a file system in which nobody writes: that of an image, or of a finished draft. Paths are resolved in it by the
// kernel, links in all but the last name followed. What is not there is fs.ErrNotExist.
type Reader struct{ root kernelfs.Root }

// NewReader reads below root, which stays the caller's.
func NewReader(root kernelfs.Root) *Reader { return &Reader{root} }

// Stat describes the path itself.
func (r *Reader) Stat(name string) (Node, error) {
	fd, err := r.root.Open(name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return Node{}, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return Node{}, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	n := nodeOf(&st)
	if n.IsLink() {
		if n.Link, err = readlink(fd, ""); err != nil {
			return Node{}, &os.PathError{Op: "readlink", Path: name, Err: err}
		}
	}
	n.Xattrs, err = carriedXattrs(fd)
	return n, err
}

// Names lists a directory.
func (r *Reader) Names(name string) ([]string, error) {
	fd, err := r.root.Open(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	return f.Readdirnames(-1)
}

// Open opens a regular file.
func (r *Reader) Open(name string) (io.ReadCloser, error) {
	fd, err := r.root.Open(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return regular(fd, name)
}

func openRegular(dirfd int, name string) (*os.File, error) {
	fd, err := unix.Openat(dirfd, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return regular(fd, name)
}

func regular(fd int, name string) (*os.File, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = errs.Invalid.Errorf("%s is no regular file", name)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// carriedXattrs are those of what fd, O_PATH or not, is open on.
func carriedXattrs(fd int) (map[string]string, error) {
	var out map[string]string
	// Through the magic link, which leads to the file itself, a symbolic link too.
	buf := make([]byte, 1024)
	n, err := unix.Listxattr(self(fd), buf)
	if err == unix.ERANGE {
		buf = make([]byte, 64<<10)
		n, err = unix.Listxattr(self(fd), buf)
	}
	if err == unix.ENOTSUP || err == unix.EPERM || err == unix.ENOENT || n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list xattrs: %w", err)
	}
	for len(buf[:n]) > 0 {
		i := 0
		for i < n && buf[i] != 0 {
			i++
		}
		name := string(buf[:i])
		buf, n = buf[min(i+1, len(buf)):], max(n-i-1, 0)
		if !carried(name) {
			continue
		}
		v := make([]byte, 64<<10)
		m, err := unix.Getxattr(self(fd), name, v)
		if err != nil {
			return nil, fmt.Errorf("get xattr %s: %w", name, err)
		}
		if out == nil {
			out = map[string]string{}
		}
		out[name] = string(v[:m])
	}
	return out, nil
}
