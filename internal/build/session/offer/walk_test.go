package offer

import (
	"crypto/sha256"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gantry/internal/build/session/wire"
)

// TestUnchangedFilesAreNotRead: what is remembered is believed as long as nothing of the file changed.
func TestUnchangedFilesAreNotRead(t *testing.T) {
	dir, cache := t.TempDir(), t.TempDir()
	full := filepath.Join(dir, "f")
	if err := os.WriteFile(full, []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	right := sha256.Sum256([]byte("content"))
	look := func() wire.Entry {
		t.Helper()
		entries, save, err := walk(t.Context(), &Folder{Path: dir}, selection{}, cache)
		if err != nil || len(entries) != 1 {
			t.Fatal(entries, err)
		}
		save()
		return entries[0]
	}
	// A change that is too young is not believed; wait for time to go on, as the file system sees it.
	var m *memory
	for range 10000 {
		if look().Sum != right {
			t.Fatal("a wrong digest")
		}
		if m = remembered(dir, cache); len(m.files) == 1 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if len(m.files) != 1 {
		t.Fatal("it is never remembered")
	}
	s := m.files["f"]
	s.sum[0] ^= 1
	s.xattrs = map[string]string{"user.a": "b\xff", "user.c": ""}
	m.save(1, map[string]seen{"f": s})
	if e := look(); e.Sum == right {
		t.Error("the file was read again")
	} else if !maps.Equal(e.Xattrs, s.xattrs) {
		t.Errorf("attributes: %q", e.Xattrs)
	}
	if err := os.Chtimes(full, time.Now(), time.Unix(0, s.Mtime)); err != nil { // its ctime changes
		t.Fatal(err)
	}
	if look().Sum != right {
		t.Error("the file was not read again")
	}
	// What is torn counts for nothing.
	data, err := os.ReadFile(m.file)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(m.file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if m := remembered(dir, cache); len(m.files) != 0 {
		t.Errorf("torn: %v", m.files)
	}
}

func FuzzParse(f *testing.F) {
	x := seen{xattrs: map[string]string{"a": "b"}}
	f.Add(x.append(nil, "path"))
	f.Fuzz(func(_ *testing.T, data []byte) { parse(data) })
}
