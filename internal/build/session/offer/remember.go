package offer

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/atomicfile"
)

// look is what a file is like as long as nothing of it changes: its content, attributes and owner.
type look struct {
	Dev, Ino     uint64
	Size         int64
	Mtime, Ctime int64
}

func lookedAt(st *unix.Stat_t) look {
	return look{Dev: st.Dev, Ino: st.Ino, Size: st.Size, Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano()}
}

// seen is what was read of a file or directory when it was like that.
type seen struct {
	look
	sum    [sha256.Size]byte // of a file
	xattrs map[string]string
}

// settled is how old a change must be to be believed: file systems keep time in ticks, so that a file may be written twice
// within one and look the same.
const settled = 50 * time.Millisecond

// memory is what is remembered of a folder's files, in a file: a line for each, behind the digest of them all. Any trouble with it means
// to know nothing.
type memory struct {
	file  string
	files map[string]seen // by path
	began time.Time
}

// memoryForm begins such a file.
var memoryForm = []byte("gantry digests 2\n")

func remembered(root, cache string) *memory {
	m := &memory{began: time.Now()}
	abs, err := filepath.Abs(root)
	if cache == "" || err != nil {
		return m
	}
	sum := sha256.Sum256([]byte(abs))
	m.file = filepath.Join(cache, hex.EncodeToString(sum[:16]))
	data, err := os.ReadFile(m.file)
	if err != nil {
		return m
	}
	if data, ok := bytes.CutPrefix(data, memoryForm); ok && len(data) > sha256.Size {
		if sum := sha256.Sum256(data[sha256.Size:]); bytes.Equal(sum[:], data[:sha256.Size]) {
			m.files = parse(data[sha256.Size:])
		}
	}
	return m
}

// record is the fixed part of a line; the path and the attributes follow.
const record = 5*8 + sha256.Size + 2*4

func parse(b []byte) map[string]seen {
	files := make(map[string]seen, len(b)/(record+16))
	all := string(b) // names are parts of it
	for at := 0; at+record <= len(b); {
		r := b[at : at+record]
		n := func(i int) uint64 { return binary.LittleEndian.Uint64(r[8*i:]) }
		x := seen{look: look{n(0), n(1), int64(n(2)), int64(n(3)), int64(n(4))}}
		copy(x.sum[:], r[40:])
		path, attributes := int(binary.LittleEndian.Uint32(r[72:])), int(binary.LittleEndian.Uint32(r[76:]))
		at += record
		if path > len(b)-at || attributes > len(b)-at-path {
			return nil
		}
		name, rest := all[at:at+path], b[at+path:at+path+attributes]
		at += path + attributes
		for len(rest) > 0 {
			var kv [2]string
			for i := range kv {
				if len(rest) < 4 {
					return nil
				}
				n := int(binary.LittleEndian.Uint32(rest))
				if rest = rest[4:]; n > len(rest) {
					return nil
				}
				kv[i], rest = string(rest[:n]), rest[n:]
			}
			if x.xattrs == nil {
				x.xattrs = map[string]string{}
			}
			x.xattrs[kv[0]] = kv[1]
		}
		files[name] = x
	}
	return files
}

func (x *seen) append(b []byte, path string) []byte {
	var attributes []byte
	for _, name := range slices.Sorted(maps.Keys(x.xattrs)) {
		for _, s := range []string{name, x.xattrs[name]} {
			attributes = binary.LittleEndian.AppendUint32(attributes, uint32(len(s)))
			attributes = append(attributes, s...)
		}
	}
	for _, n := range []uint64{x.Dev, x.Ino, uint64(x.Size), uint64(x.Mtime), uint64(x.Ctime)} {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	b = append(b, x.sum[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(path)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(attributes)))
	b = append(b, path...)
	return append(b, attributes...)
}

// maxForgotten is how many names may be remembered that are not in the folder any more, or not in the selection.
const maxForgotten = 100_000

// save writes what is known, with what was read anew of a folder with so many names.
func (m *memory) save(names int, fresh map[string]seen) {
	for p, s := range fresh {
		if time.Unix(0, s.Ctime).After(m.began.Add(-settled)) {
			delete(fresh, p)
		}
	}
	if m.file == "" || len(fresh) == 0 {
		return
	}
	if m.files == nil || len(m.files) > names+maxForgotten {
		m.files = map[string]seen{}
	}
	maps.Copy(m.files, fresh)
	b := append(slices.Clone(memoryForm), make([]byte, sha256.Size)...)
	for path, s := range m.files {
		b = s.append(b, path)
	}
	sum := sha256.Sum256(b[len(memoryForm)+sha256.Size:])
	copy(b[len(memoryForm):], sum[:])
	if os.MkdirAll(filepath.Dir(m.file), 0o700) == nil {
		_ = atomicfile.Write(m.file, b, 0o600)
	}
}
