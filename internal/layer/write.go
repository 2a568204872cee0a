package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/errs"
)

// Node is a file as a copy of it has it.
type Node struct {
	Mode     uint32 // st_mode of stat(2): type and permissions
	UID, GID uint32
	Size     int64 // bytes, of a regular file
	Rdev     uint64
	Mtime    time.Time
	Link     string            // where a symbolic link points
	Xattrs   map[string]string // those that archives carry
	// Inode tells which paths of one tree are the same file; zero: it has one path alone.
	Inode [2]uint64
}

// IsDir reports whether it is a directory.
func (n *Node) IsDir() bool { return n.Mode&unix.S_IFMT == unix.S_IFDIR }

// IsRegular reports whether it is a regular file.
func (n *Node) IsRegular() bool { return n.Mode&unix.S_IFMT == unix.S_IFREG }

// IsDevice tells whether it is a device.
func (n *Node) IsDevice() bool {
	return n.Mode&unix.S_IFMT == unix.S_IFBLK || n.Mode&unix.S_IFMT == unix.S_IFCHR
}

// IsLink reports whether it is a symbolic link.
func (n *Node) IsLink() bool { return n.Mode&unix.S_IFMT == unix.S_IFLNK }

// Types of a Node's Mode.
const (
	TypeDir  = uint32(unix.S_IFDIR)
	TypeFile = uint32(unix.S_IFREG)
	TypeLink = uint32(unix.S_IFLNK)
	TypeFIFO = uint32(unix.S_IFIFO)
)

// Writer makes files in a draft without running anything. Paths are those of the whole file system that the draft is on top
// of: links are followed inside it, and what lies below comes along as overlayfs would have it. It is not for several goroutines.
type Writer struct {
	u   *unpacker
	fds []int
}

// Write begins to write files into the draft.
func (d *Draft) Write(ctx context.Context) (*Writer, error) {
	fds, err := d.open()
	if err != nil {
		return nil, err
	}
	u := &unpacker{ctx: ctx, t: newTree(Target{Root: fds[0], Lower: fds[1:]}), budget: budget{d.s.limits}, buf: make([]byte, 256<<10)}
	u.filler = &filler{disk: u.disk()} // what is written may be looked at before the end
	return &Writer{u, fds}, nil
}

// Beside returns a writer of the same draft for another goroutine: it puts files, which this one has admitted, into directories that
// this one has made. It is closed before this one is.
func (w *Writer) Beside() *Writer {
	u := &unpacker{ctx: w.u.ctx, t: newTree(Target{Root: w.fds[0], Lower: w.fds[1:]}), budget: budget{Limits{Bytes: math.MaxInt64, Entries: math.MaxInt64}}, buf: make([]byte, 256<<10)}
	u.filler = &filler{disk: w.u.disk()}
	return &Writer{u, nil}
}

// Admit counts a file of so many bytes that a writer beside this one will put.
func (w *Writer) Admit(size int64) error {
	if err := w.u.budget.entry(); err != nil {
		return err
	}
	return w.u.budget.bytes(size)
}

// Close ends the writing.
func (w *Writer) Close() error {
	err := w.u.setTimes()
	w.u.t.close()
	closeAll(w.fds)
	return err
}

// lookup finds what the whole file system has at a path, links in all but the last name followed, and in that too with follow.
// It makes nothing. The caller closes the entry; kind 0 is: nothing there.
func (w *Writer) lookup(name string, follow bool) (canonical string, e *lowerEntry, err error) {
	done, rest := "", strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		n := rest[0]
		rest = rest[1:]
		switch n {
		case "", ".":
			continue
		case "..":
			done, _ = split(done)
			continue
		}
		next := join(done, n)
		if len(next) > maxPath {
			return "", nil, errs.Invalid.Errorf("path is longer than %d bytes", maxPath)
		}
		e, err := lookupLower(w.fds, next)
		if err != nil {
			return "", nil, err
		}
		last := strings.Trim(strings.Join(rest, ""), ".") == ""
		if e.kind() == unix.S_IFLNK && (follow || !last) {
			target, err := readlink(e.dirfd, e.name)
			e.close()
			if err != nil {
				return "", nil, err
			}
			if links++; links > maxSymlinks {
				return "", nil, errs.Invalid.Errorf("%q: too many symbolic links", name)
			}
			if strings.HasPrefix(target, "/") {
				done = ""
			}
			rest = append(strings.Split(target, "/"), rest...)
			continue
		}
		if last || e.kind() == 0 {
			return join(next, strings.Join(rest, "/")), e, nil
		}
		e.close()
		if e.kind() != unix.S_IFDIR {
			return next, &lowerEntry{}, nil
		}
		done = next
	}
	e = &lowerEntry{dirfd: w.fds[0], name: "."}
	return done, e, unix.Fstat(w.fds[0], &e.st)
}

// Lookup describes what is at path; with follow, where a link there leads. It reports whether there is anything.
func (w *Writer) Lookup(name string, follow bool) (Node, bool, error) {
	_, e, err := w.lookup(name, follow)
	if err != nil {
		return Node{}, false, err
	}
	defer e.close()
	if e.kind() == 0 {
		return Node{}, false, nil
	}
	return nodeOf(&e.st), true, nil
}

// ReadFile reads a regular file of at most limit bytes; fs.ErrNotExist where there is none.
func (w *Writer) ReadFile(name string, limit int64) ([]byte, error) {
	_, e, err := w.lookup(name, true)
	if err != nil {
		return nil, err
	}
	defer e.close()
	if e.kind() != unix.S_IFREG {
		return nil, fmt.Errorf("read %s: %w", name, fs.ErrNotExist)
	}
	return readRegular(e.dirfd, e.name, limit)
}

// Names lists the directory at path.
func (w *Writer) Names(name string) ([]string, error) {
	at, e, err := w.lookup(name, true)
	if err != nil {
		return nil, err
	}
	e.close()
	if e.kind() != unix.S_IFDIR {
		return nil, nil
	}
	c := comparer{lower: w.fds}
	if at = strings.Trim(at, "/"); at == "" {
		at = "."
	}
	return c.namesBelow(at)
}

// MkdirAll makes path with what is missing above it. What is there stays; what is made gets mode, owner and time, where one is given.
func (w *Writer) MkdirAll(name string, mode, uid, gid uint32, mtime *time.Time) error {
	p, err := clean(name)
	if err != nil || p == "" {
		return err
	}
	_, e, err := w.lookup(p, true)
	if err != nil {
		return err
	}
	e.close()
	switch e.kind() {
	case unix.S_IFDIR:
		return nil
	case 0:
	default:
		return errs.Invalid.Errorf("mkdir /%s: not a directory", p)
	}
	if up, _ := split(p); up != "" {
		if err := w.MkdirAll(up, mode, uid, gid, mtime); err != nil {
			return err
		}
	}
	if target, e, err := w.lookup(p, false); err != nil {
		return err
	} else if e.close(); e.kind() == unix.S_IFLNK { // it leads nowhere: what it names is made
		to, e, err := w.lookup(target, true)
		if err != nil {
			return err
		}
		e.close()
		if to == target {
			return errs.Invalid.Errorf("mkdir /%s: a link that leads nowhere is in the way", p)
		}
		return w.MkdirAll(to, mode, uid, gid, mtime)
	}
	n := Node{Mode: unix.S_IFDIR | mode&0o7777, UID: uid, GID: gid, Mtime: time.Now()}
	if mtime != nil {
		n.Mtime = *mtime
	}
	return w.Put(p, &n, nil)
}

// Put makes what n says at path, in place of what is there; a directory takes in one that is there, and gives it its attributes.
// Directories on the way that are missing are made, root's. content is that of a regular file.
func (w *Writer) Put(name string, n *Node, content io.Reader) error {
	w.u.t.reap()
	p, err := clean(name)
	if err != nil {
		return err
	}
	if err := w.u.budget.entry(); err != nil {
		return err
	}
	h := n.header()
	if p == "" {
		if !n.IsDir() {
			return errs.Invalid.Errorf("the root can only be a directory")
		}
		return w.u.attributes(w.u.t.root, ".", "", h)
	}
	d, base, err := w.u.t.find(p)
	if err != nil {
		return err
	}
	if h.Typeflag == tar.TypeChar && n.Rdev == 0 {
		return errs.Invalid.Errorf("%q: no device has the number 0:0", p) // in an overlay's upper directory it would be a whiteout
	}
	return w.u.file(d, p, base, h, content)
}

// Link makes path the same file as one that was made in this draft before, at old.
func (w *Writer) Link(old, name string) error {
	w.u.t.reap()
	p, err := clean(name)
	if err != nil {
		return err
	}
	d, base, err := w.u.t.find(p)
	if err != nil {
		return err
	}
	return w.u.hardLink(d, p, base, &tar.Header{Typeflag: tar.TypeLink, Name: p, Linkname: strings.TrimPrefix(path.Clean("/"+old), "/")})
}

// Remove takes away what is at path, with all below it; it reports whether there was anything.
func (w *Writer) Remove(name string) (bool, error) {
	w.u.t.reap()
	p, err := clean(name)
	if err != nil {
		return false, err
	}
	if p == "" {
		return false, errs.Invalid.Errorf("the root cannot be removed")
	}
	_, e, err := w.lookup(p, false)
	if err != nil {
		return false, err
	}
	e.close()
	if e.kind() == 0 {
		return false, nil
	}
	d, base, err := w.u.t.find(p)
	if err != nil {
		return false, err
	}
	var st unix.Stat_t
	switch err := unix.Fstatat(d.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case err == nil:
		if err := w.u.remove(d, p, base, &st); err != nil {
			return false, err
		}
	case err != unix.ENOENT:
		return false, pathError("look up", p, err)
	default:
		w.u.t.changed(p)
	}
	below, err := w.u.t.below(d, base)
	if err != nil {
		return false, err
	}
	below.close()
	if below.kind() == 0 {
		return true, nil
	}
	if err := unix.Mknodat(d.fd, base, unix.S_IFCHR, 0); err != nil {
		return false, pathError("remove", p, err)
	}
	return true, nil
}

// Untar unpacks a plain archive into the directory dest, as tar(1) would: names mean themselves. owner, where it is given, is
// everything's. What is wrong with the archive is errs.Invalid.
func (w *Writer) Untar(r io.Reader, dest string, owner *[2]uint32) error {
	tr := tar.NewReader(r)
	for {
		if err := w.u.ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return archiveError(err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := w.untar(h, tr, dest, owner); err != nil {
			return fmt.Errorf("unpack %q: %w", h.Name, err)
		}
	}
}

func (w *Writer) untar(h *tar.Header, r io.Reader, dest string, owner *[2]uint32) error {
	w.u.t.reap()
	if err := w.u.budget.entry(); err != nil {
		return err
	}
	p, err := clean(h.Name)
	if err != nil || p == "" {
		return err
	}
	if owner != nil {
		h.Uid, h.Gid = int(owner[0]), int(owner[1])
	}
	if dest, err = clean(dest); err != nil {
		return err
	}
	full := join(dest, p)
	d, base, err := w.u.t.find(full)
	if err != nil {
		return err
	}
	if h.Typeflag == tar.TypeChar && h.Devmajor == 0 && h.Devminor == 0 {
		return errs.Invalid.Errorf("%q: no device has the number 0:0", p)
	}
	if h.Typeflag == tar.TypeLink {
		target, err := clean(h.Linkname)
		if err != nil {
			return fmt.Errorf("hard link: %w", err)
		}
		h.Linkname = join(dest, target)
		return w.u.hardLink(d, full, base, h)
	}
	if h.Typeflag == tar.TypeDir { // through a link to a directory, as tar does
		if at, e, err := w.lookup(full, true); err != nil {
			return err
		} else if e.close(); e.kind() == unix.S_IFDIR && at != full {
			return nil
		}
	}
	return w.u.file(d, full, base, h, r)
}

// header is the node as the unpacker takes it.
func (n *Node) header() *tar.Header {
	h := &tar.Header{Mode: int64(n.Mode & 0o7777), Uid: int(n.UID), Gid: int(n.GID), Size: n.Size, ModTime: n.Mtime, Linkname: n.Link}
	switch n.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		h.Typeflag = tar.TypeDir
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR:
		h.Typeflag = tar.TypeChar
	case unix.S_IFBLK:
		h.Typeflag = tar.TypeBlock
	case unix.S_IFREG:
		h.Typeflag = tar.TypeReg
	default:
		h.Typeflag = 0xff // a socket has no copy: refused as an unknown type
	}
	h.Devmajor, h.Devminor = int64(unix.Major(n.Rdev)), int64(unix.Minor(n.Rdev))
	for k, v := range n.Xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[xattrRecord+k] = v
	}
	return h
}

func nodeOf(st *unix.Stat_t) Node {
	n := Node{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Rdev: st.Rdev, Mtime: time.Unix(st.Mtim.Unix())}
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		n.Size = st.Size
	}
	if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		n.Inode = [2]uint64{st.Dev, st.Ino}
	}
	return n
}

func readRegular(dirfd int, name string, limit int64) ([]byte, error) {
	f, err := openRegular(dirfd, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, min(limit, math.MaxInt64-1)+1))
	if err == nil && int64(len(data)) > limit {
		err = errs.Invalid.Errorf("%s is larger than %d bytes", name, limit)
	}
	return data, err
}
