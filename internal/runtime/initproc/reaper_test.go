package initproc

import (
	"debug/elf"
	"os"
	"os/exec"
	"testing"
)

// The reaper's ELF file is made by hand; Go's reader must agree with what the kernel is shown.
func TestReaperImage(t *testing.T) {
	path := t.TempDir() + "/reaper"
	image := reaperImage([]*byte{cstr("/nosuch"), cstr("/etc/passwd"), cstr("/bin/sh")})
	if err := os.WriteFile(path, image, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Entry != reaperBase+reaperEntry || len(f.Progs) != 2 || f.Progs[0].Flags != elf.PF_R|elf.PF_X || f.Progs[1].Flags != elf.PF_R|elf.PF_W {
		t.Errorf("%+v", f.FileHeader)
	}
	// Not as PID 1, but it works the same. TestReaper runs it in a container.
	cmd := exec.Command(path, "--", "sh", "-c", "exit 7")
	err = cmd.Run()
	if code := cmd.ProcessState.ExitCode(); code != 7 {
		t.Errorf("exit code %d, %v", code, err)
	}
}
