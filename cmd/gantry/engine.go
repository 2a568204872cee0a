package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// becomeEngine replaces this process by the engine; it returns only if that fails.
func becomeEngine(args []string) error {
	path, err := enginePath()
	if err != nil {
		return err
	}
	argv := append([]string{"gantry"}, args...) // what ps and the unit's status show
	return fmt.Errorf("exec %s: %w", path, syscall.Exec(path, argv, os.Environ()))
}

// enginePath returns a path to execute: a sealed memfd with the embedded program, or the file beside this executable.
func enginePath() (string, error) {
	if engine == "" {
		exe, err := os.Executable()
		if err != nil {
			return "", err
		}
		if real, err := filepath.EvalSymlinks(exe); err == nil {
			exe = real
		}
		path := filepath.Join(filepath.Dir(exe), "engine")
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("find the engine's program: %w (build it with: make build)", err)
		}
		return path, nil
	}
	// Close-on-exec is right though the program is run through this descriptor's path: the kernel opens the file before it closes the
	// descriptor (only scripts would need it open).
	fd, err := memfd("gantry-engine")
	if err != nil {
		return "", fmt.Errorf("memfd for the engine: %w", err)
	}
	for b := unsafe.Slice(unsafe.StringData(engine), len(engine)); len(b) > 0; {
		n, err := syscall.Write(fd, b)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("write the engine into a memfd: %w", err)
		}
		b = b[n:]
	}
	// Sealed: nobody who reaches the engine's /proc/PID/exe can change what runs (CVE-2019-5736).
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	for try := 0; ; try++ {
		_, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
		if err == nil {
			break
		}
		// EBUSY: a page is held for a moment, by another processor's list of pages that were just written, say. The kernel has waited
		// 150 ms itself by then (memfd_wait_for_pins).
		if !errors.Is(err, unix.EBUSY) || try == 20 {
			return "", fmt.Errorf("seal the engine's memfd: %w", err)
		}
	}
	return fmt.Sprintf("/proc/self/fd/%d", fd), nil
}

func memfd(name string) (int, error) {
	const exec = 0x10 // MFD_EXEC: since 6.3 a kernel may be set to refuse memfds that do not say whether they are run
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|exec)
	if errors.Is(err, unix.EINVAL) { // before 6.3
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	return fd, err
}
