package initproc

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/memfd"
)

// The reaper is PID 1 of a container with --init: it forks the container's program, passes signals on, reaps
// orphans and ends with the program's exit code, as tini does for Docker.
//
// It stays as long as the container does. This program, execed again, would cost 1.5 MB and five threads, all
// counted by the container's own limits; left running without an exec, its other threads would keep the
// privileges that the container must not have. So it is a program of its own: some hundred bytes of machine
// code (reaper_*.s) behind an ELF header, put together in a sealed memfd here. It takes one page and one thread.

// Where things lie in the reaper's one segment; the assembly knows them too.
const (
	reaperBase  = 0x400000
	reaperEntry = 0x100
	reaperName  = 0x700 // what its comm will be
	reaperPaths = 0x800 // the candidates for execve(2), each with a NUL, ended by an empty one
	reaperSize  = 512   // bytes of code copied: more than it has
)

// reaperArgs come before the container's own in the reaper's arguments, and are what `docker top` shows with Docker.
var reaperArgs = []string{"/sbin/docker-init", "--"}

// reaperCode is never called; it is copied.
//
//lint:ignore U1000 the assembly takes its address
func reaperCode()

// reaperAddr returns the address of reaperCode.
func reaperAddr() unsafe.Pointer

// reaperImage puts the program together: one that execs the first of paths that can be.
func reaperImage(paths []*byte) []byte {
	image := make([]byte, reaperPaths, reaperPaths+4096)
	copy(image[reaperEntry:], unsafe.Slice((*byte)(reaperAddr()), reaperSize))
	copy(image[reaperName:], "docker-init")
	for _, path := range paths {
		image = append(image, unix.BytePtrToString(path)...)
		image = append(image, 0)
	}
	image = append(image, 0)
	elfHeader(image)
	return image
}

// reaper adds the end with --init.
func (p *program) reaper(args, env []string) error {
	p.exec(args, env)
	image := reaperImage(p.paths)
	f, err := memfd.New("docker-init", image, true)
	if err != nil {
		return err
	}
	defer f.Close()
	// In the payload's place, where the closing of everything else spares it. It ends with the exec.
	if err := unix.Dup3(int(f.Fd()), reaperFd, unix.O_CLOEXEC); err != nil {
		return err
	}
	p.fd = reaperFd
	p.argv = cstrs(append(append([]string(nil), reaperArgs...), args...))
	return nil
}

// elfHeader writes an ELF header with one segment, readable and executable, and a stack that is not executable
// (elf(5)).
func elfHeader(image []byte) {
	put := func(at int, v uint64, size int) {
		for i := range size {
			image[at+i] = byte(v >> (8 * i))
		}
	}
	copy(image, "\x7fELF\x02\x01\x01")
	put(0x10, 2, 2) // ET_EXEC
	put(0x12, elfMachine, 2)
	put(0x14, 1, 4)
	put(0x18, reaperBase+reaperEntry, 8)
	put(0x20, 0x40, 8) // program headers
	put(0x34, 0x40, 2)
	put(0x36, 0x38, 2)
	put(0x38, 2, 2)

	put(0x40, 1, 4) // PT_LOAD
	put(0x44, 5, 4) // read, execute
	put(0x50, reaperBase, 8)
	put(0x58, reaperBase, 8)
	put(0x60, uint64(len(image)), 8)
	put(0x68, uint64(len(image)), 8)
	put(0x70, 0x10000, 8)

	put(0x78, 0x6474e551, 4) // PT_GNU_STACK
	put(0x7c, 6, 4)          // read, write
	put(0xa8, 16, 8)
}
