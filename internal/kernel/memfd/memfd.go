// Package memfd makes files that lie in memory and that nobody can change (memfd_create(2)).
package memfd

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// New returns a file with the content, sealed and read from its beginning. One that is executable can be executed also where
// the sysctl vm.memfd_noexec (Linux 6.3) forbids it by default: nobody who reaches a process's /proc/PID/exe can change what
// runs (CVE-2019-5736).
func New(name string, content []byte, executable bool) (*os.File, error) {
	flags, mode := unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING, unix.MFD_NOEXEC_SEAL
	if executable {
		mode = unix.MFD_EXEC
	}
	fd, err := unix.MemfdCreate(name, flags|mode)
	if err == unix.EINVAL { // before Linux 6.3
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err = f.Write(content); err == nil {
		if err = seal(fd); err == nil {
			_, err = f.Seek(0, io.SeekStart)
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// seal closes the file to all changes. EBUSY says that somebody holds one of its pages, for a moment: a processor that has it on
// the list of those that it has just written, or a scan of the machine's memory. The kernel has waited for 150 ms itself by then
// (memfd_wait_for_pins).
func seal(fd int) (err error) {
	for range 20 {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
		if err != unix.EBUSY && err != unix.EINTR {
			break
		}
	}
	return os.NewSyscallError("fcntl F_ADD_SEALS", err)
}
