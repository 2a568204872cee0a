package fs

import "golang.org/x/sys/unix"

// Proc is an instance of procfs that is mounted nowhere, so that nobody can mount over parts of it. Its
// sysctls act on the calling thread's namespaces.
type Proc struct{ fd int }

// NewProc makes the instance. It needs the privilege to mount procfs.
func NewProc() (Proc, error) {
	fsfd, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return Proc{-1}, wrap("fsopen", "proc", err)
	}
	defer unix.Close(fsfd)
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return Proc{-1}, wrap("mount", "proc", err)
	}
	fd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	return Proc{fd}, wrap("mount", "proc", err)
}

// HostProc opens the procfs that is mounted at /proc, for a process that stands on the host and trusts it.
func HostProc() (Proc, error) {
	fd, err := unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return Proc{-1}, wrap("open", "/proc", err)
	}
	p := Proc{fd}
	if t, err := Type(fd); err != nil || t != unix.PROC_SUPER_MAGIC {
		p.Close()
		return Proc{-1}, wrap("open", "/proc", unix.EXDEV)
	}
	return p, nil
}

// ProcAt takes fd, the root of a procfs, which stays the caller's.
func ProcAt(fd int) Proc { return Proc{fd} }

// Fd returns the descriptor of the instance's root.
func (p Proc) Fd() int { return p.fd }

// Close closes it.
func (p Proc) Close() { unix.Close(p.fd) }

// Open opens path, relative to /proc and without links ("1/attr/exec", not "self/attr/exec"), and makes sure
// that what was opened really lies on procfs and not on something mounted there.
func (p Proc) Open(path string, flags int) (int, error) {
	fd, err := openat2(p.fd, path, &unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return -1, wrap("open", "/proc/"+path, err)
	}
	if t, err := Type(fd); err != nil || t != unix.PROC_SUPER_MAGIC {
		unix.Close(fd)
		return -1, wrap("open", "/proc/"+path, unix.EXDEV)
	}
	return fd, nil
}

// Read reads a whole file, at most limit bytes.
func (p Proc) Read(path string, limit int) ([]byte, error) {
	fd, err := p.Open(path, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return readAll(fd, "/proc/"+path, limit)
}

// Write writes value in one write(2), as attributes of procfs want it.
func (p Proc) Write(path, value string) error {
	fd, err := p.Open(path, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	n, err := unix.Write(fd, []byte(value))
	if err == nil && n != len(value) {
		err = unix.EIO
	}
	return wrap("write", "/proc/"+path, err)
}
