// Package quotatest has what tests of sizes need: file systems of their own, and somebody whom a quota holds.
package quotatest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// Loop mounts a new file system of 320 MiB, made by mkfs, on a loop device, until the test ends. In the machine of test/vm, which has
// no such programs, it is made already: GANTRY_DISKS is the folder. The test is skipped where it cannot be mounted.
func Loop(t *testing.T, options string, mkfs ...string) string {
	t.Helper()
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	dir := t.TempDir()
	image, point := filepath.Join(dir, "image"), filepath.Join(dir, "m")
	if err := os.Mkdir(point, 0o700); err != nil {
		t.Fatal(err)
	}
	disks := os.Getenv("GANTRY_DISKS")
	if disks != "" {
		image = filepath.Join(disks, mkfs[0])
	} else {
		if _, err := exec.LookPath(mkfs[0]); err != nil {
			t.Skip(mkfs[0] + " is not here")
		}
		if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 320<<20)); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(mkfs[0], append(mkfs[1:], image)...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if out, err := exec.Command("mount", "-o", "loop,"+options, image, point).CombinedOutput(); err != nil {
		if disks != "" {
			t.Fatalf("%s: %s", image, out)
		}
		t.Skipf("cannot be mounted here: %s", out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", point).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	return point
}

// Unprivileged runs f as root without CAP_SYS_RESOURCE, as in a container: ext4 holds nobody to a quota who has it.
func Unprivileged(t *testing.T, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var all, less [2]unix.CapUserData
	if err := unix.Capget(&head, &all[0]); err != nil {
		t.Fatal(err)
	}
	less = all
	less[0].Effective &^= 1 << unix.CAP_SYS_RESOURCE
	if err := unix.Capset(&head, &less[0]); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Capset(&head, &all[0]); err != nil {
			t.Fatal(err)
		}
	}()
	f()
}
