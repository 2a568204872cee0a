// Package mount speaks mount(8)'s option words and the kernel's file-descriptor based mount calls
// (fsopen, open_tree, move_mount: Linux 5.2; mount_setattr: 5.12, with a fallback).
//
// Everything is attached by descriptor: a mount is made detached, given its flags and its propagation while
// nobody can see it, and only then moved onto a target that was resolved once. There is no moment at which
// a container's volume is there but still writable.
//
// The package is linked into the init program and so keeps to x/sys/unix.
package mount

import (
	"strings"

	"golang.org/x/sys/unix"
)

// Options are parsed option words.
type Options struct {
	Set, Clear  uint64  // MOUNT_ATTR_* to set and to clear
	RecSet      uint64  // the same for the mounts below as well (rro)
	Propagation uintptr // MS_PRIVATE, MS_SHARED, MS_SLAVE or MS_UNBINDABLE; 0: not said
	PropRec     bool    // the propagation is meant for the mounts below as well
	Bind        bool
	Recursive   bool // rbind
	Remount     bool
	CopyUp      bool     // tmpcopyup: a tmpfs begins with the content it covers
	Data        []string // what is left: words of the file system itself
}

type word struct {
	set, clear uint64
}

// words are the per-mount flags. Setting an atime mode clears the others, for the modes are one field.
var words = map[string]word{
	"ro":            {set: unix.MOUNT_ATTR_RDONLY},
	"rw":            {clear: unix.MOUNT_ATTR_RDONLY},
	"nosuid":        {set: unix.MOUNT_ATTR_NOSUID},
	"suid":          {clear: unix.MOUNT_ATTR_NOSUID},
	"nodev":         {set: unix.MOUNT_ATTR_NODEV},
	"dev":           {clear: unix.MOUNT_ATTR_NODEV},
	"noexec":        {set: unix.MOUNT_ATTR_NOEXEC},
	"exec":          {clear: unix.MOUNT_ATTR_NOEXEC},
	"nodiratime":    {set: unix.MOUNT_ATTR_NODIRATIME},
	"diratime":      {clear: unix.MOUNT_ATTR_NODIRATIME},
	"noatime":       {set: unix.MOUNT_ATTR_NOATIME, clear: unix.MOUNT_ATTR__ATIME},
	"atime":         {clear: unix.MOUNT_ATTR__ATIME},
	"relatime":      {clear: unix.MOUNT_ATTR__ATIME},
	"norelatime":    {set: unix.MOUNT_ATTR_STRICTATIME, clear: unix.MOUNT_ATTR__ATIME},
	"strictatime":   {set: unix.MOUNT_ATTR_STRICTATIME, clear: unix.MOUNT_ATTR__ATIME},
	"nostrictatime": {clear: unix.MOUNT_ATTR__ATIME},
	"nosymfollow":   {set: unix.MOUNT_ATTR_NOSYMFOLLOW},
	"defaults":      {},
}

var propagations = map[string]uintptr{
	"private": unix.MS_PRIVATE, "shared": unix.MS_SHARED, "slave": unix.MS_SLAVE, "unbindable": unix.MS_UNBINDABLE,
}

// Parse reads option words, later ones overriding earlier ones. Words it does not know are the file system's.
func Parse(opts []string) Options {
	var o Options
	for _, w := range opts {
		if f, ok := words[w]; ok {
			o.Set = o.Set&^f.clear | f.set
			o.Clear = o.Clear&^f.set | f.clear
			continue
		}
		if p, ok := Propagation(w); ok {
			o.Propagation, o.PropRec = p, w[0] == 'r'
			continue
		}
		switch w {
		case "rro":
			o.Set |= unix.MOUNT_ATTR_RDONLY
			o.RecSet |= unix.MOUNT_ATTR_RDONLY
		case "bind":
			o.Bind = true
		case "rbind":
			o.Bind, o.Recursive = true, true
		case "remount":
			o.Remount = true
		case "tmpcopyup":
			o.CopyUp = true
		case "":
		default:
			o.Data = append(o.Data, w)
		}
	}
	return o
}

// Propagation reads "private", "rslave" and so on.
func Propagation(w string) (flag uintptr, ok bool) {
	p, ok := propagations[w]
	if !ok && strings.HasPrefix(w, "r") {
		p, ok = propagations[w[1:]]
	}
	return p, ok
}

// IsFlag reports whether w is a word of mount(8) that any file system takes.
func IsFlag(w string) bool {
	_, ok := words[w]
	return ok
}
