package layer

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"gantry/internal/errs"
)

// maxSymlinks is the kernel's own bound (path_resolution(7)).
const maxSymlinks = 40

// maxPath bounds the names in an archive; PATH_MAX with its final zero.
const maxPath = 4095

// maxDepth bounds the nesting of directories: removing a tree holds one descriptor a level.
const maxDepth = 512

// maxDirCache bounds the open directories that one unpacking keeps.
const maxDirCache = 128

// tree is the layer being made, seen together with the layers below it. All its work is done relative to
// directory descriptors, one name at a time and never through a symbolic link that the kernel follows:
// links are read and followed here, where the root cannot be left.
type tree struct {
	root    int                   // the layer being made
	lower   func() ([]int, error) // roots of the layers below, topmost first; the first call may have to wait for them
	cut     bool                  // nothing of the lower layers shows through the root: there are none, or it is opaque
	parents map[string]*dir       // by cleaned path as the archive has it
	retired []int                 // dropped from parents while an entry is under way; closed by reap
	made    map[string]dirTimes   // directories, by canonical path, whose times are set at the end
}

// dir is an open directory of the layer being made.
type dir struct {
	fd    int    // O_PATH
	path  string // canonical: from the root, without links; "" is the root
	cut   bool   // it or one above it is opaque, or is not below: nothing of the lower layers shows through
	depth int    // names in path
}

type dirTimes struct {
	atime, mtime unix.Timespec
	acl          string // its default ACL, which what is put into it must not inherit; empty: none
}

func newTree(target Target) *tree {
	t := &tree{root: target.Root, lower: target.Below, parents: map[string]*dir{}, made: map[string]dirTimes{}}
	if t.lower == nil {
		t.cut = len(target.Lower) == 0
		t.lower = func() ([]int, error) { return target.Lower, nil }
	}
	return t
}

func (t *tree) close() {
	t.forget()
	t.reap()
}

// forget drops the cache of parents. A dir in use stays good until reap, at the next entry.
func (t *tree) forget() {
	for _, d := range t.parents {
		if d.fd != t.root {
			t.retired = append(t.retired, d.fd)
		}
	}
	clear(t.parents)
}

func (t *tree) reap() {
	closeAll(t.retired)
	t.retired = t.retired[:0]
}

// changed is called before what is at the cleaned archive path p is replaced by something that is not the same directory.
// The cache holds with a path all its prefixes, so that looking for p itself is enough.
func (t *tree) changed(p string) {
	if _, ok := t.parents[p]; ok {
		t.forget()
	}
}

// forgetBelow is called before the directory at the canonical path is removed with all it holds.
func (t *tree) forgetBelow(path string) {
	t.forget()
	for p := range t.made {
		if p == path || strings.HasPrefix(p, path+"/") {
			delete(t.made, p)
		}
	}
}

// parent returns the directory that the cleaned relative path p names, for something to be made in it. What the archive
// omitted is made: like the directory below where there is one, otherwise 0755 and root's.
func (t *tree) parent(p string) (*dir, error) {
	if d, ok := t.parents[p]; ok {
		return d, nil
	}
	if len(t.parents) > maxDirCache {
		t.forget()
	}
	if p == "" {
		d := &dir{fd: t.root, cut: t.cut}
		t.parents[""] = d
		return d, nil
	}
	up, name := split(p)
	from, err := t.parent(up)
	if err != nil {
		return nil, err
	}
	links := 0
	d, err := t.step(from, name, &links)
	if err != nil {
		return nil, err
	}
	// The prefixes were cached on the way down and may have been dropped in between only by
	// the bound above, before anything was added: p is added with all of them there.
	t.parents[p] = d
	return d, nil
}

// find returns the directory that holds what the path p names, and its name there, following links in all but the
// last name. It makes nothing; the entry may be in a lower layer only.
func (t *tree) find(p string) (*dir, string, error) {
	up, name := split(p)
	d, err := t.parent(up)
	return d, name, err
}

// step goes from d to its child name, following symbolic links within the root. The result is a new dir.
func (t *tree) step(d *dir, name string, links *int) (*dir, error) {
	var st unix.Stat_t
	err := unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return t.open(d, name, d.cut)
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK:
		target, err := readlink(d.fd, name)
		if err != nil {
			return nil, fmt.Errorf("read link %s: %w", join(d.path, name), err)
		}
		return t.follow(d, target, links)
	case err == nil && isWhiteout(&st):
		// Deleted below by this very layer, and now something is put into it anew.
		if err := unix.Unlinkat(d.fd, name, 0); err != nil {
			return nil, fmt.Errorf("replace whiteout %s: %w", join(d.path, name), err)
		}
		if err := t.mkdirOpaque(d, name); err != nil {
			return nil, err
		}
		return t.open(d, name, true)
	case err == nil:
		return nil, errs.Invalid.Errorf("parent %q is not a directory", join(d.path, name))
	case err != unix.ENOENT:
		return nil, pathError("look up", join(d.path, name), err)
	}
	below, err := t.below(d, name)
	if err != nil {
		return nil, err
	}
	defer below.close()
	switch below.kind() {
	case unix.S_IFLNK:
		target, err := readlink(below.dirfd, name)
		if err != nil {
			return nil, fmt.Errorf("read link %s: %w", join(d.path, name), err)
		}
		return t.follow(d, target, links)
	case unix.S_IFDIR:
		if err := t.mkdirLike(d, name, below); err != nil {
			return nil, err
		}
		return t.open(d, name, d.cut)
	}
	if err := unix.Mkdirat(d.fd, name, 0o755); err != nil {
		return nil, pathError("make directory", join(d.path, name), err)
	}
	if err := chmodAt(d.fd, name, 0o755); err != nil { // mkdir is subject to the umask
		return nil, pathError("make directory", join(d.path, name), err)
	}
	return t.open(d, name, true)
}

// follow goes from d along the link target.
func (t *tree) follow(d *dir, target string, links *int) (*dir, error) {
	if *links++; *links > maxSymlinks {
		return nil, errs.Invalid.Errorf("too many symbolic links in %q", d.path)
	}
	if len(target) > maxPath {
		return nil, errs.Invalid.Errorf("symbolic link in %q is too long", d.path)
	}
	cur, owned := d, false // d belongs to the cache; what is opened on the way is closed here
	drop := func(next *dir) {
		if owned && cur.fd != t.root {
			unix.Close(cur.fd)
		}
		cur, owned = next, true
	}
	if strings.HasPrefix(target, "/") {
		cur = &dir{fd: t.root, cut: t.cut}
	}
	for name := range strings.SplitSeq(target, "/") {
		var next *dir
		var err error
		switch name {
		case "", ".":
			continue
		case "..":
			up, _ := split(cur.path)
			next, err = t.walk(up)
		default:
			next, err = t.step(cur, name, links)
		}
		if err != nil {
			drop(nil)
			return nil, err
		}
		drop(next)
	}
	if !owned { // "." or "/": the caller gets a descriptor of its own
		return t.walk(cur.path)
	}
	return cur, nil
}

// walk opens a directory by its canonical path.
func (t *tree) walk(path string) (*dir, error) {
	d := &dir{fd: t.root, cut: t.cut}
	if path == "" {
		return d, nil
	}
	for name := range strings.SplitSeq(path, "/") {
		next, err := t.open(d, name, d.cut)
		if d.fd != t.root {
			unix.Close(d.fd)
		}
		if err != nil {
			return nil, err
		}
		d = next
	}
	return d, nil
}

// open opens the child directory name of d, which is a real directory.
func (t *tree) open(d *dir, name string, cut bool) (*dir, error) {
	path := join(d.path, name)
	if len(path) > maxPath {
		return nil, errs.Invalid.Errorf("path is longer than %d bytes", maxPath)
	}
	if d.depth >= maxDepth {
		return nil, errs.Invalid.Errorf("directories are nested deeper than %d", maxDepth)
	}
	fd, err := unix.Openat(d.fd, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, pathError("open directory", path, err)
	}
	if !cut {
		opaque, err := isOpaque(d.fd, name)
		if err != nil {
			unix.Close(fd)
			return nil, err
		}
		cut = opaque
	}
	return &dir{fd: fd, path: path, cut: cut, depth: d.depth + 1}, nil
}

func (t *tree) mkdirOpaque(d *dir, name string) error {
	if err := unix.Mkdirat(d.fd, name, 0o755); err != nil {
		return pathError("make directory", join(d.path, name), err)
	}
	if err := chmodAt(d.fd, name, 0o755); err != nil {
		return pathError("make directory", join(d.path, name), err)
	}
	if d.cut {
		return nil
	}
	return setOpaque(d.fd, name)
}

// below finds name in the lower layers' directories that show through d; kind 0 if there is nothing.
func (t *tree) below(d *dir, name string) (*lowerEntry, error) {
	if d.cut {
		return &lowerEntry{}, nil
	}
	return t.lookup(join(d.path, name))
}

// lookup finds a canonical path in the layers below.
func (t *tree) lookup(path string) (*lowerEntry, error) {
	roots, err := t.lower()
	if err != nil {
		return nil, err
	}
	return lookupLower(roots, path)
}

func split(p string) (dir, name string) {
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		return p[:i], p[i+1:]
	}
	return "", p
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

func readlink(dirfd int, name string) (string, error) {
	buf := make([]byte, maxPath+1)
	n, err := unix.Readlinkat(dirfd, name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// pathError says which entry failed. What the archive's own names caused is its fault.
func pathError(verb, path string, err error) error {
	err = fmt.Errorf("%s %q: %w", verb, path, err)
	for _, e := range []error{unix.ENAMETOOLONG, unix.ENOTDIR, unix.ELOOP, unix.EISDIR, unix.EINVAL, unix.EMLINK} {
		if errors.Is(err, e) {
			return errs.Invalid.Wrap(err)
		}
	}
	return err
}
