package mount

import (
	"slices"
	"strconv"
	"strings"
)

// Info is one line of /proc/pid/mountinfo (proc_pid_mountinfo(5)).
type Info struct {
	Root, Point string   // unescaped
	Optional    []string // fields such as "shared:7" and "master:3"
	FSType      string
	Super       string // options of the super block, separated by commas
}

// ParseInfo reads one line of mountinfo; it reports whether the line is one.
func ParseInfo(line string) (Info, bool) {
	// ID, parent, major:minor, root, point, options, optional fields, a lone "-", type, source, super options
	f := strings.Fields(line)
	sep := slices.Index(f, "-")
	if sep < 6 || len(f) < sep+4 {
		return Info{}, false
	}
	return Info{Root: unescape(f[3]), Point: unescape(f[4]), Optional: f[6:sep], FSType: f[sep+1], Super: f[sep+3]}, true
}

// unescape undoes mountinfo's octal escapes of space, tab, newline and backslash.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
