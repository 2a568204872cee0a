package offer

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// root opens files below a folder, wherever links in it lead.
type root struct {
	*os.Root
	dir  *os.File
	slow bool // this kernel, or who confines this program, knows no openat2(2)
}

func openRoot(path string) (*root, error) {
	r, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	dir, err := r.Open(".")
	if err != nil {
		r.Close()
		return nil, err
	}
	return &root{Root: r, dir: dir}, nil
}

func (r *root) Close() {
	r.dir.Close()
	r.Root.Close()
}

func (r *root) open(name string) (*os.File, error) {
	if !r.slow {
		how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
		for range 100 {
			fd, err := unix.Openat2(int(r.dir.Fd()), name, &how)
			switch {
			case err == nil:
				return os.NewFile(uintptr(fd), name), nil
			case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR): // something was renamed meanwhile
				continue
			case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM):
				r.slow = true
			default:
				return nil, &os.PathError{Op: "open", Path: name, Err: err}
			}
			break
		}
	}
	return r.Root.Open(filepath.FromSlash(name))
}
