package programs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	echo, err := os.ReadFile("/bin/echo")
	if err != nil {
		t.Skip(err)
	}
	if err := os.WriteFile(filepath.Join(dir, Supervisor), echo, 0o600); err != nil {
		t.Fatal(err)
	}
	s := &Set{Dir: dir, Embedded: map[string][]byte{Init: echo}}
	for _, name := range []string{Supervisor, Init} {
		f, err := s.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if out, err := exec.Command(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()), "hi").Output(); err != nil || string(out) != "hi\n" {
			t.Errorf("%s: %q, %v", name, out, err)
		}
		if w, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDWR, 0); err == nil {
			if _, err := w.Write([]byte("x")); err == nil {
				t.Errorf("%s can be written", name)
			}
			w.Close()
		}
		if seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0); err != nil || seals&unix.F_SEAL_WRITE == 0 {
			t.Errorf("%s: seals %x, %v", name, seals, err)
		}
	}
	a, err := s.Build(Supervisor, Init)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, Supervisor), append(echo, 0), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, _ := s.Build(Supervisor, Init); a == b {
		t.Error("another program, the same build")
	}
}
