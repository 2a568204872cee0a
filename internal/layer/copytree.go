package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// CopyOptions say how CopyTree copies.
type CopyOptions struct {
	// Image takes the tree for one that an image brought: overlayfs's own xattrs and the labels of the host's security
	// modules are left out.
	Image bool
}

// Copied says what CopyTree did.
type Copied struct {
	Bytes  int64 // of the files, holes included
	Shared int64 // of them, those whose blocks both copies share (FICLONE)
}

// CopyTree copies what is in the directory from into the empty directory to, and gives to the owner, mode, xattrs and
// times of from. Links are copied, never followed; hard links within the tree stay links, holes stay holes; sockets are left out.
// Somebody may be writing the tree meanwhile: what disappears is left out.
func CopyTree(ctx context.Context, to, from int, o CopyOptions) (Copied, error) {
	c := treeCopier{ctx: ctx, o: o, root: to, links: map[inode]string{}}
	var st unix.Stat_t
	if err := unix.Fstat(from, &st); err != nil {
		return c.done, fmt.Errorf("copy: %w", err)
	}
	if err := c.dir(from, to, "", 0); err != nil {
		return c.done, fmt.Errorf("copy: %w", err)
	}
	if err := c.finish(from, to, ".", &st); err != nil {
		return c.done, fmt.Errorf("copy: %w", err)
	}
	return c.done, nil
}

type treeCopier struct {
	ctx   context.Context
	o     CopyOptions
	root  int
	links map[inode]string // first path of files with several
	done  Copied
}

func (c *treeCopier) dir(from, to int, path string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%q is nested too deep", path)
	}
	names, err := readNames(from)
	if err != nil {
		return gone(err)
	}
	for _, n := range names {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		if err := c.entry(from, to, n, join(path, n), depth); err != nil {
			return err
		}
	}
	return nil
}

func (c *treeCopier) entry(from, to int, name, path string, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(from, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return gone(err)
	}
	failed := func(err error) error {
		if err == nil {
			return nil
		}
		return fmt.Errorf("%q: %w", path, err)
	}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFSOCK {
		return nil
	}
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		key := inode{st.Dev, st.Ino}
		if first, ok := c.links[key]; ok {
			return failed(unix.Linkat(c.root, first, to, name, 0))
		}
		c.links[key] = path
	}
	switch kind {
	case unix.S_IFDIR:
		in, err := unix.Openat(from, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return failed(gone(err))
		}
		defer unix.Close(in)
		if err := unix.Mkdirat(to, name, 0o700); err != nil {
			return failed(err)
		}
		out, err := unix.Openat(to, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return failed(err)
		}
		defer unix.Close(out)
		if err := c.dir(in, out, path, depth+1); err != nil {
			return err
		}
	case unix.S_IFREG:
		if err := c.file(from, to, name, &st); err != nil {
			if gone(err) == nil {
				delete(c.links, inode{st.Dev, st.Ino})
				return nil
			}
			return failed(err)
		}
		return nil
	case unix.S_IFLNK:
		target, err := readlink(from, name)
		if err != nil {
			return failed(gone(err))
		}
		if err := unix.Symlinkat(target, to, name); err != nil {
			return failed(err)
		}
	default:
		if err := unix.Mknodat(to, name, st.Mode, int(st.Rdev)); err != nil {
			return failed(err)
		}
	}
	return failed(c.finish(from, to, name, &st))
}

func (c *treeCopier) file(from, to int, name string, st *unix.Stat_t) error {
	in, err := unix.Openat(from, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(in)
	// What was opened counts, not what was looked up before.
	if err := unix.Fstat(in, st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return unix.ENOENT
	}
	out, err := unix.Openat(to, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(out)
	c.done.Bytes += st.Size
	if st.Size > 0 {
		if err := unix.IoctlFileClone(out, in); err == nil { // btrfs, xfs: shares the blocks
			c.done.Shared += st.Size
		} else if err := copyAcross(c.ctx, in, out, st.Size, st.Blocks*512 < st.Size); err != nil {
			return err
		}
	}
	return c.finish(from, to, name, st)
}

// copyAcross is copyData, also from one kind of file system to another, for which the kernel does not do the copying
// (copy_file_range(2): EXDEV since Linux 5.19).
func copyAcross(ctx context.Context, in, out int, size int64, sparse bool) error {
	err := copyData(ctx, in, out, size, sparse)
	if err != unix.EXDEV && err != unix.EINVAL && err != unix.EOPNOTSUPP && err != unix.ENOSYS {
		return err
	}
	if err := unix.Ftruncate(out, 0); err != nil {
		return err
	}
	src := os.NewFile(uintptr(dup(in)), "source")
	dst := os.NewFile(uintptr(dup(out)), "copy")
	if src == nil || dst == nil {
		return errors.Join(unix.EMFILE, src.Close(), dst.Close())
	}
	defer src.Close()
	defer dst.Close()
	buf := make([]byte, 256<<10)
	for at := int64(0); at < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		end := size
		if sparse {
			if data, err := unix.Seek(in, at, unix.SEEK_DATA); err == unix.ENXIO {
				break
			} else if err == nil {
				at = data
				if hole, err := unix.Seek(in, at, unix.SEEK_HOLE); err == nil && hole > at {
					end = min(hole, size)
				}
			} else {
				sparse = false
			}
		}
		for at < end {
			n, err := src.ReadAt(buf[:min(int64(len(buf)), end-at)], at)
			if n > 0 {
				if _, err := dst.WriteAt(buf[:n], at); err != nil {
					return err
				}
				at += int64(n)
			}
			if err == io.EOF { // became shorter
				return dst.Truncate(size)
			}
			if err != nil {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
	}
	return dst.Truncate(size)
}

func dup(fd int) int {
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return n
}

// finish gives to/name the owner, mode, xattrs and times of from/name; with the name ".", of the directories themselves.
func (c *treeCopier) finish(from, to int, name string, st *unix.Stat_t) error {
	if err := unix.Fchownat(to, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := chmodAt(to, name, st.Mode&0o7777); err != nil {
			return err
		}
	}
	names, err := listXattrs(from, name)
	if err != nil {
		return gone(err)
	}
	for _, x := range names {
		if c.o.Image && (reservedXattr(x) || !carried(x)) {
			continue
		}
		v, err := getXattr(from, name, x)
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOENT) {
			continue // taken away since
		}
		if err != nil {
			return err
		}
		if err := setXattr(to, name, x, v); err != nil && !(strings.HasPrefix(x, "security.") && errors.Is(err, unix.EPERM)) && !errors.Is(err, unix.ENOTSUP) {
			return err
		}
	}
	return unix.UtimesNanoAt(to, name, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// Usage returns the bytes of the files below the directory, each counted once, as Docker counts.
func Usage(ctx context.Context, dir string) (int64, error) {
	fd, err := openDir(dir)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	u := usage{ctx: ctx, seen: map[inode]struct{}{}}
	err = u.dir(fd, 0)
	return u.total, err
}

type usage struct {
	ctx   context.Context
	seen  map[inode]struct{}
	total int64
}

func (u *usage) dir(fd, depth int) error {
	names, err := readNames(fd)
	if err != nil || depth > maxDepth {
		return gone(err)
	}
	for _, n := range names {
		if err := u.ctx.Err(); err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Fstatat(fd, n, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			continue // it is in use: things go
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			sub, err := unix.Openat(fd, n, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err != nil {
				continue
			}
			err = u.dir(sub, depth+1)
			unix.Close(sub)
			if err != nil {
				return err
			}
		case unix.S_IFREG:
			if st.Nlink > 1 {
				key := inode{st.Dev, st.Ino}
				if _, ok := u.seen[key]; ok {
					continue
				}
				u.seen[key] = struct{}{}
			}
			u.total += st.Size
		}
	}
	return nil
}

// RemoveTree deletes path with all that is in it, never following a link or crossing a mount.
func RemoveTree(path string) error {
	dir, err := openDir(filepath.Dir(path))
	if err != nil {
		return gone(err)
	}
	defer unix.Close(dir)
	return removeAll(dir, filepath.Base(path))
}
