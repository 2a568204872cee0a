package cgroup

import (
	"bytes"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The os package would register every control file with the poller: three system calls more for each,
// with none of the files ever read twice. So these few go to the kernel directly.

func openFile(path string, flags int) (int, error) { return openFileAt(unix.AT_FDCWD, path, flags) }

func openFileAt(dir int, path string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dir, path, flags|unix.O_CLOEXEC, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return -1, &fs.PathError{Op: "open", Path: path, Err: err}
		}
		return fd, nil
	}
}

// writeFile writes each value with a write(2) of its own: control files take one command per write.
func writeFile(path string, values ...string) error {
	fd, err := openFile(path, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, v := range values {
		if err := writeAll(fd, v); err != nil {
			return fmt.Errorf("write %q to %s: %w", v, path, err)
		}
	}
	return nil
}

func writeAll(fd int, v string) error {
	for {
		_, err := unix.Write(fd, []byte(v))
		if err != unix.EINTR {
			return err
		}
	}
}

// maxFile bounds what is read of a control file. The longest, cgroup.procs, holds 8 bytes a process.
const maxFile = 64 << 20

func readFile(path string) ([]byte, error) {
	return readFileAt(unix.AT_FDCWD, path)
}

// readFileAt reads path, which is relative to the directory dir unless it is absolute.
func readFileAt(dir int, path string) ([]byte, error) {
	fd, err := openFileAt(dir, path, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	buf := make([]byte, 4096)
	n := 0
	for {
		if n == len(buf) {
			if n >= maxFile {
				return nil, fmt.Errorf("read %s: larger than %d bytes", path, maxFile)
			}
			buf = append(buf, make([]byte, len(buf))...)
		}
		m, err := unix.Read(fd, buf[n:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: "read", Path: path, Err: err}
		}
		if m == 0 {
			return buf[:n], nil
		}
		n += m
	}
}

// readUint reads a file of one number. "max" and a negative number are reported as the largest.
func readUint(path string) (uint64, error) {
	b, err := readFile(path)
	if err != nil {
		return 0, err
	}
	v, err := parseUint(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", path, err)
	}
	return v, nil
}

const unlimited = ^uint64(0)

func parseUint(s string) (uint64, error) {
	if s == "max" || strings.HasPrefix(s, "-") {
		return unlimited, nil
	}
	return strconv.ParseUint(s, 10, 64)
}

// readKeyed reads a file of "key number" lines; lines of another form are skipped.
func readKeyed(path string) (map[string]uint64, error) {
	b, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return parseKeyed(b), nil
}

func parseKeyed(b []byte) map[string]uint64 {
	m := make(map[string]uint64, 16)
	for line := range bytes.Lines(b) {
		k, v, ok := strings.Cut(strings.TrimSpace(string(line)), " ")
		if !ok {
			continue
		}
		if n, err := parseUint(v); err == nil {
			m[k] = n
		}
	}
	return m
}

func exists(path string) bool { return unix.Access(path, unix.F_OK) == nil }

func mkdir(path string) error {
	for {
		err := unix.Mkdir(path, 0o755)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return &fs.PathError{Op: "mkdir", Path: path, Err: err}
		}
		return nil
	}
}
