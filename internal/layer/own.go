package layer

import "golang.org/x/sys/unix"

// engineMade are the names that an engine puts into a writable layer so that something can be mounted there, and
// the mark by which programs know that they are in a container. In Docker they lie in a layer of their
// own ("init"), below the container's: neither diff nor commit shows them.
var engineMade = map[string]uint32{
	".dockerenv": unix.S_IFREG, "dev": unix.S_IFDIR, "dev/pts": unix.S_IFDIR, "dev/shm": unix.S_IFDIR, "dev/mqueue": unix.S_IFDIR,
	"dev/console": unix.S_IFREG, "proc": unix.S_IFDIR, "sys": unix.S_IFDIR, "sys/fs": unix.S_IFDIR, "sys/fs/cgroup": unix.S_IFDIR,
	"etc": unix.S_IFDIR, "etc/hosts": unix.S_IFREG, "etc/hostname": unix.S_IFREG, "etc/resolv.conf": unix.S_IFREG,
}

// isEngineMade reports whether what the upper directory has at path may be such a name. Files are empty then; a
// directory counts only if nothing else is in it, which the caller sees.
func isEngineMade(path string, st *unix.Stat_t) bool {
	kind, ok := engineMade[path]
	if !ok || uint32(st.Mode)&unix.S_IFMT != kind {
		return false
	}
	return kind == unix.S_IFDIR || st.Size == 0
}
