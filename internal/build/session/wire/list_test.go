package wire

import (
	"reflect"
	"testing"
)

const (
	directory = typeDir | 0o755
	regular   = typeRegular | 0o644
)

func TestListRoundTrip(t *testing.T) {
	t.Parallel()
	want := []Entry{
		{Path: "a", Mode: directory, UID: 7, Mtime: -5},
		{Path: "a/\xff", Mode: regular, GID: 1 << 31, Size: 1 << 40, Inode: [2]uint64{1 << 63, 2}, Xattrs: map[string]string{"user.x": "\x00", "user.a": ""}, Sum: [32]byte{1, 2, 3}},
		{Path: "a-b", Mode: 0o120777, Link: "../x", Rdev: 9},
	}
	b, err := List(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadList(b)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	for n := range b {
		if n == 0 {
			continue
		}
		if short, err := ReadList(b[:n]); err == nil && len(short) == len(want) {
			t.Errorf("a list of %d bytes was taken from %d of them", len(b), n)
		}
	}
	if _, err := ReadList(nil); err == nil {
		t.Error("nothing was taken for a list")
	}
}

// TestHostileList: names that no folder has are refused.
func TestHostileList(t *testing.T) {
	t.Parallel()
	refused := func(what string, list ...Entry) {
		t.Helper()
		b, err := List(list)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ReadList(b); err == nil {
			t.Errorf("%s was taken", what)
		}
	}
	for _, bad := range []string{"", ".", "..", "../x", "/x", "a//b", "a/../b", "a/./b", "a\x00b", "a/"} {
		refused("the path "+bad, Entry{Path: bad, Mode: directory})
	}
	refused("a list out of order", Entry{Path: "b", Mode: directory}, Entry{Path: "a", Mode: directory})
	refused("a name twice", Entry{Path: "a", Mode: directory}, Entry{Path: "a", Mode: directory})
	refused("a negative size", Entry{Path: "a", Mode: regular, Size: -1})
}

func FuzzList(f *testing.F) {
	b, err := List([]Entry{{Path: "a", Mode: directory}, {Path: "a/b", Mode: regular, Size: 3, Xattrs: map[string]string{"user.x": "y"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := ReadList(data)
		if err != nil {
			return
		}
		last := ""
		for i := range list {
			if p := list[i].Path; p[0] == '/' || last != "" && Compare(last, p) >= 0 {
				t.Fatalf("%q was taken behind %q", p, last)
			}
			last = list[i].Path
		}
	})
}
