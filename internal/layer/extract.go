package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"gantry/internal/errs"
	"gantry/internal/ids"
	"gantry/internal/kernel/fs"
)

// ExtractOptions are those of Extract.
type ExtractOptions struct {
	// KeepKind refuses to put a directory in the place of something else, or something else in the place of a directory.
	KeepKind bool
	Owner    *[2]int // uid and gid of everything, whatever the archive says
	Limits   Limits
}

// Extract unpacks an archive into the directory dest of a file system that is in use, by its owner and perhaps against
// us: every name is resolved in root by the kernel, and what is made is held by a descriptor from then on. Names mean
// themselves here; there are no whiteouts. What is wrong with the archive is errs.Invalid.
func Extract(ctx context.Context, r io.Reader, root fs.Root, dest string, o ExtractOptions) error {
	x := &extractor{ctx: ctx, root: root, dest: dest, o: o, u: &unpacker{ctx: ctx, budget: budget{o.Limits.orDefault()}, buf: make([]byte, 256<<10)}}
	x.u.filler = newFiller(x.u.disk())
	defer x.u.filler.stop()
	tr := tar.NewReader(r)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return archiveError(err)
		}
		if err := x.entry(h, tr); err != nil {
			return err
		}
	}
	if err := x.u.filler.stop(); err != nil {
		return err
	}
	for i := len(x.dirs) - 1; i >= 0; i-- { // what is put into a directory later changes its times
		d := x.dirs[i]
		if fd, err := root.Open(d.path, unix.O_PATH|unix.O_DIRECTORY, 0); err == nil {
			if d.acl != "" {
				_ = unix.Setxattr(self(fd), defaultACL, []byte(d.acl), 0)
			}
			unix.UtimesNanoAt(unix.AT_FDCWD, self(fd), d.times[:], 0)
			unix.Close(fd)
		}
	}
	return nil
}

type extractor struct {
	ctx  context.Context
	root fs.Root
	dest string
	o    ExtractOptions
	u    *unpacker
	dirs []dirTime
}

type dirTime struct {
	path  string
	times [2]unix.Timespec
	acl   string // default ACL: what is put into it must not inherit it
}

// self is a path that leads to what fd is open on, O_PATH or not, and to nothing else.
func self(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func (x *extractor) entry(h *tar.Header, r io.Reader) error {
	if err := x.u.budget.entry(); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	p, err := clean(h.Name)
	if err != nil {
		return err
	}
	if p == "" { // the destination itself, which is there and stays as it is
		return nil
	}
	full := path.Join("/", x.dest, p)
	dir, name := fs.Split(full)
	parent, err := x.root.MkdirAll(dir, 0o755)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	var st unix.Stat_t
	switch err := unix.Fstatat(parent, name, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case err == unix.ENOENT:
	case err != nil:
		return pathError("look up", full, err)
	default:
		isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
		switch {
		case x.o.KeepKind && isDir && h.Typeflag != tar.TypeDir:
			return errs.Invalid.Errorf("cannot overwrite directory %q with non-directory %q", full, x.dest)
		case x.o.KeepKind && !isDir && h.Typeflag == tar.TypeDir:
			return errs.Invalid.Errorf("cannot overwrite non-directory %q with directory %q", full, x.dest)
		case isDir && h.Typeflag == tar.TypeDir:
			return x.finish(parent, name, full, h)
		}
		if isRegular(h) && !isDir {
			return x.replace(parent, name, full, h, r)
		}
		if err := removeAll(parent, name); err != nil {
			return err
		}
	}
	return x.make(parent, name, full, h, r)
}

func isRegular(h *tar.Header) bool {
	return h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeCont || h.Typeflag == tar.TypeGNUSparse
}

// replace puts a file in the place of another, which goes when all of the new one is there: the disk may be full before.
func (x *extractor) replace(parent int, name, full string, h *tar.Header, r io.Reader) error {
	tmp := ".gantry-" + ids.Short(ids.New())
	if err := x.make(parent, tmp, full, h, r); err != nil {
		return err
	}
	if err := unix.Renameat(parent, tmp, parent, name); err != nil {
		unix.Unlinkat(parent, tmp, 0)
		return pathError("replace", full, err)
	}
	return nil
}

func (x *extractor) make(parent int, name, full string, h *tar.Header, r io.Reader) error {
	mode := uint32(h.Mode & 0o7777)
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		if err := x.u.budget.bytes(h.Size); err != nil {
			return err
		}
		fd, err := unix.Openat(parent, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return pathError("create", full, err)
		}
		dir, err := unix.FcntlInt(uintptr(parent), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			unix.Close(fd)
			return pathError("create", full, err)
		}
		file := &filled{fd: fd, dir: dir, name: name, full: full, size: h.Size}
		return x.u.content(file, r, func() error { return x.attributes(fd, full, h) })
	case tar.TypeDir:
		if err := unix.Mkdirat(parent, name, 0o700); err != nil {
			return pathError("make directory", full, err)
		}
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) > maxPath || strings.IndexByte(h.Linkname, 0) >= 0 {
			return errs.Invalid.Errorf("bad symbolic link %q", full)
		}
		if err := unix.Symlinkat(h.Linkname, parent, name); err != nil {
			return pathError("make symbolic link", full, err)
		}
	case tar.TypeLink:
		return x.hardLink(parent, name, full, h)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		kind := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[h.Typeflag]
		if h.Typeflag == tar.TypeChar && h.Devmajor == 0 && h.Devminor == 0 {
			return errs.Invalid.Errorf("%q: no device has the number 0:0", full) // in an overlay's upper directory it would be a whiteout
		}
		if h.Devmajor < 0 || h.Devminor < 0 || h.Devmajor > 1<<31 || h.Devminor > 1<<31 {
			return errs.Invalid.Errorf("%q: bad device number", full)
		}
		if err := unix.Mknodat(parent, name, kind|mode, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)))); err != nil {
			return pathError("make device", full, err)
		}
	default:
		return errs.Invalid.Errorf("%q: unknown entry type %q", full, h.Typeflag)
	}
	return x.finish(parent, name, full, h)
}

// hardLink links to an earlier entry, by its name in the archive.
func (x *extractor) hardLink(parent int, name, full string, h *tar.Header) error {
	target, err := clean(h.Linkname)
	if err != nil || target == "" {
		return errs.Invalid.Errorf("%q: bad hard link to %q", full, h.Linkname)
	}
	dir, base := fs.Split(path.Join("/", x.dest, target))
	from, err := x.root.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	if err := unix.Linkat(from, base, parent, name, 0); err != nil {
		return pathError("hard link", full, err)
	}
	return nil
}

// finish sets the attributes of parent/name, held by a descriptor so that nothing can take its place meanwhile.
func (x *extractor) finish(parent int, name, full string, h *tar.Header) error {
	fd, err := unix.Openat(parent, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return pathError("open", full, err)
	}
	defer unix.Close(fd)
	if h.Typeflag == tar.TypeSymlink {
		uid, gid, err := x.owner(h)
		if err != nil {
			return err
		}
		if err := unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
			return pathError("change owner of", full, err)
		}
		times := timesOf(h)
		unix.UtimesNanoAt(parent, name, times[:], unix.AT_SYMLINK_NOFOLLOW)
		return nil
	}
	return x.attributes(fd, full, h)
}

func (x *extractor) owner(h *tar.Header) (int, int, error) {
	if x.o.Owner != nil {
		return x.o.Owner[0], x.o.Owner[1], nil
	}
	return x.u.owner(h)
}

// attributes sets owner, mode, xattrs and times of what fd is open on; it is not a symbolic link.
func (x *extractor) attributes(fd int, full string, h *tar.Header) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return pathError("change", full, unix.ELOOP)
	}
	uid, gid, err := x.owner(h)
	if err != nil {
		return err
	}
	if err := unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
		return pathError("change owner of", full, err)
	}
	if err := unix.Chmod(self(fd), uint32(h.Mode&0o7777)); err != nil {
		return pathError("change mode of", full, err)
	}
	for k, v := range h.PAXRecords {
		attr, ok := strings.CutPrefix(k, xattrRecord)
		if !ok || attr == "" || reservedXattr(attr) || attr == defaultACL { // that comes when the directory is complete
			continue
		}
		err := unix.Setxattr(self(fd), attr, []byte(v), 0)
		if err != nil && err != unix.ENOTSUP && err != unix.EPERM {
			return fmt.Errorf("set xattr %s of %q: %w", attr, full, err)
		}
	}
	times := timesOf(h)
	if h.Typeflag == tar.TypeDir {
		x.dirs = append(x.dirs, dirTime{full, times, h.PAXRecords[xattrRecord+defaultACL]})
		return nil
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, self(fd), times[:], 0); err != nil {
		return pathError("set times of", full, err)
	}
	return nil
}
