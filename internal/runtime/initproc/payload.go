package initproc

import (
	"errors"
	"strings"
	"unsafe"

	"gantry/internal/runtime/spec"

	"golang.org/x/sys/unix"
)

// maxPayload bounds the payload, in bytes; 2 MiB of arguments and environment are execve(2)'s own limit.
const maxPayload = 16 << 20

// awaitPayload returns the payload. Where it comes by a socket this process stands in its version 1 cgroups when it returns.
func awaitPayload() ([]byte, error) {
	var st unix.Stat_t
	if err := unix.Fstat(spec.FdPayload, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return readPayload(st.Size)
	}
	tasks, memfd, err := receivePayload()
	if err != nil {
		return nil, err
	}
	// Its place is the socket's, and the socket is closed: nobody is left who could say more.
	if err := unix.Dup3(memfd, spec.FdPayload, unix.O_CLOEXEC); err != nil {
		return nil, err
	}
	unix.Close(memfd)
	if err := unix.Fstat(spec.FdPayload, &st); err != nil {
		return nil, err
	}
	if err := enterCgroups(tasks); err != nil {
		return nil, err
	}
	return readPayload(st.Size)
}

func readPayload(size int64) ([]byte, error) {
	if size > maxPayload {
		return nil, unix.EFBIG
	}
	b := make([]byte, size)
	for n := 0; n < len(b); {
		m, err := unix.Pread(spec.FdPayload, b[n:], int64(n))
		if err == unix.EINTR {
			continue
		}
		if err != nil || m == 0 {
			return nil, errors.Join(err, errSyntax)
		}
		n += m
	}
	return b, nil
}

// receivePayload waits for the one packet: the tasks files and the payload's memfd. By hand, as sendFd.
func receivePayload() (tasks string, memfd int, err error) {
	var ctrl struct {
		hdr unix.Cmsghdr
		fd  int32
		_   int32
	}
	buf := make([]byte, spec.TasksMax)
	iov := unix.Iovec{Base: &buf[0]}
	iov.SetLen(len(buf))
	msg := unix.Msghdr{Iov: &iov, Iovlen: 1, Control: (*byte)(unsafe.Pointer(&ctrl))}
	for {
		msg.SetControllen(int(unsafe.Sizeof(ctrl)))
		n, _, e := unix.Syscall(unix.SYS_RECVMSG, spec.FdPayload, uintptr(unsafe.Pointer(&msg)), unix.MSG_CMSG_CLOEXEC)
		if e == unix.EINTR {
			continue
		}
		if e != 0 {
			return "", -1, e
		}
		if n == 0 && msg.Controllen == 0 {
			return "", -1, errors.New("the engine has given up the start")
		}
		if ctrl.hdr.Type != unix.SCM_RIGHTS || msg.Controllen < unix.SizeofCmsghdr+4 || msg.Flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
			return "", -1, errSyntax
		}
		return string(buf[:n]), int(ctrl.fd), nil
	}
}

// enterCgroups moves this thread, the main one, of which the container's process is made, into version 1 cgroups. The runtime's other
// threads stay where they are until execve(2) ends them: a whole process could only be moved by cgroup.procs, which
// waits for an RCU grace period of the whole machine, some milliseconds when it is idle.
func enterCgroups(tasks string) error {
	for path := range strings.Lines(tasks) {
		if path = strings.TrimSuffix(path, "\n"); path == "" {
			continue
		}
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			_, err = unix.Write(fd, []byte{'0'})
			unix.Close(fd)
		}
		if err != nil {
			return explain("cgroup", "enter the cgroup by "+path, err)
		}
	}
	return nil
}
