package layer

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Of files that did not get whole nothing is left, where that was asked for: neither of the one that failed nor of those behind it.
// What has taken the name of one stays.
func TestFillerLeavesNothingHalf(t *testing.T) {
	t.Parallel()
	for _, beside := range []bool{true, false} {
		dir := t.TempDir()
		f := &filler{disk: &disk{root: -1}}
		if beside {
			f = newFiller(f.disk)
		}
		begin := func(name string, flags int) *filled {
			fd, err := unix.Open(filepath.Join(dir, name), flags|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			at, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			return &filled{fd: fd, dir: at, name: name, full: name, size: 4, finish: func() error { return nil }}
		}
		put := func(file *filled) error {
			f.file = file
			buf := f.buffer(make([]byte, 4))
			copy(buf, "data")
			err := f.write(buf, 4, 0)
			if err == nil {
				return f.close()
			}
			f.abandon()
			return err
		}
		if err := put(begin("whole", unix.O_WRONLY)); err != nil {
			t.Fatal(err)
		}
		taken := begin("taken", unix.O_RDONLY)
		if err := os.Rename(filepath.Join(dir, "taken"), filepath.Join(dir, "away")); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "taken"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		broken := begin("broken", unix.O_RDONLY) // can't be written
		behind := begin("behind", unix.O_WRONLY)
		err := put(broken)
		for _, file := range []*filled{behind, taken} {
			f.file = file
			f.abandon()
		}
		if serr := f.stop(); beside {
			err = serr
		}
		if err == nil {
			t.Error("no error came of it")
		}
		var names []string
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if len(names) != 3 || names[0] != "away" || names[1] != "taken" || names[2] != "whole" {
			t.Errorf("beside %v: left are %v", beside, names)
		}
		if data, _ := os.ReadFile(filepath.Join(dir, "whole")); string(data) != "data" {
			t.Errorf("whole has %q", data)
		}
	}
}
