package initproc

import (
	"errors"
	"strconv"
	"unsafe"

	"gantry/internal/kernel/fs"
	"gantry/internal/kernel/mount"
	"gantry/internal/runtime/spec"

	"golang.org/x/sys/unix"
)

// openConsole opens a pty of the container's own devpts, sends its master to the supervisor and makes the
// slave the three streams and /dev/console.
func (l *launch) openConsole() error {
	var ptmx int
	var err error
	if pts, ok := l.mounted["/dev/pts"]; ok {
		// The mount is ours and known by its descriptor: no path can lead elsewhere.
		ptmx, err = unix.Openat(pts, "ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	} else {
		ptmx, err = l.root.Open("/dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		return explain("terminal", "open /dev/pts/ptmx", err)
	}
	defer unix.Close(ptmx)
	slave, err := openSlave(ptmx)
	if err != nil {
		return err
	}
	defer unix.Close(slave)
	if err := l.bindConsole(slave); err != nil {
		return explain("terminal", "mount /dev/console", err)
	}
	return handOver(ptmx, slave)
}

// openSlave unlocks the pty and opens its other end through the master (TIOCGPTPEER), not by a path.
func openSlave(ptmx int) (int, error) {
	if !isDevice(ptmx, unix.S_IFCHR, 5, 2) {
		return -1, failed("terminal", errors.New("/dev/pts/ptmx is not the pty multiplexer"))
	}
	if t, err := fs.Type(ptmx); err != nil || t != devptsMagic {
		return -1, failed("terminal", errors.New("/dev/pts/ptmx does not lie on devpts"))
	}
	if err := unix.IoctlSetPointerInt(ptmx, unix.TIOCSPTLCK, 0); err != nil {
		return -1, explain("terminal", "unlock the pty", err)
	}
	fd, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(ptmx), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if e != 0 {
		return -1, explain("terminal", "open the pty's slave", e)
	}
	return int(fd), nil
}

// bindConsole puts the slave on /dev/console. The target is made or opened without following links, and the source is
// the open slave itself (CVE-2025-52565: both were paths once).
func (l *launch) bindConsole(slave int) error {
	parent, name, err := l.root.Parent("/dev/console", 0o755)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	target, err := unix.Openat(parent, name, unix.O_CREAT|unix.O_EXCL|unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o666)
	if err == unix.EEXIST {
		target, err = unix.Openat(parent, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == nil {
			var st unix.Stat_t
			if err := unix.Fstat(target, &st); err != nil || st.Mode&unix.S_IFMT == unix.S_IFLNK {
				unix.Close(target)
				return errors.New("/dev/console is a symbolic link")
			}
		}
	}
	if err != nil {
		return err
	}
	defer unix.Close(target)
	tree, err := mount.Clone(slave, "", false)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	return mount.Attach(tree, target)
}

// handOver sends the master to the supervisor, makes the slave fds 0, 1 and 2, and waits until the
// supervisor has set the window size.
func handOver(ptmx, slave int) error {
	for fd := range 3 {
		if err := unix.Dup3(slave, fd, 0); err != nil {
			return explain("terminal", "dup the pty to fd "+strconv.Itoa(fd), err)
		}
	}
	if err := sendFd(spec.FdStatus, spec.StatusPty, ptmx); err != nil {
		return explain("terminal", "send the pty", err)
	}
	var buf [16]byte
	for {
		n, err := unix.Read(spec.FdStatus, buf[:])
		if err == unix.EINTR {
			continue
		}
		if err == nil && string(buf[:n]) != spec.StatusOK {
			err = unix.EPIPE
		}
		return explain("terminal", "hand over the pty", err)
	}
}

// sendFd sends text and a descriptor. By hand, for x/sys/unix's Sendmsg drags in its socket addresses.
func sendFd(sock int, text string, fd int) error {
	var ctrl struct {
		hdr unix.Cmsghdr
		fd  int32
		_   int32
	}
	ctrl.hdr.Level, ctrl.hdr.Type = unix.SOL_SOCKET, unix.SCM_RIGHTS
	ctrl.hdr.SetLen(unix.SizeofCmsghdr + 4)
	ctrl.fd = int32(fd)
	b := []byte(text)
	iov := unix.Iovec{Base: &b[0]}
	iov.SetLen(len(b))
	msg := unix.Msghdr{Iov: &iov, Iovlen: 1, Control: (*byte)(unsafe.Pointer(&ctrl))}
	msg.SetControllen(int(unsafe.Sizeof(ctrl)))
	_, _, e := unix.Syscall(unix.SYS_SENDMSG, uintptr(sock), uintptr(unsafe.Pointer(&msg)), unix.MSG_NOSIGNAL)
	if e != 0 {
		return e
	}
	return nil
}
