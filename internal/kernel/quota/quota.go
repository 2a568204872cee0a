// Package quota makes directories that may only hold so much.
//
// On btrfs such a directory is a subvolume with a limit on its quota group (btrfs-quota(5)); on ext4 and XFS it has a
// project of its own (quotactl(2), PRJQUOTA), where the file system is mounted with project quotas. Other file systems cannot do it.
package quota

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrUnsupported is for a file system that cannot limit a directory, or is not mounted so that it could.
var ErrUnsupported = errors.New("the file system cannot limit the size of a directory (btrfs can, and ext4 and XFS when mounted with prjquota)")

// Supported returns nil if directories in dir can have a limit.
func Supported(dir string) error {
	fd, err := open(dir)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if isBtrfs(fd) {
		return nil
	}
	var q dqblk
	if err := quotactl(fd, getQuota, 0, unsafe.Pointer(&q)); err != nil {
		return ErrUnsupported
	}
	return nil
}

// MakeDir makes the directory path, mode 0755, which may hold at most so many bytes. project is a number that no other directory of the
// file system has; btrfs needs none.
func MakeDir(path string, bytes uint64, project uint32) error {
	parent, err := open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	if isBtrfs(parent) {
		err = makeSubvolume(parent, filepath.Base(path), bytes)
	} else {
		err = makeProject(path, bytes, project)
	}
	if err != nil {
		return fmt.Errorf("limit the size of %s: %w", path, err)
	}
	return nil
}

func open(dir string) (int, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return fd, nil
}

func isBtrfs(fd int) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(fd, &st) == nil && st.Type == unix.BTRFS_SUPER_MAGIC
}

// ioctls of linux/btrfs.h
const (
	btrfsSubvolCreate = 0x5000940e // _IOW(0x94, 14, struct btrfs_ioctl_vol_args)
	btrfsQuotaCtl     = 0xc0109428 // _IOWR(0x94, 40, struct btrfs_ioctl_quota_ctl_args)
	btrfsQgroupLimit  = 0x8030942b // _IOR(0x94, 43, struct btrfs_ioctl_qgroup_limit_args)

	quotaEnable  = 1
	limitMaxRfer = 1
)

type volArgs struct {
	fd   int64
	name [4088]byte
}

type quotaCtlArgs struct{ cmd, status uint64 }

type qgroupLimitArgs struct {
	qgroup, flags, maxRfer, maxExcl, rsvRfer, rsvExcl uint64
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

func makeSubvolume(parent int, name string, bytes uint64) (err error) {
	// Enabling quotas that are enabled changes nothing.
	if err := ioctl(parent, btrfsQuotaCtl, unsafe.Pointer(&quotaCtlArgs{cmd: quotaEnable})); err != nil && err != unix.EEXIST {
		return fmt.Errorf("enable quotas: %w", err)
	}
	var args volArgs
	if copy(args.name[:len(args.name)-1], name) < len(name) {
		return unix.ENAMETOOLONG
	}
	if err := ioctl(parent, btrfsSubvolCreate, unsafe.Pointer(&args)); err != nil {
		return fmt.Errorf("make subvolume: %w", err)
	}
	defer func() {
		if err != nil {
			unix.Unlinkat(parent, name, unix.AT_REMOVEDIR)
		}
	}()
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Fchmod(fd, 0o755); err != nil {
		return err
	}
	return ioctl(fd, btrfsQgroupLimit, unsafe.Pointer(&qgroupLimitArgs{flags: limitMaxRfer, maxRfer: bytes})) // group 0: this subvolume's
}

// fsxattr is struct fsxattr of linux/fs.h.
type fsxattr struct {
	xflags, extsize, nextents, projid, cowextsize uint32
	pad                                           [8]byte
}

const (
	fsGetXattr  = 0x801c581f // _IOR('X', 31, struct fsxattr)
	fsSetXattr  = 0x401c5820 // _IOW('X', 32, struct fsxattr)
	projInherit = 0x200      // FS_XFLAG_PROJINHERIT

	getQuota   = 0x800007 // Q_GETQUOTA
	setQuota   = 0x800008 // Q_SETQUOTA
	prjQuota   = 2        // PRJQUOTA
	qifBLimits = 1
)

// dqblk is struct if_dqblk of linux/quota.h.
type dqblk struct {
	bhardlimit, bsoftlimit, curspace, ihardlimit, isoftlimit, curinodes, btime, itime uint64
	valid                                                                             uint32
	_                                                                                 uint32
}

// quotactl acts on the project quotas of the file system that fd lies on (quotactl_fd(2), Linux 5.14).
func quotactl(fd int, cmd int, project uint32, arg unsafe.Pointer) error {
	op := uintptr(uint32(cmd)<<8 | prjQuota)
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, uintptr(fd), op, uintptr(project), uintptr(arg), 0, 0)
	if errno == unix.ENOSYS {
		return quotactlByDevice(fd, op, project, arg)
	}
	if errno != 0 {
		return errno
	}
	return nil
}

// quotactlByDevice is quotactl(2), for kernels before 5.14: it wants the path of the block device. One is made for the moment, for
// the names in /dev need not be there.
func quotactlByDevice(fd int, op uintptr, project uint32, arg unsafe.Pointer) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "gantry-quota-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	device, err := unix.BytePtrFromString(filepath.Join(dir, "device"))
	if err != nil {
		return err
	}
	if err := unix.Mknod(filepath.Join(dir, "device"), unix.S_IFBLK|0o600, int(st.Dev)); err != nil {
		return &os.PathError{Op: "mknod", Path: filepath.Join(dir, "device"), Err: err}
	}
	if _, _, errno := unix.Syscall6(unix.SYS_QUOTACTL, op, uintptr(unsafe.Pointer(device)), uintptr(project), uintptr(arg), 0, 0); errno != 0 {
		return errno
	}
	return nil
}

func makeProject(path string, bytes uint64, project uint32) (err error) {
	if err := os.Mkdir(path, 0o755); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(path)
		}
	}()
	fd, err := open(path)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var q dqblk
	if quotactl(fd, getQuota, 0, unsafe.Pointer(&q)) != nil {
		return ErrUnsupported
	}
	blocks := (bytes + 1023) / 1024
	q = dqblk{bhardlimit: blocks, bsoftlimit: blocks, valid: qifBLimits}
	if err := quotactl(fd, setQuota, project, unsafe.Pointer(&q)); err != nil {
		return fmt.Errorf("set quota: %w", err)
	}
	var x fsxattr
	if err := ioctl(fd, fsGetXattr, unsafe.Pointer(&x)); err != nil {
		return ErrUnsupported
	}
	x.projid, x.xflags = project, x.xflags|projInherit
	if err := ioctl(fd, fsSetXattr, unsafe.Pointer(&x)); err != nil {
		return fmt.Errorf("set project: %w", err)
	}
	return nil
}
