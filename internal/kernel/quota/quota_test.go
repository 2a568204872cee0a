package quota

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/quota/quotatest"
)

func testLimit(t *testing.T, root string) { quotatest.Unprivileged(t, func() { limit(t, root) }) }

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

func TestBtrfs(t *testing.T) { testLimit(t, quotatest.Loop(t, "noatime", "mkfs.btrfs", "-q")) }

func TestExt4(t *testing.T) {
	testLimit(t, quotatest.Loop(t, "prjquota", "mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota"))
}

func TestXFS(t *testing.T) { testLimit(t, quotatest.Loop(t, "prjquota", "mkfs.xfs", "-q")) }

// TestByDevice: older kernels know quotas by the path of the device alone.
func TestByDevice(t *testing.T) {
	root := quotatest.Loop(t, "prjquota", "mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota")
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
	root := quotatest.Loop(t, "noatime", "mkfs.ext4", "-q")
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
