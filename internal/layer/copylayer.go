package layer

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// copyLayer copies the upper directory of an overlay into the empty directory to, and returns the bytes of its files. Left
// out are overlayfs's own xattrs, marks that hide nothing, what the engine made (own.go), and sockets.
func copyLayer(ctx context.Context, to, upper int, lower []int) (int64, error) {
	c := copier{ctx: ctx, lower: lower, root: to, links: map[inode]string{}, jobs: make(chan fileCopy, 32)}
	var st unix.Stat_t
	if err := unix.Fstat(upper, &st); err != nil {
		return 0, fmt.Errorf("copy: %w", err)
	}
	for range min(runtime.GOMAXPROCS(0), 4) {
		c.workers.Go(c.work)
	}
	_, err := c.dir(upper, to, "", false, 0)
	close(c.jobs)
	c.workers.Wait()
	if err == nil {
		err = c.failed()
	}
	if err != nil {
		return 0, fmt.Errorf("copy: %w", err)
	}
	if err := c.finish(to, ".", &lowerEntry{dirfd: upper, name: ".", st: st}); err != nil {
		return 0, fmt.Errorf("copy: %w", err)
	}
	return c.size, nil
}

type copier struct {
	ctx   context.Context
	lower []int
	root  int
	links map[inode]string // first path of files with several
	size  int64

	// Names are made by one goroutine, and files filled by others.
	jobs    chan fileCopy
	workers sync.WaitGroup
	err     atomic.Pointer[error] // the workers' first
}

// fileCopy is a new file and what it is to be a copy of, both open.
type fileCopy struct {
	in, out int
	path    string
	st      unix.Stat_t
}

func (c *copier) failed() error {
	if err := c.err.Load(); err != nil {
		return *err
	}
	return nil
}

func (c *copier) work() {
	for j := range c.jobs {
		if c.failed() == nil {
			if err := c.wrap(j.path, j.do(c.ctx)); err != nil {
				c.err.CompareAndSwap(nil, &err)
			}
		}
		unix.Close(j.in)
		unix.Close(j.out)
	}
}

func (j *fileCopy) do(ctx context.Context) error {
	if j.st.Size > 0 {
		if err := unix.IoctlFileClone(j.out, j.in); err != nil { // btrfs, xfs: shares the blocks
			if err := copyData(ctx, j.in, j.out, j.st.Size, j.st.Blocks*512 < j.st.Size); err != nil {
				return err
			}
			if j.st.Size >= writeSoon {
				// A hint: the disk begins now, and the sync at the end waits for less.
				_ = unix.SyncFileRange(j.out, 0, 0, unix.SYNC_FILE_RANGE_WRITE)
			}
		}
	}
	return j.finish()
}

// writeSoon is the size in bytes from which on a file's writing begins at once; small ones are better written many together.
const writeSoon = 64 << 10

// finish gives the copy owner, mode, xattrs and times.
func (j *fileCopy) finish() error {
	if err := unix.Fchown(j.out, int(j.st.Uid), int(j.st.Gid)); err != nil {
		return err
	}
	if err := unix.Fchmod(j.out, j.st.Mode&0o7777); err != nil {
		return err
	}
	names, err := flistXattrs(j.in)
	if err != nil {
		return err
	}
	for _, x := range names {
		if reservedXattr(x) {
			continue
		}
		v, err := fgetXattr(j.in, x)
		if err != nil {
			return err
		}
		if err := unix.Fsetxattr(j.out, x, v, 0); err != nil {
			return fmt.Errorf("set xattr %s: %w", x, err)
		}
	}
	return futimens(j.out, &[2]unix.Timespec{j.st.Atim, j.st.Mtim})
}

// dir copies what is in from. only reports that this was nothing but what the engine made.
func (c *copier) dir(from, to int, path string, cut bool, depth int) (only bool, err error) {
	if depth > maxDepth {
		return false, fmt.Errorf("%q is nested too deep", path)
	}
	names, err := readNames(from)
	if err != nil {
		return false, gone(err)
	}
	only = len(names) > 0
	for _, n := range names {
		if err := c.ctx.Err(); err != nil {
			return false, err
		}
		if err := c.failed(); err != nil {
			return false, err
		}
		made, err := c.entry(from, to, n, join(path, n), cut, depth)
		if err != nil {
			return false, err
		}
		only = only && made
	}
	return only, nil
}

func (c *copier) entry(from, to int, name, path string, cut bool, depth int) (made bool, err error) {
	e := &lowerEntry{dirfd: from, name: name}
	if err := unix.Fstatat(from, name, &e.st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, gone(err)
	}
	below := &lowerEntry{}
	_, ours := engineMade[path]
	if !cut && (ours || isWhiteout(&e.st) || e.kind() == unix.S_IFDIR) {
		if below, err = lookupLower(c.lower, path); err != nil {
			return false, err
		}
		defer below.close()
	}
	if isWhiteout(&e.st) {
		if below.kind() == 0 {
			return false, nil
		}
		return false, c.wrap(path, unix.Mknodat(to, name, unix.S_IFCHR, 0))
	}
	made = ours && below.kind() == 0 && isEngineMade(path, &e.st)
	switch e.kind() {
	case unix.S_IFSOCK:
		return false, nil
	case unix.S_IFDIR:
		return c.directory(to, path, e, below, cut, made, depth)
	}
	if made {
		return true, nil
	}
	if e.st.Nlink > 1 {
		key := inode{e.st.Dev, e.st.Ino}
		if first, ok := c.links[key]; ok {
			return false, c.wrap(path, unix.Linkat(c.root, first, to, name, 0))
		}
		c.links[key] = path
	}
	switch e.kind() {
	case unix.S_IFREG:
		if err := c.file(to, path, e); err != nil {
			if gone(err) == nil {
				delete(c.links, inode{e.st.Dev, e.st.Ino})
				return false, nil
			}
			return false, c.wrap(path, err)
		}
		c.size += e.st.Size
		return false, nil
	case unix.S_IFLNK:
		target, err := readlink(from, name)
		if err != nil {
			return false, gone(err)
		}
		if err := unix.Symlinkat(target, to, name); err != nil {
			return false, c.wrap(path, err)
		}
		c.size += int64(len(target))
	default:
		if err := unix.Mknodat(to, name, uint32(e.st.Mode), int(e.st.Rdev)); err != nil {
			return false, c.wrap(path, err)
		}
	}
	return false, c.wrap(path, c.finish(to, name, e))
}

func (c *copier) wrap(path string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%q: %w", path, err)
}

func (c *copier) directory(to int, path string, e, below *lowerEntry, cut, made bool, depth int) (bool, error) {
	in, err := unix.Openat(e.dirfd, e.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, gone(err)
	}
	defer unix.Close(in)
	opaque, err := isOpaque(in, ".")
	if err != nil {
		return false, err
	}
	if err := unix.Mkdirat(to, e.name, 0o700); err != nil {
		return false, c.wrap(path, err)
	}
	out, err := unix.Openat(to, e.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, c.wrap(path, err)
	}
	defer unix.Close(out)
	hides := below.kind() == unix.S_IFDIR && opaque
	only, err := c.dir(in, out, path, cut || opaque || below.kind() != unix.S_IFDIR, depth+1)
	if err != nil {
		return false, err
	}
	if made && (only || empty(in)) || only && !hides && below.kind() == unix.S_IFDIR && sameAttributes(&e.st, &below.st) {
		return true, c.wrap(path, unix.Unlinkat(to, e.name, unix.AT_REMOVEDIR))
	}
	if hides {
		if err := setOpaque(out, "."); err != nil {
			return false, err
		}
	}
	return false, c.wrap(path, c.finish(to, e.name, e))
}

// finish gives the copy owner, mode, xattrs and times.
func (c *copier) finish(to int, name string, e *lowerEntry) error {
	if err := copyAttributes(to, name, e); err != nil {
		return err
	}
	return unix.UtimesNanoAt(to, name, []unix.Timespec{e.st.Atim, e.st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// file makes the file and leaves the rest to a worker.
func (c *copier) file(to int, path string, e *lowerEntry) error {
	in, err := unix.Openat(e.dirfd, e.name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	out, err := unix.Openat(to, e.name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		unix.Close(in)
		return err
	}
	c.jobs <- fileCopy{in, out, path, e.st}
	return nil
}

// copyData copies size bytes, holes as holes. The kernel does the copying.
func copyData(ctx context.Context, in, out int, size int64, sparse bool) error {
	for at := int64(0); at < size; {
		end := size
		if sparse {
			data, err := unix.Seek(in, at, unix.SEEK_DATA)
			if err == unix.ENXIO {
				break
			}
			if err == nil {
				if at = data; at >= size {
					break
				}
				if hole, err := unix.Seek(in, at, unix.SEEK_HOLE); err == nil && hole > at {
					end = min(hole, size)
				}
			} else {
				sparse = false
			}
		}
		for at < end {
			if err := ctx.Err(); err != nil {
				return err
			}
			from, to := at, at
			n, err := unix.CopyFileRange(in, &from, out, &to, int(min(end-at, 64<<20)), 0)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return err
			}
			if n == 0 { // became shorter
				return unix.Ftruncate(out, size)
			}
			at += int64(n)
		}
	}
	if sparse {
		return unix.Ftruncate(out, size)
	}
	return nil
}
