package mount

import (
	"strings"

	"golang.org/x/sys/unix"
)

// New makes a file system of fstype and returns it mounted but attached nowhere.
func New(fstype, source string, o Options) (int, error) { return newMount(fstype, source, -1, o) }

// NewProc makes a procfs of the PID namespace pidns, an open file of /proc/pid/ns (Linux 6.17; EINVAL before).
func NewProc(pidns int, o Options) (int, error) { return newMount("proc", "proc", pidns, o) }

func newMount(fstype, source string, pidns int, o Options) (int, error) {
	fd, err := makeMount(fstype, source, pidns, o)
	// A read-only mount of a device that can be written leaves the file system itself as others have it mounted. One that can't
	// be written wants it said to the file system, too.
	if (err == unix.EACCES || err == unix.EROFS) && o.Set&unix.MOUNT_ATTR_RDONLY != 0 {
		o.Data = append([]string{"ro"}, o.Data...)
		return makeMount(fstype, source, pidns, o)
	}
	return fd, err
}

func makeMount(fstype, source string, pidns int, o Options) (int, error) {
	fsfd, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fsfd)
	if source != "" {
		if err := unix.FsconfigSetString(fsfd, "source", source); err != nil {
			return -1, err
		}
	}
	if pidns >= 0 {
		if err := unix.FsconfigSetFd(fsfd, "pidns", pidns); err != nil {
			return -1, err
		}
	}
	for _, d := range o.Data {
		key, value, ok := strings.Cut(d, "=")
		if ok {
			err = unix.FsconfigSetString(fsfd, key, value)
		} else {
			err = unix.FsconfigSetFlag(fsfd, key)
		}
		if err != nil {
			return -1, &OptionError{d, fstype, err}
		}
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return -1, err
	}
	return unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, int(o.Set))
}

// OptionError names the option that a file system refused.
type OptionError struct {
	Option, Type string
	Err          error
}

// Error returns "option "size=x" of tmpfs: invalid argument".
func (e *OptionError) Error() string {
	return "option \"" + e.Option + "\" of " + e.Type + ": " + e.Err.Error()
}

// Unwrap returns the errno.
func (e *OptionError) Unwrap() error { return e.Err }

// Clone makes a detached copy of the mount at path (relative to dirfd; with an empty path, dirfd itself).
func Clone(dirfd int, path string, recursive bool) (int, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if path == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	return unix.OpenTree(dirfd, path, flags)
}

// Attach puts a detached mount (or moves one) onto target; the mount's descriptor stays open on its root.
func Attach(fd, target int) error {
	return unix.MoveMount(fd, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// SetAttr changes the flags and the propagation of the mount that fd is the root of.
func SetAttr(fd int, set, clear uint64, propagation uintptr, recursive bool) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	if set&unix.MOUNT_ATTR__ATIME != 0 {
		clear |= unix.MOUNT_ATTR__ATIME // the kernel demands it: the modes are one field
	}
	return unix.MountSetattr(fd, "", flags, &unix.MountAttr{Attr_set: set, Attr_clr: clear, Propagation: uint64(propagation)})
}

// SetIDMap has the files of a detached mount seen as the user namespace userns, an open file of /proc/pid/ns, maps them: an
// owner on disk is an ID inside the namespace, and what is seen is the one outside that it stands for. EINVAL: the file
// system cannot do it (Linux 5.12 and later, each file system from a version of its own).
func SetIDMap(fd, userns int, recursive bool) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	return unix.MountSetattr(fd, "", flags, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns)})
}

// TryIDMap reports whether SetIDMap can be done with what is mounted at path, and below it.
func TryIDMap(path string, userns int) error {
	fd, err := Clone(unix.AT_FDCWD, path, true)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return SetIDMap(fd, userns, true)
}

// Flags are the per-mount flags that the options set, as mount(2) numbers them.
func (o Options) Flags() (ms uintptr) {
	for _, f := range flagOf {
		if f.attr != 0 && o.Set&f.attr == f.attr {
			ms |= f.ms
		}
	}
	return ms
}

// flagOf maps the attributes that mount_setattr(2) knows to those of mount(2), for kernels before 5.12.
var flagOf = []struct {
	attr uint64
	ms   uintptr
	st   int64 // the bit in statfs(2)'s f_flags
}{
	{unix.MOUNT_ATTR_RDONLY, unix.MS_RDONLY, unix.ST_RDONLY},
	{unix.MOUNT_ATTR_NOSUID, unix.MS_NOSUID, unix.ST_NOSUID},
	{unix.MOUNT_ATTR_NODEV, unix.MS_NODEV, unix.ST_NODEV},
	{unix.MOUNT_ATTR_NOEXEC, unix.MS_NOEXEC, unix.ST_NOEXEC},
	{unix.MOUNT_ATTR_NOATIME, unix.MS_NOATIME, unix.ST_NOATIME},
	{unix.MOUNT_ATTR_NODIRATIME, unix.MS_NODIRATIME, unix.ST_NODIRATIME},
	{0, unix.MS_RELATIME, unix.ST_RELATIME},
}

// RemountFlags returns what mount(2) must be told with MS_REMOUNT|MS_BIND so that the mount that fd lies on
// keeps its flags, except those changed. Dropping one would fail in a user namespace, and elsewhere would
// silently give a volume its device files back.
func RemountFlags(fd int, set, clear uint64) (uintptr, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return 0, err
	}
	ms := uintptr(unix.MS_REMOUNT | unix.MS_BIND)
	for _, f := range flagOf {
		if int64(st.Flags)&f.st != 0 && clear&f.attr == 0 || set&f.attr != 0 {
			ms |= f.ms
		}
	}
	return ms, nil
}
