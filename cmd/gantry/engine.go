package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"unsafe"

	"gantry/internal/kernel/memfd"
)

// becomeEngine replaces this process by the engine; it returns only if that fails.
func becomeEngine(args []string) error {
	path, program, err := enginePath()
	if err != nil {
		return err
	}
	argv := append([]string{"gantry"}, args...) // what ps and the unit's status show
	err = syscall.Exec(path, argv, os.Environ())
	runtime.KeepAlive(program)
	return fmt.Errorf("exec %s: %w", path, err)
}

// enginePath returns a path to execute: a sealed memfd with the embedded program, or the file beside this executable. The path is good
// as long as program is.
func enginePath() (path string, program *os.File, err error) {
	if engine == "" {
		exe, err := os.Executable()
		if err != nil {
			return "", nil, err
		}
		if real, err := filepath.EvalSymlinks(exe); err == nil {
			exe = real
		}
		path = filepath.Join(filepath.Dir(exe), "engine")
		if _, err := os.Stat(path); err != nil {
			return "", nil, fmt.Errorf("find the engine's program: %w (build it with: make build)", err)
		}
		return path, nil, nil
	}
	// Close-on-exec is right though the program is run through this descriptor's path: the kernel opens the file before it closes the
	// descriptor (only scripts would need it open).
	f, err := memfd.New("gantry-engine", unsafe.Slice(unsafe.StringData(engine), len(engine)), true)
	if err != nil {
		return "", nil, fmt.Errorf("put the engine into memory: %w", err)
	}
	return fmt.Sprintf("/proc/self/fd/%d", f.Fd()), f, nil
}
