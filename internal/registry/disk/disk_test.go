package disk_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"gantry/internal/registry"
	"gantry/internal/registry/disk"
	"gantry/internal/registry/storagetest"
)

func open(t *testing.T, dir string) *disk.Disk {
	t.Helper()
	d, err := disk.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestStorage(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) registry.Storage { return open(t, t.TempDir()) })
}

func TestOneOwner(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	if _, err := disk.Open(dir); err == nil {
		t.Fatal("two own one folder")
	}
	d.Close()
	open(t, dir)
}

func TestLeftoversGo(t *testing.T) {
	dir := t.TempDir()
	open(t, dir).Close()
	left := filepath.Join(dir, "tmp", "1")
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestConfined(t *testing.T) {
	dir := t.TempDir()
	d := open(t, filepath.Join(dir, "root"))
	if err := os.WriteFile(filepath.Join(dir, "secret"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"", ".", "..", "../lock", "../../secret", "/etc/passwd", "a/../../../secret", "a//b", "a/./b", "a/../b", "a/", "a\x00b"} {
		if _, _, err := d.Open(key); err == nil {
			t.Errorf("open %q", key)
		}
		if err := d.Put(key, nil); err == nil {
			t.Errorf("put %q", key)
		}
		if err := d.Delete(key); err == nil {
			t.Errorf("delete %q", key)
		}
		if s, err := d.Stage(key, true); err == nil {
			t.Errorf("stage %q", key)
			s.Discard()
		}
	}
}
