package layer

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/errs"
)

// PackOptions say what Pack makes of a tree. The zero value is a plain archive of everything.
type PackOptions struct {
	// Layer makes an OCI layer of a directory that overlayfs wrote: its marks become whiteouts, and its own
	// xattrs are left out.
	Layer bool
	// Root is the name of the top entry; what is in it is named below. Empty: the top has no entry, and names are relative.
	Root string
	// RootEntry adds an entry "./" for the top when Root is empty.
	RootEntry bool
	// Live says that somebody may be writing the tree: a file that shrinks is filled up with zeros, what disappears
	// is left out. Otherwise either is an error.
	Live bool
	// Skip leaves out paths, relative to the top, with all below them. It may be nil.
	Skip func(path string, st *unix.Stat_t) bool
}

// Pack writes the tree below the directory root to w as a tar stream (POSIX pax). The same tree makes the same bytes: names
// come in the order of their bytes, a directory before what is in it; times are whole seconds, as Docker's are;
// owners are numbers. Sockets have no form in an archive and are left out. Hard links within the tree stay links.
func Pack(ctx context.Context, w io.Writer, root int, o PackOptions) error {
	p := newPacker(ctx, w, o)
	if err := p.pack(func() error { return p.top(root) }); err != nil {
		return fmt.Errorf("pack: %w", err)
	}
	return nil
}

// PackFile is Pack of what dirfd/name is, a directory or anything else, under the name root. A symbolic link
// is packed, not followed.
func PackFile(ctx context.Context, w io.Writer, dirfd int, name, root string, o PackOptions) error {
	o.Root = root
	p := newPacker(ctx, w, o)
	if err := p.pack(func() error { return p.entry(dirfd, name, root, "") }); err != nil {
		return fmt.Errorf("pack: %w", err)
	}
	return nil
}

type inode struct{ dev, ino uint64 }

// packer walks the tree in one goroutine, reads files in others, ahead of the archive, and writes what they found in the order
// of the walk (packahead.go).
type packer struct {
	ctx   context.Context
	to    *bufio.Writer
	w     *tar.Writer
	o     PackOptions
	links map[inode]string // first name of files with several
	buf   []byte
	scout
}

func newPacker(ctx context.Context, w io.Writer, o PackOptions) *packer {
	to := bufio.NewWriterSize(w, 256<<10)
	return &packer{ctx: ctx, to: to, w: tar.NewWriter(to), o: o, links: map[inode]string{}, buf: make([]byte, 512<<10)}
}

// top packs the directory root itself.
func (p *packer) top(root int) error {
	name := p.o.Root
	if name == "" && p.o.RootEntry {
		name = "."
	}
	if name != "" {
		var st unix.Stat_t
		if err := unix.Fstat(root, &st); err != nil {
			return err
		}
		h, err := p.header(root, ".", strings.TrimSuffix(name, "/")+"/", &st, "")
		if err == nil {
			err = p.emit(&packed{header: h})
		}
		if err != nil {
			return err
		}
	}
	return p.children(root, p.o.Root, "", 0)
}

// children packs what is in the directory fd, which has the name in the archive and the path from the top.
func (p *packer) children(fd int, name, path string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%q is nested too deep", path)
	}
	names, err := readNames(fd)
	if err != nil {
		return p.lost(err)
	}
	slices.Sort(names)
	for _, n := range names {
		child := n
		if name != "" {
			child = strings.TrimSuffix(name, "/") + "/" + n
		}
		if err := p.entryAt(fd, n, child, join(path, n), depth); err != nil {
			return err
		}
	}
	return nil
}

func (p *packer) entry(dirfd int, base, name, path string) error {
	return p.entryAt(dirfd, base, name, path, 0)
}

// lost forgives a live tree that something is gone.
func (p *packer) lost(err error) error {
	if p.o.Live && errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

func (p *packer) entryAt(dirfd int, base, name, path string, depth int) error {
	if err := p.ctx.Err(); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dirfd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return p.lost(pathError("look up", path, err))
	}
	if p.o.Skip != nil && p.o.Skip(path, &st) {
		return nil
	}
	if p.o.Layer && isWhiteout(&st) {
		dir, last := split(name)
		return p.mark(join(dir, whiteoutPrefix+last))
	}
	if p.o.Layer && strings.HasPrefix(base, whiteoutPrefix) {
		// Wherever this layer is unpacked, it would not make this file but delete another.
		return errs.Invalid.Errorf("%q cannot be in an image: in its layers, names that begin with %s stand for deleted files", "/"+path, whiteoutPrefix)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		return nil
	case unix.S_IFDIR:
		return p.directory(dirfd, base, name, path, depth)
	case unix.S_IFREG:
		return p.regular(dirfd, base, name, path)
	case unix.S_IFLNK:
		target, err := readlink(dirfd, base)
		if err != nil {
			return p.lost(pathError("read link", path, err))
		}
		return p.linked(dirfd, base, name, &st, target)
	}
	return p.linked(dirfd, base, name, &st, "")
}

// linked is an entry without content, once for every inode.
func (p *packer) linked(dirfd int, base, name string, st *unix.Stat_t, target string) error {
	h, err := p.header(dirfd, base, name, st, target)
	if err != nil || h == nil {
		return err
	}
	return p.emit(&packed{header: h, st: *st})
}

// again writes a hard link if the inode has an entry already.
func (p *packer) again(name string, st *unix.Stat_t) (bool, error) {
	if st.Nlink < 2 {
		return false, nil
	}
	key := inode{st.Dev, st.Ino}
	first, ok := p.links[key]
	if !ok {
		p.links[key] = name
		return false, nil
	}
	h := base(name, st)
	h.Typeflag, h.Linkname = tar.TypeLink, first
	return true, p.w.WriteHeader(h)
}

// mark writes a whiteout. It has neither owner nor time: nothing but its name counts.
func (p *packer) mark(name string) error {
	return p.emit(&packed{header: &tar.Header{Typeflag: tar.TypeReg, Name: name, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}})
}

func (p *packer) directory(dirfd int, base, name, path string, depth int) error {
	fd, err := unix.Openat(dirfd, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return p.lost(pathError("open", path, err))
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return pathError("look up", path, err)
	}
	h, err := p.header(fd, ".", strings.TrimSuffix(name, "/")+"/", &st, "")
	if err == nil {
		err = p.emit(&packed{header: h})
	}
	if err != nil {
		return err
	}
	if p.o.Layer {
		opaque, err := isOpaque(fd, ".")
		if err != nil {
			return err
		}
		if opaque {
			if err := p.mark(join(name, opaqueName)); err != nil {
				return err
			}
		}
	}
	return p.children(fd, name, path, depth+1)
}

func (p *packer) regular(dirfd int, name, as, path string) error {
	// O_NONBLOCK: what was a file a moment ago may have become a FIFO.
	fd, err := unix.Openat(dirfd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return p.lost(pathError("open", path, err))
	}
	f := &packed{name: as, path: path, fd: fd, file: true}
	if err := unix.Fstat(fd, &f.st); err != nil {
		unix.Close(fd)
		return pathError("look up", path, err)
	}
	if f.st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return nil // changed in between
	}
	return p.emit(f)
}

// content writes the file from at up to size bytes. Holes are not read.
func (p *packer) content(fd int, at, size int64, sparse bool) error {
	for at < size {
		end := size
		if sparse {
			data, err := unix.Seek(fd, at, unix.SEEK_DATA)
			switch {
			case err == unix.ENXIO: // a hole up to the end
				return p.zeros(size - at)
			case err == nil:
				data = min(data, size)
				if err := p.zeros(data - at); err != nil {
					return err
				}
				if at = data; at == size {
					return nil
				}
				if hole, err := unix.Seek(fd, at, unix.SEEK_HOLE); err == nil && hole > at {
					end = min(hole, size)
				}
			default:
				sparse = false // a file system that can't tell
			}
		}
		for at < end {
			if err := p.ctx.Err(); err != nil {
				return err
			}
			n, err := unix.Pread(fd, p.buf[:min(int64(len(p.buf)), end-at)], at)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return err
			}
			if n == 0 {
				if !p.o.Live {
					return io.ErrUnexpectedEOF
				}
				return p.zeros(size - at)
			}
			if _, err := p.w.Write(p.buf[:n]); err != nil {
				return err
			}
			at += int64(n)
		}
	}
	return nil
}

func (p *packer) zeros(n int64) error {
	for n > 0 {
		if err := p.ctx.Err(); err != nil {
			return err
		}
		m := min(n, int64(len(zeros)))
		if _, err := p.w.Write(zeros[:m]); err != nil {
			return err
		}
		n -= m
	}
	return nil
}

// base is a header without type.
func base(name string, st *unix.Stat_t) *tar.Header {
	return &tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Sec, 0), Format: tar.FormatPAX,
	}
}

// header makes the header of dirfd/file, which is called name in the archive; nil for what has no form there.
func (p *packer) header(dirfd int, file, name string, st *unix.Stat_t, target string) (*tar.Header, error) {
	h := base(name, st)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, st.Size
	case unix.S_IFDIR:
		h.Typeflag = tar.TypeDir
	case unix.S_IFLNK:
		h.Typeflag, h.Linkname = tar.TypeSymlink, target
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	default:
		return nil, nil
	}
	names, err := listXattrs(dirfd, file)
	if err != nil {
		return h, p.lost(err)
	}
	return h, p.xattrs(h, names, func(x string) ([]byte, error) { return getXattr(dirfd, file, x) })
}

// carried reports whether an xattr goes into archives: what users and packages set (ACLs and capabilities
// among it), not what the host's security modules and overlayfs keep.
func carried(name string) bool {
	switch {
	case reservedXattr(name), strings.Contains(name, "="): // pax has no way to write the latter
		return false
	case name == "security.capability", strings.HasPrefix(name, "user."),
		name == "system.posix_acl_access", name == "system.posix_acl_default":
		return true
	case strings.HasPrefix(name, "trusted."):
		return true
	}
	return false
}

// xattrs adds those of names to h; get reads one.
func (p *packer) xattrs(h *tar.Header, names []string, get func(string) ([]byte, error)) error {
	for _, x := range names {
		if !carried(x) {
			continue
		}
		v, err := get(x)
		if err != nil {
			if errors.Is(err, unix.ENODATA) { // taken away since
				continue
			}
			return p.lost(err)
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[xattrRecord+x] = string(v)
	}
	return nil
}
