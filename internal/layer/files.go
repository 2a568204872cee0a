package layer

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/errs"
	kernelfs "gantry/internal/kernel/fs"
)

// PathStat is what HEAD …/archive says of a path.
type PathStat struct {
	Name       string
	Size       int64
	Mode       os.FileMode
	Mtime      time.Time
	LinkTarget string // of a symbolic link: where it leads at last, from the container's root
}

// place is a path as `cp` names it: the directory that holds it, and its last element, which is not followed; empty, it is
// the directory itself, which a trailing slash or "/." makes of it.
type place struct {
	abs  string // from "/", with the slash or dot that was at its end
	dir  int
	name string // "." for the directory itself
}

// absolute makes name a path from the root. As in Docker a slash or dot at its end counts: it says that a directory is meant,
// or what is in it.
func absolute(name string) string {
	abs := path.Join("/", name)
	dot := name == "." || strings.HasSuffix(name, "/.")
	if dot {
		return strings.TrimSuffix(abs, "/") + "/."
	}
	if strings.HasSuffix(name, "/") && abs != "/" {
		abs += "/"
	}
	return abs
}

func find(root kernelfs.Root, name string) (place, error) {
	p := place{abs: absolute(name)}
	i := strings.LastIndexByte(p.abs, '/')
	dir, base := p.abs[:i+1], p.abs[i+1:]
	fd, err := root.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return p, err
	}
	if base == "" {
		base = "."
	}
	p.dir, p.name = fd, base
	return p, nil
}

func (p *place) stat() (st unix.Stat_t, err error) {
	err = unix.Fstatat(p.dir, p.name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, err
}

// StatPath describes the path in root, by Docker's rules for `cp`. What is not there is fs.ErrNotExist.
func StatPath(root kernelfs.Root, name string) (PathStat, error) {
	p, err := find(root, name)
	if err != nil {
		return PathStat{}, err
	}
	defer unix.Close(p.dir)
	return describePath(root, &p)
}

func describePath(root kernelfs.Root, p *place) (PathStat, error) {
	st, err := p.stat()
	if err != nil {
		return PathStat{}, err
	}
	s := PathStat{Name: lastName(p.abs), Size: st.Size, Mode: fileMode(st.Mode), Mtime: time.Unix(st.Mtim.Unix())}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		s.LinkTarget = follow(root, p.abs)
	}
	return s, nil
}

// lastName is the last element of a path from absolute.
func lastName(abs string) string {
	if strings.HasSuffix(abs, "/.") {
		return "."
	}
	return path.Base(abs)
}

// follow returns where a path leads, all links followed inside root. What is not there is taken as it is written.
func follow(root kernelfs.Root, name string) string {
	done, rest := "/", strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		n := rest[0]
		rest = rest[1:]
		switch n {
		case "", ".":
			continue
		case "..":
			done = path.Dir(done)
			continue
		}
		next := path.Join(done, n)
		if fd, err := root.Open(done, unix.O_PATH|unix.O_DIRECTORY, 0); err == nil {
			target, lerr := readlink(fd, n)
			unix.Close(fd)
			if lerr == nil && links < maxSymlinks {
				links++
				if strings.HasPrefix(target, "/") {
					done = "/"
				}
				rest = append(strings.Split(target, "/"), rest...)
				continue
			}
		}
		done = next
	}
	return done
}

func fileMode(m uint32) os.FileMode {
	mode := os.FileMode(m & 0o777)
	switch m & unix.S_IFMT {
	case unix.S_IFDIR:
		mode |= fs.ModeDir
	case unix.S_IFLNK:
		mode |= fs.ModeSymlink
	case unix.S_IFIFO:
		mode |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		mode |= fs.ModeSocket
	case unix.S_IFBLK:
		mode |= fs.ModeDevice
	case unix.S_IFCHR:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	}
	for bit, flag := range map[uint32]os.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid, unix.S_ISVTX: fs.ModeSticky} {
		if m&bit != 0 {
			mode |= flag
		}
	}
	return mode
}

// CopyOut packs what the path in root names; out is told what it is and says where the archive goes. The entries begin
// with the last element of the path as it was given.
func CopyOut(ctx context.Context, root kernelfs.Root, name string, out func(PathStat) (io.Writer, error)) error {
	p, err := find(root, name)
	if err != nil {
		return err
	}
	defer unix.Close(p.dir)
	st, err := describePath(root, &p)
	if err != nil {
		return err
	}
	w, err := out(st)
	if err != nil {
		return err
	}
	return PackFile(ctx, w, p.dir, p.name, lastName(p.abs), PackOptions{Live: true})
}

// ErrNotDirectory refuses to extract into what is no directory.
var ErrNotDirectory = errs.Invalid.Errorf("extraction point is not a directory")

// CopyIn extracts an archive, plain or compressed, into the directory that the path in root leads to, links followed.
func CopyIn(ctx context.Context, root kernelfs.Root, name string, archive io.Reader, o ExtractOptions) error {
	fd, err := root.Open(absolute(name), unix.O_PATH, 0)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	unix.Close(fd)
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return ErrNotDirectory
	}
	plain, _, err := Decompress(archive)
	if err != nil {
		return err
	}
	defer plain.Close()
	return Extract(ctx, plain, root, follow(root, name), o)
}

// PackRoot packs a container's whole file system.
func PackRoot(ctx context.Context, w io.Writer, root kernelfs.Root) error {
	return Pack(ctx, w, root.Fd(), PackOptions{Live: true})
}

// ReadOnly reports whether an error says that a file system may not be written.
func ReadOnly(err error) bool { return errors.Is(err, unix.EROFS) }
