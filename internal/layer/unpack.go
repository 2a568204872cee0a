package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/errs"
)

// Limits bound what one layer may cost, whatever its archive claims. A zero field means the default.
type Limits struct {
	Bytes   int64 // of the files as they appear, holes included; default 1 TiB
	Entries int64 // default 10 million
	// Free is what is to stay free on the disk, in bytes; default 256 MiB or 2 % of it, whichever is less.
	Free int64
}

func (l Limits) orDefault() Limits {
	if l.Bytes <= 0 {
		l.Bytes = 1 << 40
	}
	if l.Entries <= 0 {
		l.Entries = 10_000_000
	}
	return l
}

type budget struct{ left Limits }

func (b *budget) bytes(n int64) error {
	if n < 0 || n > b.left.Bytes {
		return errs.Invalid.Errorf("layer is larger than its limit")
	}
	b.left.Bytes -= n
	return nil
}

func (b *budget) entry() error {
	if b.left.Entries--; b.left.Entries < 0 {
		return errs.Invalid.Errorf("layer has more entries than its limit")
	}
	return nil
}

// IDMap turns an owner in the archive into one on disk; for user namespaces. Nil keeps them.
type IDMap func(uid, gid int) (int, int, error)

// Target is where and how a layer is unpacked.
type Target struct {
	Root   int   // descriptor of an empty directory
	Lower  []int // roots of the layers below, topmost first
	Limits Limits
	// Below, if set, is asked instead of Lower for layers of which there is at least one, when they first matter:
	// they may still be in the making. It is called by one goroutine and may be called again.
	Below func() ([]int, error)
	Map   IDMap
}

// Unpacked says what an archive held.
type Unpacked struct {
	Size    int64 // bytes of its files, as Docker counts a layer's size
	Entries int64
}

// Names with this prefix are the OCI layer format's own (image-spec, layer.md, "Whiteouts").
const (
	whiteoutPrefix = ".wh."
	metaPrefix     = ".wh..wh." // AUFS's; all but the opaque mark are to be ignored
	opaqueName     = ".wh..wh..opq"
)

type unpacker struct {
	ctx    context.Context
	t      *tree
	budget budget
	idmap  IDMap
	buf    []byte
	done   Unpacked
	filler *filler
}

// Unpack makes the files of a plain layer archive below t.Root and reads tr to its end. Whiteouts become overlayfs's; a
// name in the archive can't reach outside the root, nor change a layer below. When it fails the directory
// holds a part and is to be thrown away. What is wrong with the archive is errs.Invalid.
func Unpack(ctx context.Context, r io.Reader, t Target) (Unpacked, error) {
	u := &unpacker{
		ctx:    ctx,
		t:      newTree(t),
		budget: budget{t.Limits.orDefault()},
		idmap:  t.Map,
		buf:    make([]byte, 256<<10),
	}
	u.filler = newFiller(u.disk())
	defer u.filler.stop()
	defer u.t.close()
	based := !u.t.cut
	if err := unix.Fchmod(t.Root, 0o755); err != nil {
		return Unpacked{}, fmt.Errorf("make layer root: %w", err)
	}
	tr := tar.NewReader(r)
	for {
		if err := ctx.Err(); err != nil {
			return Unpacked{}, err
		}
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) { // ours is the check that counts
			return Unpacked{}, archiveError(err)
		}
		if err := u.entry(h, tr); err != nil {
			if ferr := u.filler.failed(); ferr != nil { // an earlier file's
				return Unpacked{}, ferr
			}
			return Unpacked{}, fmt.Errorf("unpack %q: %w", h.Name, err)
		}
	}
	// What follows the end mark belongs to the stream, and to its digest.
	if _, err := io.CopyBuffer(io.Discard, &bounded{r, &u.budget}, u.buf); err != nil {
		return Unpacked{}, archiveError(err)
	}
	if err := u.filler.stop(); err != nil {
		return Unpacked{}, err
	}
	if u.t.cut && based {
		if err := u.hideBelow(); err != nil {
			return Unpacked{}, err
		}
	}
	if _, own := u.t.made[""]; based && !own {
		if err := u.rootAsBelow(); err != nil {
			return Unpacked{}, err
		}
	}
	if err := u.setTimes(); err != nil {
		return Unpacked{}, err
	}
	return u.done, nil
}

// bounded charges what is read to the budget: padding is not free either.
type bounded struct {
	r io.Reader
	b *budget
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if berr := b.b.bytes(int64(n)); berr != nil {
		return n, berr
	}
	return n, err
}

// archiveError makes the tar reader's own findings the archive's fault; others (the disk's) keep their kind.
func archiveError(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errs.Invalid.Errorf("read layer: %w", err)
	}
	return fmt.Errorf("read layer: %w", err)
}

// rootAsBelow gives the root, of which the archive says nothing, the attributes that the layers below give it.
func (u *unpacker) rootAsBelow() error {
	lower, err := u.t.lower()
	if err != nil {
		return err
	}
	e := &lowerEntry{dirfd: lower[0], name: "."}
	if err := unix.Fstatat(e.dirfd, ".", &e.st, 0); err != nil {
		return fmt.Errorf("make layer root: %w", err)
	}
	if err := copyAttributes(u.t.root, ".", e); err != nil {
		return fmt.Errorf("make layer root: %w", err)
	}
	acl, err := postponeACL(u.t.root, ".")
	if err != nil {
		return fmt.Errorf("make layer root: %w", err)
	}
	u.t.made[""] = dirTimes{e.st.Atim, e.st.Mtim, acl}
	return nil
}

// clean makes an archive's name relative to the root: "" is the root itself.
func clean(name string) (string, error) {
	if len(name) > maxPath {
		return "", errs.Invalid.Errorf("name is longer than %d bytes", maxPath)
	}
	if strings.IndexByte(name, 0) >= 0 {
		return "", errs.Invalid.Errorf("name has a zero byte")
	}
	p := path.Clean(strings.TrimLeft(name, "/"))
	if p == ".." || strings.HasPrefix(p, "../") {
		return "", errs.Invalid.Errorf("name %q leads out of the root", name)
	}
	if p == "." {
		return "", nil
	}
	return p, nil
}

func (u *unpacker) entry(h *tar.Header, r io.Reader) error {
	u.t.reap()
	if err := u.budget.entry(); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil // describes the archive (git archive writes one), as Docker takes it
	}
	if h.Name == "" {
		return errs.Invalid.Errorf("name is empty")
	}
	p, err := clean(h.Name)
	if err != nil {
		return err
	}
	if p == "" {
		if h.Typeflag != tar.TypeDir {
			return errs.Invalid.Errorf("the root can only be a directory")
		}
		return u.attributes(u.t.root, ".", "", h)
	}
	up, name := split(p)
	for part := range strings.SplitSeq(p, "/") {
		if strings.HasPrefix(part, metaPrefix) && (part != opaqueName || part != name) {
			return nil // AUFS's bookkeeping
		}
	}
	if strings.HasPrefix(up, whiteoutPrefix) || strings.Contains(up, "/"+whiteoutPrefix) {
		return errs.Invalid.Errorf("name %q: the prefix %s is reserved", p, whiteoutPrefix)
	}
	d, err := u.t.parent(up)
	if err != nil {
		return err
	}
	switch {
	case name == opaqueName:
		return u.opaque(d, up)
	case strings.HasPrefix(name, whiteoutPrefix):
		return u.whiteout(d, up, strings.TrimPrefix(name, whiteoutPrefix))
	case h.Typeflag == tar.TypeChar && h.Devmajor == 0 && h.Devminor == 0:
		// No such device can exist: in an overlay it is a whiteout, so treat it as the one it would act as.
		return u.whiteout(d, up, name)
	}
	return u.file(d, p, name, h, r)
}

// opaque hides what the lower layers have in d.
func (u *unpacker) opaque(d *dir, up string) error {
	if d.cut {
		return nil
	}
	if d.path == "" {
		u.t.cut = true // overlayfs merges roots whatever their marks say: see hideBelow
		u.t.forget()
		return nil
	}
	// Only where there is something to hide.
	e, err := u.t.lookup(d.path)
	if err != nil {
		return err
	}
	e.close()
	if e.kind() != unix.S_IFDIR {
		return nil
	}
	if err := setOpaque(d.fd, "."); err != nil {
		return err
	}
	u.t.forget() // the cached directories below show through no longer
	return nil
}

// hideBelow makes the root opaque, name by name.
func (u *unpacker) hideBelow() error {
	u.t.cut = false
	u.t.forget()
	root, err := u.t.parent("")
	if err != nil {
		return err
	}
	lower, err := u.t.lower()
	if err != nil {
		return err
	}
	for _, fd := range lower {
		names, err := readNames(fd)
		if err != nil {
			return fmt.Errorf("list lower layer: %w", err)
		}
		for _, name := range names {
			if err := u.whiteout(root, "", name); err != nil {
				return err
			}
		}
	}
	return nil
}

func readNames(dirfd int) ([]string, error) {
	fd, err := unix.Openat(dirfd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), ".")
	defer f.Close()
	return f.Readdirnames(-1)
}

// whiteout hides name of the lower layers; what this layer has under the name stays (image-spec: a whiteout applies to
// lower layers only, whatever the order in the archive). Where the lower layers have nothing of that name no mark is
// left: in a directory that is not merged overlayfs would show it.
func (u *unpacker) whiteout(d *dir, up, name string) error {
	if name == "" || name == "." || name == ".." {
		return errs.Invalid.Errorf("whiteout of %q", name)
	}
	e, err := u.t.below(d, name)
	if err != nil {
		return err
	}
	e.close()
	if e.kind() == 0 {
		return nil
	}
	u.t.changed(join(up, name))
	var st unix.Stat_t
	err = unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case err == unix.ENOENT:
		if err := unix.Mknodat(d.fd, name, unix.S_IFCHR, 0); err != nil {
			return pathError("make whiteout", join(d.path, name), err)
		}
		return nil
	case err != nil:
		return pathError("look up", join(d.path, name), err)
	case st.Mode&unix.S_IFMT == unix.S_IFDIR && e.kind() == unix.S_IFDIR:
		u.t.forget()
		return setOpaque(d.fd, name)
	}
	return nil
}

func (u *unpacker) file(d *dir, p, name string, h *tar.Header, r io.Reader) error {
	full := join(d.path, name)
	if len(full) > maxPath || d.depth >= maxDepth {
		return errs.Invalid.Errorf("path is too long or too deep")
	}
	if h.Typeflag == tar.TypeLink {
		return u.hardLink(d, p, name, h)
	}
	var st unix.Stat_t
	replaced := false
	switch err := unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR && h.Typeflag == tar.TypeDir:
		return u.attributes(d.fd, name, full, h)
	case err == nil:
		if err := u.remove(d, p, name, &st); err != nil {
			return err
		}
		replaced = true
	case err != unix.ENOENT:
		return pathError("look up", full, err)
	default:
		u.t.changed(p) // a link of a lower layer may be cached under this name
	}
	mode := uint32(h.Mode & 0o7777)
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return u.regular(d, name, full, h, r)
	case tar.TypeDir:
		if err := unix.Mkdirat(d.fd, name, 0o700); err != nil {
			return pathError("make directory", full, err)
		}
		if replaced && !d.cut { // it took the place of a whiteout, or of what would have hidden the lower one
			if err := setOpaque(d.fd, name); err != nil {
				return err
			}
		}
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) > maxPath || strings.IndexByte(h.Linkname, 0) >= 0 {
			return errs.Invalid.Errorf("bad symbolic link")
		}
		// Where it points is the container's business: nothing here or later follows it outside its root.
		if err := unix.Symlinkat(h.Linkname, d.fd, name); err != nil {
			return pathError("make symbolic link", full, err)
		}
		u.done.Size += int64(len(h.Linkname)) // Docker counts it too
	case tar.TypeChar, tar.TypeBlock:
		if h.Devmajor < 0 || h.Devmajor > math.MaxUint32 || h.Devminor < 0 || h.Devminor > math.MaxUint32 {
			return errs.Invalid.Errorf("bad device number")
		}
		kind := uint32(unix.S_IFCHR)
		if h.Typeflag == tar.TypeBlock {
			kind = unix.S_IFBLK
		}
		// Allowed as Docker allows them: only the device cgroup decides what a container may open.
		if err := unix.Mknodat(d.fd, name, kind|mode, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)))); err != nil {
			return pathError("make device", full, err)
		}
	case tar.TypeFifo:
		if err := unix.Mknodat(d.fd, name, unix.S_IFIFO|mode, 0); err != nil {
			return pathError("make fifo", full, err)
		}
	default:
		return errs.Invalid.Errorf("unknown entry type %q", h.Typeflag)
	}
	return u.attributes(d.fd, name, full, h)
}

// remove takes away what an earlier entry of the same archive made.
func (u *unpacker) remove(d *dir, p, name string, st *unix.Stat_t) error {
	u.t.changed(p)
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		// It may be cached under other names too, through links.
		u.t.forgetBelow(join(d.path, name))
	}
	return removeAll(d.fd, name)
}

// hardLink links name to an earlier entry, or to a file of a lower layer, which is copied up as overlayfs would do. The
// owner, mode and times are the target's own entry's: archives differ in what they put into a link's header.
func (u *unpacker) hardLink(d *dir, p, name string, h *tar.Header) error {
	target, err := clean(h.Linkname)
	if err != nil {
		return fmt.Errorf("hard link: %w", err)
	}
	if target == "" {
		return errs.Invalid.Errorf("hard link to the root")
	}
	from, base, err := u.t.find(target)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", target, err)
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		return errs.Invalid.Errorf("hard link to %q: the prefix %s is reserved", target, whiteoutPrefix)
	}
	var st unix.Stat_t
	err = unix.Fstatat(from.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		e, lerr := u.t.below(from, base)
		if lerr != nil {
			return lerr
		}
		defer e.close()
		switch e.kind() {
		case 0:
			return errs.Invalid.Errorf("hard link to %q, which is not there", target)
		case unix.S_IFDIR:
			return errs.Invalid.Errorf("hard link to %q, a directory", target)
		}
		if err := u.t.copyUp(from, base, e, &u.budget); err != nil {
			return err
		}
	} else if err != nil {
		return pathError("look up", target, err)
	} else if isWhiteout(&st) {
		return errs.Invalid.Errorf("hard link to %q, which this layer deletes", target)
	} else if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return errs.Invalid.Errorf("hard link to %q, a directory", target)
	}
	if from.path == d.path && base == name {
		return nil // to itself
	}
	var old unix.Stat_t
	switch err := unix.Fstatat(d.fd, name, &old, unix.AT_SYMLINK_NOFOLLOW); {
	case err == nil:
		if err := u.remove(d, p, name, &old); err != nil {
			return err
		}
	case err != unix.ENOENT:
		return pathError("look up", join(d.path, name), err)
	default:
		u.t.changed(p)
	}
	if err := unix.Linkat(from.fd, base, d.fd, name, 0); err != nil {
		if err == unix.ENOENT { // replacing name took the target away: it lay below
			err = unix.EINVAL
		}
		return pathError("hard link", join(d.path, name), err)
	}
	return nil
}

func (u *unpacker) regular(d *dir, name, full string, h *tar.Header, r io.Reader) error {
	if err := u.budget.bytes(h.Size); err != nil {
		return err
	}
	fd, err := unix.Openat(d.fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return pathError("create", full, err)
	}
	u.done.Size += h.Size
	u.done.Entries++
	uid, gid, err := u.owner(h)
	if err != nil {
		unix.Close(fd)
		return err
	}
	return u.content(&filled{fd: fd, dir: -1, full: full, size: h.Size}, r, func() error {
		if err := unix.Fchown(fd, uid, gid); err != nil {
			return pathError("change owner of", full, err)
		}
		if err := unix.Fchmod(fd, uint32(h.Mode&0o7777)); err != nil { // after chown, which takes setuid away
			return pathError("change mode of", full, err)
		}
		// By the descriptor's own link: the name may be another file's by now.
		if err := u.xattrsAt(self(fd), h, unix.Setxattr); err != nil {
			return err
		}
		times := timesOf(h)
		if err := futimens(fd, &times); err != nil {
			return pathError("set times of", full, err)
		}
		return nil
	})
}

// content fills a file, calls finish and closes it; that may come later, and so may the error.
func (u *unpacker) content(file *filled, r io.Reader, finish func() error) error {
	f, size := u.filler, file.size
	file.finish = finish
	f.file = file
	var n int64
	for n < size {
		if err := u.ctx.Err(); err != nil { // a sparse file may be all but endless
			f.abandon()
			return err
		}
		buf := f.buffer(u.buf)
		m, err := io.ReadFull(r, buf[:min(int64(len(buf)), size-n)])
		if err != nil {
			f.abandon()
			return archiveError(err)
		}
		if err := f.write(buf, m, n); err != nil {
			f.abandon()
			return err
		}
		n += int64(m)
	}
	return f.close()
}

// disk looks after the disk on which the files are made.
func (u *unpacker) disk() *disk {
	d := &disk{root: -1, keep: u.budget.left.Free}
	if u.t != nil { // what is copied into a container may fill the disk as the container itself may
		d.root = u.t.root
	}
	return d
}

func (u *unpacker) owner(h *tar.Header) (uid, gid int, err error) {
	uid, gid = h.Uid, h.Gid
	// The last one means "leave it" to chown(2).
	if uid < 0 || gid < 0 || int64(uid) >= math.MaxUint32 || int64(gid) >= math.MaxUint32 {
		return 0, 0, errs.Invalid.Errorf("bad owner %d:%d", uid, gid)
	}
	if u.idmap != nil {
		return u.idmap(uid, gid)
	}
	return uid, gid, nil
}

// attributes sets owner, mode, xattrs and times of what is not a regular file. full is its canonical path.
func (u *unpacker) attributes(dirfd int, name, full string, h *tar.Header) error {
	uid, gid, err := u.owner(h)
	if err != nil {
		return err
	}
	if err := unix.Fchownat(dirfd, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return pathError("change owner of", full, err)
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := chmodAt(dirfd, name, uint32(h.Mode&0o7777)); err != nil {
			return pathError("change mode of", full, err)
		}
	}
	if err := u.xattrs(dirfd, name, h); err != nil {
		return err
	}
	u.done.Entries++
	times := timesOf(h)
	if h.Typeflag == tar.TypeDir { // what is put into it later changes them
		u.t.made[full] = dirTimes{times[0], times[1], h.PAXRecords[xattrRecord+defaultACL]}
		return nil
	}
	if err := unix.UtimesNanoAt(dirfd, name, times[:], unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return pathError("set times of", full, err)
	}
	return nil
}

const xattrRecord = "SCHILY.xattr."

// xattrs sets the entry's extended attributes. Where the file system or the host refuses one, that is no reason not to
// have the image, except for file capabilities, without which a program silently lacks its rights.
func (u *unpacker) xattrs(dirfd int, name string, h *tar.Header) error {
	return u.xattrsAt(at(dirfd, name), h, unix.Lsetxattr)
}

func (u *unpacker) xattrsAt(path string, h *tar.Header, set func(path, attr string, value []byte, flags int) error) error {
	for k, v := range h.PAXRecords {
		attr, ok := strings.CutPrefix(k, xattrRecord)
		if !ok || attr == "" || reservedXattr(attr) || attr == defaultACL { // that comes when the directory is complete
			continue
		}
		err := set(path, attr, []byte(v), 0)
		if err == nil {
			continue
		}
		err = fmt.Errorf("set xattr %s: %w", attr, err)
		soft := false
		for _, e := range []error{unix.ENOTSUP, unix.EPERM, unix.EINVAL, unix.E2BIG, unix.ERANGE, unix.ENOSPC} {
			soft = soft || errors.Is(err, e)
		}
		if errors.Is(err, unix.ENOSPC) && !strings.HasPrefix(attr, "user.") {
			soft = false
		}
		if soft && attr != "security.capability" {
			continue
		}
		return err
	}
	return nil
}

func timesOf(h *tar.Header) [2]unix.Timespec {
	atime := h.AccessTime
	if atime.IsZero() {
		atime = h.ModTime
	}
	return [2]unix.Timespec{timespec(atime), timespec(h.ModTime)}
}

func timespec(t time.Time) unix.Timespec {
	if t.IsZero() {
		return unix.Timespec{}
	}
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}

// setTimes sets the directories' times and default ACLs, now that nothing more is put into them.
func (u *unpacker) setTimes() error {
	for p, t := range u.t.made {
		if p == "" {
			p = "."
		}
		if t.acl != "" { // refused as any other attribute may be
			_ = setXattr(u.t.root, p, defaultACL, []byte(t.acl))
		}
		// The path is canonical and everything on it a directory: no link is followed.
		err := unix.UtimesNanoAt(u.t.root, p, []unix.Timespec{t.atime, t.mtime}, unix.AT_SYMLINK_NOFOLLOW)
		if err != nil {
			return pathError("set times of", p, err)
		}
	}
	return nil
}
