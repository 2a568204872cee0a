package initproc

import (
	"strconv"

	"gantry/internal/kernel/fs"

	"golang.org/x/sys/unix"
)

// ownNull exchanges the host's null device, which the supervisor gives to a process for a stream that nobody uses,
// for the container's. A descriptor is a name: by /proc/self/fd/0 the container's root, who has CAP_FOWNER, could
// chmod(2) the host's /dev/null and lock everybody there out of it.
func ownNull(root fs.Root) error {
	null := -1
	for fd := range 3 {
		if !isDevice(fd, unix.S_IFCHR, 1, 3) {
			continue
		}
		if null < 0 {
			var err error
			if null, err = openNull(root); err != nil {
				return explain("stdio", "open the container's /dev/null", err)
			}
			defer unix.Close(null)
		}
		if err := unix.Dup3(null, fd, 0); err != nil {
			return explain("stdio", "dup /dev/null to fd "+strconv.Itoa(fd), err)
		}
	}
	return nil
}

// openNull opens the container's null device. Where it has none, by its own or its image's doing, a pipe whose other
// end is closed also reads as empty; the host's would be just what somebody removed it for.
func openNull(root fs.Root) (int, error) {
	// Looked at before it is opened: opening a device may do something.
	if at, err := root.Open("/dev/null", unix.O_PATH, 0); err == nil {
		defer unix.Close(at)
		if isDevice(at, unix.S_IFCHR, 1, 3) {
			if fd, err := unix.Open(fdPath(at), unix.O_RDWR|unix.O_CLOEXEC, 0); err == nil {
				return fd, nil
			}
		}
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return -1, err
	}
	unix.Close(pipe[1])
	return pipe[0], nil
}
