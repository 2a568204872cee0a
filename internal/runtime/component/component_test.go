package component

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	t.Parallel()
	init := 4
	c := Conf{Ready: 3, State: -1}
	check, err := c.parse([]string{"-exec-root", "/x", "-build", "7", "-later", "word", "-init", "9", "-ready", "-1", "-state", "12"}, map[string]*int{"-init": &init})
	if want := (Conf{"/x", "7", -1, 12}); err != nil || check || c != want || init != 9 {
		t.Errorf("%+v, init %d, %v; want %+v", c, init, err, want)
	}
	if check, err := c.parse([]string{"-check", "-state", "3"}, nil); err != nil || !check || c.State != 3 {
		t.Error(check, err, c)
	}
	for _, args := range [][]string{{"-build"}, {"-ready", "x"}, {"-init", ""}} {
		if _, err := new(Conf).parse(args, map[string]*int{"-init": &init}); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
}

func TestListen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "s"), nil, 0o600); err != nil { // of one that was killed
		t.Fatal(err)
	}
	listener, lock, err := Listen(dir, "s", "l")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Listen(dir, "s", "l"); err != ErrTaken {
		t.Errorf("a second one gets %v", err)
	}
	unix.Close(listener)
	unix.Close(lock)
	if listener, lock, err = Listen(dir, "s", "l"); err != nil {
		t.Fatal(err)
	}
	unix.Close(listener)
	unix.Close(lock)
	if _, _, err := Listen(filepath.Join(dir, "missing"), "s", "l"); err == nil {
		t.Error("a missing folder is accepted")
	}
}
