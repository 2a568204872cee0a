// Package view opens the file system of a container for a process outside of it, without mounting anything on the
// host.
//
// Of a running container it takes the root of its mount namespace, volumes and all; or the overlay alone, for an
// export. Of one that does not run it mounts the overlay, and what is bound into it, in a mount namespace that
// lives for a moment in one thread; what comes out is a detached tree of mounts (open_tree(2)), which goes
// when its descriptor is closed. Nobody may have the overlay mounted then: the kernel forbids two mounts of one
// upper directory, and the caller sees to it.
package view

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/fs"
	"gantry/internal/kernel/mount"
)

// Overlay names the directories of an overlay, relative to Base; and Target, an empty directory to mount it on in a mount
// namespace that nobody else sees.
type Overlay struct {
	Base        string
	Lower       []string // topmost first
	Upper, Work string   // empty: read-only
	Target      string
}

// Bind is a file or directory of the host that is seen in the container. A target that is not there is made.
type Bind struct {
	Source, Target string
	ReadOnly       bool
	Subpath        string // what of Source is seen; links on the way are followed inside it
	Alone          bool   // without what is mounted below Source

	Type    string // not empty: Source is a device with a file system of this type
	Options mount.Options
}

// Of opens the root of the process pid as the process sees it. The caller makes sure afterwards that pid is still the one it
// means.
func Of(pid int) (fs.Root, error) {
	return fs.OpenRoot("/proc/" + strconv.Itoa(pid) + "/root")
}

// Started returns when the process began, in clock ticks since boot (proc_pid_stat(5), field 22), by which a number that
// another process has now is told from it; 0 if there is none.
func Started(pid int) uint64 {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	// The second field is the program's name, which may hold anything; the last ")" ends it.
	i := bytes.LastIndexByte(b, ')')
	f := bytes.Fields(b[i+1:])
	if i < 0 || len(f) < 20 {
		return 0
	}
	n, _ := strconv.ParseUint(string(f[19]), 10, 64)
	return n
}

// OverlayOf opens the file system that the process pid has as its root, without what is mounted below.
func OverlayOf(pid int) (fs.Root, error) {
	return aside(func() (int, error) {
		ns, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, fmt.Errorf("open mount namespace: %w", err)
		}
		defer unix.Close(ns)
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return -1, fmt.Errorf("unshare: %w", err)
		}
		if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil {
			return -1, fmt.Errorf("enter mount namespace: %w", err)
		}
		return mount.Clone(unix.AT_FDCWD, "/", false)
	})
}

// Mount mounts the overlay with the binds in it, a path before what lies below it.
func Mount(o Overlay, binds []Bind) (fs.Root, error) {
	return aside(func() (int, error) {
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			return -1, fmt.Errorf("unshare: %w", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
			return -1, fmt.Errorf("make mounts private: %w", err)
		}
		if err := unix.Chdir(o.Base); err != nil {
			return -1, fmt.Errorf("open %s: %w", o.Base, err)
		}
		if o.Upper == "" && len(o.Lower) == 1 { // an overlay wants two; of one directory alone a read-only copy is as good
			tree, err := mount.Clone(unix.AT_FDCWD, o.Lower[0], false)
			if err != nil {
				return -1, fmt.Errorf("open %s: %w", o.Lower[0], err)
			}
			return tree, mount.SetAttr(tree, unix.MOUNT_ATTR_RDONLY, 0, 0, false)
		}
		data := "lowerdir=" + strings.Join(o.Lower, ":")
		if o.Upper != "" {
			data += ",upperdir=" + o.Upper + ",workdir=" + o.Work
		}
		if err := unix.Mount("overlay", o.Target, "overlay", 0, data); err != nil {
			return -1, fmt.Errorf("mount overlay: %w", err)
		}
		root, err := fs.OpenRoot(o.Target)
		if err != nil {
			return -1, err
		}
		defer root.Close()
		for _, b := range binds {
			if err := bind(root, b); err != nil {
				return -1, fmt.Errorf("bind %s: %w", b.Source, err)
			}
		}
		return mount.Clone(unix.AT_FDCWD, o.Target, true)
	})
}

// open makes a detached copy of what is to be bound.
func open(b Bind) (int, error) {
	if b.Type != "" {
		return mount.New(b.Type, b.Source, b.Options)
	}
	if b.Subpath == "" {
		return mount.Clone(unix.AT_FDCWD, b.Source, !b.Alone)
	}
	dir, err := fs.OpenRoot(b.Source)
	if err != nil {
		return -1, err
	}
	defer dir.Close()
	fd, err := dir.Open("/"+b.Subpath, unix.O_PATH, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fd)
	return mount.Clone(fd, "", !b.Alone)
}

func bind(root fs.Root, b Bind) error {
	source, err := open(b)
	if errors.Is(err, unix.ENOENT) {
		return nil // the container could not start either; for its files that matters not
	}
	if err != nil {
		return err
	}
	defer unix.Close(source)
	var st unix.Stat_t
	if err := unix.Fstat(source, &st); err != nil {
		return err
	}
	var target int
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		target, err = root.MkdirAll(b.Target, 0o755)
	} else {
		target, err = root.CreateFile(b.Target, 0o755)
	}
	if err != nil {
		return err
	}
	defer unix.Close(target)
	if err := mount.Attach(source, target); err != nil {
		return err
	}
	if b.ReadOnly {
		// Linux before 5.12 knows only mount(2) for this; there, reading is as harmless, and what writes is refused above.
		if err := mount.SetAttr(source, unix.MOUNT_ATTR_RDONLY, 0, 0, !b.Alone); err != nil && err != unix.ENOSYS {
			return err
		}
	}
	return nil
}

// aside runs f in a thread of its own, whose namespaces f may change, and makes a Root of what it returns.
func aside(f func() (int, error)) (fs.Root, error) {
	type result struct {
		fd  int
		err error
	}
	done := make(chan result)
	thread(func() {
		fd, err := f()
		done <- result{fd, err}
	})
	r := <-done
	if r.err != nil {
		return fs.Root{}, r.err
	}
	return fs.RootAt(r.fd), nil
}

// thread runs f in a thread of its own, which ends with f, and the namespaces that f has entered with it. It is never the main
// one, which the runtime parks for ever instead of ending it: what was mounted there would stay.
func thread(f func()) {
	go func() {
		runtime.LockOSThread() // and never unlocked
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		began := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(began) // elsewhere: the main thread is held here
			f()
		}()
		<-began
		runtime.UnlockOSThread()
	}()
}
