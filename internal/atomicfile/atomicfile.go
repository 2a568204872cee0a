// Package atomicfile replaces files so that a reader, or a restart after a crash, sees either the old
// content or the new one whole, never a part.
package atomicfile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
)

const temporary = ".tmp-"

// Write replaces path by data with mode perm: it writes a temporary file in the same folder and renames
// it. It does not sync: use it for what need not survive a power cut (the exec-root).
func Write(path string, data []byte, perm os.FileMode) error { return write(path, data, perm, false) }

// WriteSync is Write, but returns only when file and folder are on disk.
func WriteSync(path string, data []byte, perm os.FileMode) error {
	return write(path, data, perm, true)
}

func write(path string, data []byte, perm os.FileMode, sync bool) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, temporary+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err = f.Chmod(perm); err != nil {
		return err
	}
	if _, err = f.Write(data); err != nil {
		return err
	}
	if sync {
		if err = f.Sync(); err != nil {
			return err
		}
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil || !sync {
		return err
	}
	return SyncDir(dir)
}

// Sweep deletes what writers that were killed in the middle left in dir. Nobody may be writing there.
func Sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), temporary) {
			err = errors.Join(err, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

// SyncDir makes renames, creations and removals in dir durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
