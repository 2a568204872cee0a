package initproc

import (
	"errors"

	"golang.org/x/sys/unix"
)

// copyUp copies the content of the directory from into the root of the mount to: a tmpfs that begins with what
// it covers. from belongs to the image, so links are copied and never followed; devices, sockets and FIFOs are left out.
func copyUp(from, to int) error { return copyDir(from, to, 64) }

// maxCopy bounds a single file, in bytes; a tmpfs is memory.
const maxCopy = 1 << 30

func copyDir(from, to, depth int) error {
	if depth == 0 {
		return unix.ELOOP
	}
	dir, err := unix.Openat(from, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	out, err := unix.Openat(to, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(out)
	buf := make([]byte, 16<<10)
	for {
		n, err := unix.ReadDirent(dir, buf)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		var names []string
		_, _, names = unix.ParseDirent(buf[:n], -1, nil)
		for _, name := range names {
			if err := copyEntry(dir, out, name, depth); err != nil {
				return errors.Join(errors.New(name), err)
			}
		}
	}
	return copyMeta(dir, out)
}

func copyEntry(dir, out int, name string, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	const flags = unix.O_NOFOLLOW | unix.O_CLOEXEC
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if err := unix.Mkdirat(out, name, 0o700); err != nil {
			return err
		}
		f, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|flags, 0)
		if err != nil {
			return err
		}
		defer unix.Close(f)
		t, err := unix.Openat(out, name, unix.O_RDONLY|unix.O_DIRECTORY|flags, 0)
		if err != nil {
			return err
		}
		defer unix.Close(t)
		return copyDir(f, t, depth-1)
	case unix.S_IFREG:
		f, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NONBLOCK|flags, 0)
		if err != nil {
			return err
		}
		defer unix.Close(f)
		t, err := unix.Openat(out, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|flags, 0o600)
		if err != nil {
			return err
		}
		defer unix.Close(t)
		buf := make([]byte, 64<<10)
		for left := maxCopy; ; {
			n, err := unix.Read(f, buf)
			if err != nil {
				return err
			}
			if n == 0 {
				return copyMeta(f, t)
			}
			if left -= n; left < 0 {
				return unix.EFBIG
			}
			if _, err := unix.Write(t, buf[:n]); err != nil {
				return err
			}
		}
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(dir, name, buf)
		if err != nil {
			return err
		}
		if err := unix.Symlinkat(string(buf[:n]), out, name); err != nil {
			return err
		}
		return unix.Fchownat(out, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW)
	}
	return nil
}

// copyMeta gives out the owner, mode and times of in; the mode last, for chown(2) clears set-user-ID bits.
func copyMeta(in, out int) error {
	var st unix.Stat_t
	if err := unix.Fstat(in, &st); err != nil {
		return err
	}
	if err := unix.Fchown(out, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Fchmod(out, st.Mode&0o7777); err != nil {
		return err
	}
	return unix.Futimes(out, []unix.Timeval{
		{Sec: st.Atim.Sec, Usec: st.Atim.Nsec / 1000}, {Sec: st.Mtim.Sec, Usec: st.Mtim.Nsec / 1000},
	})
}
