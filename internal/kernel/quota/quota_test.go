package quota

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// loop mounts a new file system of 300 MB, made by mkfs, on a loop device.
func loop(t *testing.T, options string, mkfs ...string) string {
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
	disks := os.Getenv("GANTRY_DISKS") // made already, for the machine of test/vm has no mkfs
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

// unprivileged runs f as root without CAP_SYS_RESOURCE, as in a container: ext4 holds nobody to a quota who has it.
func unprivileged(t *testing.T, f func()) {
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

func testLimit(t *testing.T, root string) { unprivileged(t, func() { limit(t, root) }) }

func limit(t *testing.T, root string) {
	if err := Supported(root); err != nil {
		t.Skip(err)
	}
	dir := filepath.Join(root, "small")
	if err := MakeDir(dir, 20<<20, 4711); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "f"))
	if err != nil {
		t.Fatal(err)
	}
	block, n := make([]byte, 1<<20), 0
	for i := range block {
		block[i] = byte(i * i) // not to be compressed away
	}
	for ; n < 100; n++ {
		if _, err = f.Write(block); err == nil {
			err = f.Sync()
		}
		if err != nil {
			break
		}
	}
	f.Close()
	if !errors.Is(err, unix.EDQUOT) && !errors.Is(err, unix.ENOSPC) || n < 10 || n > 21 {
		t.Errorf("after %d MiB: %v", n, err)
	}
	if err := os.WriteFile(filepath.Join(root, "beside"), block, 0o600); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
}

func TestBtrfs(t *testing.T) { testLimit(t, loop(t, "noatime", "mkfs.btrfs", "-q")) }

func TestExt4(t *testing.T) {
	testLimit(t, loop(t, "prjquota", "mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota"))
}

func TestXFS(t *testing.T) { testLimit(t, loop(t, "prjquota", "mkfs.xfs", "-q")) }

// TestByDevice: older kernels know quotas by the path of the device alone.
func TestByDevice(t *testing.T) {
	root := loop(t, "prjquota", "mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota")
	fd, err := open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	want, got := dqblk{bhardlimit: 4096, bsoftlimit: 4096, valid: qifBLimits}, dqblk{}
	op := func(cmd int) uintptr { return uintptr(uint32(cmd)<<8 | prjQuota) }
	if err := quotactlByDevice(fd, op(setQuota), 4711, unsafe.Pointer(&want)); err != nil {
		t.Fatal(err)
	}
	if err := quotactl(fd, getQuota, 4711, unsafe.Pointer(&got)); err != nil || got.bhardlimit != 4096 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestUnsupported(t *testing.T) {
	if os.Getenv("GANTRY_DISKS") != "" {
		t.Skip("its disks have quotas")
	}
	root := loop(t, "noatime", "mkfs.ext4", "-q")
	if err := Supported(root); !errors.Is(err, ErrUnsupported) {
		t.Error(err)
	}
	if err := MakeDir(filepath.Join(root, "x"), 1<<20, 1); !errors.Is(err, ErrUnsupported) {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(root, "x")); !os.IsNotExist(err) {
		t.Error(err)
	}
}
