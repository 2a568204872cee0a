package view

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/mount"
)

// Held is a file system that is mounted in a mount namespace of one thread, and nowhere else, until it is closed. Who enters the
// namespace can clone it (open_tree(2)).
type Held struct {
	Pid       int // the thread
	StartTime uint64
	Path      string // where it is, there

	quit chan struct{}
}

// Hold mounts a file system, on at. It is for what a container may not open by itself: a block device, which its control group
// denies, or a server, which its network need not reach. When ctx ends before that is done (a server may be silent for minutes) it
// is unmounted later.
func Hold(ctx context.Context, fstype, source string, o mount.Options, at string) (*Held, error) {
	h := &Held{Path: at, quit: make(chan struct{})}
	done := make(chan error, 1)
	thread(func() {
		err := h.mount(fstype, source, o)
		done <- err
		if err == nil {
			<-h.quit
		}
	})
	select {
	case err := <-done:
		if err != nil {
			return nil, err
		}
		return h, nil
	case <-ctx.Done():
		h.Close()
		return nil, ctx.Err()
	}
}

// Close lets go of it. Clones stay.
func (h *Held) Close() { close(h.quit) }

func (h *Held) mount(fstype, source string, o mount.Options) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	fd, err := mount.New(fstype, source, o)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	target, err := unix.Open(h.Path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	if err := mount.Attach(fd, target); err != nil {
		return err
	}
	h.Pid = unix.Gettid()
	h.StartTime = Started(h.Pid)
	return nil
}
