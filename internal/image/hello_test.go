package image

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"gantry/internal/content"
	"gantry/internal/layer"
	"gantry/internal/state"
)

// open makes a service in a new data-root.
func open(t *testing.T, o Options) *Service {
	t.Helper()
	return openAt(t, t.TempDir(), o)
}

// needRoot skips what makes owners, devices and trusted xattrs: on a laptop, never in CI.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
}

func openAt(t *testing.T, root string, o Options) *Service {
	t.Helper()
	needRoot(t)
	st, err := state.Open(filepath.Join(root, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	blobs, err := content.Open(filepath.Join(root, "content"))
	if err != nil {
		t.Fatal(err)
	}
	layers, err := layer.Open(root, st, layer.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { layers.Close() })
	s, err := Open(st, blobs, layers, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestHelloProgramPrintsItsText(t *testing.T) {
	program := helloProgram(runtime.GOARCH, helloText)
	if program == nil {
		t.Skip("no program for this architecture")
	}
	path := filepath.Join(t.TempDir(), "hello")
	if err := os.WriteFile(path, program, 0o700); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(path).CombinedOutput()
	if err != nil || !bytes.Equal(out, []byte(helloText)) {
		t.Fatalf("%v: %q", err, out)
	}
}

func TestBuiltinComesBackAfterRemoval(t *testing.T) {
	s := open(t, Options{})
	if list, err := s.List(t.Context(), ListOptions{}); err != nil || len(list) != 0 {
		t.Fatalf("not empty at first: %v, %v", list, err)
	}
	i, err := s.Get(t.Context(), "hello-world")
	if err != nil {
		t.Fatal(err)
	}
	gone, err := s.Remove(t.Context(), "hello-world", false, false)
	if err != nil {
		t.Fatal(err)
	}
	want := []Deleted{{Untagged: "hello-world:latest"}, {Deleted: i.ID.String()}, {Deleted: i.ChainID.String()}}
	if len(gone) != 3 || gone[0] != want[0] || gone[1] != want[1] || gone[2] != want[2] {
		t.Fatalf("got %v", gone)
	}
	if c, err := s.content.Usage(); err != nil || c.Blobs != 0 {
		t.Fatalf("blobs left: %v, %v", c, err)
	}
	again, err := s.Get(t.Context(), "hello-world")
	if err != nil || again.ID != i.ID {
		t.Fatalf("%v, %v", again.ID, err)
	}
}
