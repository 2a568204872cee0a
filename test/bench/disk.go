package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const inside = "GANTRY_BENCH_APART"

// apart runs the rest of the program in a mount namespace of its own: what is mounted in it goes when it ends, however that is.
// It returns in that run only.
func apart() error {
	if os.Getenv(inside) != "" {
		return nil
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return fmt.Errorf("run in a mount namespace: %w", err)
	}
	os.Exit(cmd.ProcessState.ExitCode())
	return nil
}

// mountDisk mounts a new ext4 on dir. An old one gets slow in ways that have nothing to do with the engines: without a
// journal, ext4 looks at every inode that was freed in the last minutes when it makes a file. The loop device
// goes around the page cache below it, as a disk does; otherwise everything that is synced would be copied once more.
func mountDisk(dir string) error {
	file := dir + ".ext4"
	defer os.Remove(file) // the mount holds it
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	err = f.Truncate(40 << 30)
	f.Close()
	if err != nil {
		return err
	}
	run := func(args ...string) (string, error) {
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("%s: %w: %s", args[0], err, out)
		}
		return strings.TrimSpace(string(out)), nil
	}
	if _, err := run("mkfs.ext4", "-q", "-N", "2000000", "-E", "lazy_itable_init=0,lazy_journal_init=0", file); err != nil {
		return err
	}
	loop, err := run("losetup", "--find", "--show", "--direct-io=on", file)
	if err != nil {
		return err
	}
	_, err = run("mount", "-o", "discard", loop, dir)
	if _, derr := run("losetup", "--detach", loop); err == nil { // it goes when the mount does
		err = derr
	}
	if err != nil {
		return err
	}
	err = os.RemoveAll(filepath.Join(dir, "lost+found"))
	return errors.Join(err, unix.Chmod(dir, 0o755))
}
