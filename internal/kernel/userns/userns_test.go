package userns

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/mount"
)

func TestSwap(t *testing.T) {
	t.Parallel()
	ids := []uint32{0, 1, 2, 1000, 1001, 65534, 1<<32 - 2}
	for _, a := range ids {
		for _, b := range ids {
			look := func(id uint32) uint32 {
				for _, m := range Swap(a, b) {
					if int(id) >= m.ContainerID && int(id) < m.ContainerID+m.Size {
						return uint32(int(id) - m.ContainerID + m.HostID)
					}
				}
				t.Fatalf("swap %d and %d: %d is not mapped", a, b, id)
				return 0
			}
			for _, id := range append(ids, 500, 70000) {
				want := id
				switch id {
				case a:
					want = b
				case b:
					want = a
				}
				if got := look(id); got != want {
					t.Errorf("swap %d and %d: %d becomes %d", a, b, id, got)
				}
			}
		}
	}
}

// An idmapped mount of a directory shows and stores owners swapped.
func TestMappedMount(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(dir, "f"), 1234, 5678); err != nil {
		t.Fatal(err)
	}
	n, err := New(Swap(1234, 0), Swap(5678, 42))
	if err != nil {
		t.Fatal(err)
	}
	ns, err := n.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	fd, err := mount.Clone(unix.AT_FDCWD, dir, false)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := mount.SetIDMap(fd, int(ns.Fd()), false); err != nil {
		t.Fatal(err)
	}
	n.Close()
	var st unix.Stat_t
	if err := unix.Fstatat(fd, "f", &st, 0); err != nil || st.Uid != 0 || st.Gid != 42 {
		t.Errorf("%v, owner %d:%d", err, st.Uid, st.Gid)
	}
	made, err := unix.Openat(fd, "g", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(made)
	if err := unix.Stat(filepath.Join(dir, "g"), &st); err != nil || st.Uid != 1234 {
		t.Errorf("%v, on disk %d:%d", err, st.Uid, st.Gid)
	}
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		t.Fatal(err)
	}
}
