package container

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/moby/moby/api/types/mount"

	"gantry/internal/errs"
	kernelfs "gantry/internal/kernel/fs"
	kernelmount "gantry/internal/kernel/mount"
	"gantry/internal/kernel/view"
	"gantry/internal/layer"
)

// withFiles calls f with the container's file system. Of a running container it is what its processes see; of another
// it is mounted for this, and meanwhile it can neither be started nor removed. alone leaves out what is mounted in it.
func (c *container) withFiles(ctx context.Context, alone bool, f func(kernelfs.Root) error) error {
	for {
		if p, err := c.process(); err == nil {
			open := view.Of
			if alone {
				open = view.OverlayOf
			}
			root, err := open(p.Pid)
			if err == nil && view.Started(p.Pid) == p.StartTime {
				defer root.Close()
				return f(root)
			}
			if err == nil {
				root.Close()
			}
			// It ends just now: wait until that is known.
		}
		again := false
		err := c.do(ctx, func() error {
			if c.now.Status == Running || c.now.Status == Paused {
				again = true
				return nil
			}
			root, err := c.mountFiles(alone)
			if err != nil {
				return err
			}
			defer root.Close()
			return f(root)
		})
		if !again {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// mountFiles mounts what the container's processes would see. The container's goroutine calls it.
func (c *container) mountFiles(alone bool) (kernelfs.Root, error) {
	if c.now.Status == Removing || c.now.Status == Dead {
		return kernelfs.Root{}, errs.Conflict.Errorf("container %s is marked for removal", c.id)
	}
	o, err := c.s.Layers.Overlay(c.now.Image.ChainID, c.id)
	if err != nil {
		return kernelfs.Root{}, err
	}
	var binds []view.Bind
	if !alone {
		for _, m := range c.now.Mounts {
			if m.Type == mount.TypeVolume && c.s.Mounter != nil {
				src := c.s.Mounter.Sources([]string{m.Name})[0]
				if strings.HasPrefix(src.Device, "/") && !strings.HasPrefix(src.Device, "//") && src.Type != "" {
					binds = append(binds, view.Bind{Type: src.Type, Source: src.Device, Options: kernelmount.Parse(src.Options), Target: m.Destination, ReadOnly: !m.RW})
					continue
				}
				// A server may not answer, and a tmpfs holds nothing now.
				if m.Source = src.Path; m.Source == "" {
					continue
				}
			}
			if m.Type == mount.TypeBind || m.Type == mount.TypeVolume {
				binds = append(binds, view.Bind{Source: m.Source, Target: m.Destination, ReadOnly: !m.RW, Subpath: c.now.MountOptions[m.Destination].Subpath})
			}
		}
	}
	return view.Mount(view.Overlay{Base: o.Base, Lower: o.Lower, Upper: o.Upper, Work: o.Work, Target: filepath.Join(c.dir, "rootfs")}, binds)
}

// fileError puts what went wrong with a path into Docker's words.
func fileError(err error, name, ref string) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errs.NotFound.Errorf("Could not find the file %s in container %s", name, ref)
	}
	return err
}

// StatPath describes a path in the container, for `cp`.
func (s *Service) StatPath(ctx context.Context, ref, name string) (st layer.PathStat, err error) {
	c, err := s.find(ref)
	if err != nil {
		return st, err
	}
	err = c.withFiles(ctx, false, func(root kernelfs.Root) error {
		st, err = layer.StatPath(root, name)
		return err
	})
	return st, fileError(err, name, ref)
}

// CopyOut packs a path of the container; out is told what it is and says where the archive goes.
func (s *Service) CopyOut(ctx context.Context, ref, name string, out func(layer.PathStat) (io.Writer, error)) error {
	c, err := s.find(ref)
	if err != nil {
		return err
	}
	err = c.withFiles(ctx, false, func(root kernelfs.Root) error { return layer.CopyOut(ctx, root, name, out) })
	if err == nil {
		s.event(c.snap.Load(), "archive-path")
	}
	return fileError(err, name, ref)
}

// CopyIn extracts an archive into a directory of the container. keepKind refuses to exchange directories and other
// things for one another; own gives what is made to the container's user.
func (s *Service) CopyIn(ctx context.Context, ref, name string, archive io.Reader, keepKind, own bool) error {
	c, err := s.find(ref)
	if err != nil {
		return err
	}
	snap := c.get()
	err = c.withFiles(ctx, false, func(root kernelfs.Root) error {
		if err := writable(&snap, name); err != nil {
			// Docker looks for the directory first.
			if _, serr := layer.StatPath(root, strings.TrimSuffix(name, "/")+"/."); serr != nil {
				return serr
			}
			return err
		}
		o := layer.ExtractOptions{KeepKind: keepKind}
		if own && snap.Config.User != "" {
			uid, gid, err := ownerOf(root, snap.Config.User)
			if err != nil {
				return err
			}
			o.Owner = &[2]int{uid, gid}
		}
		return layer.CopyIn(ctx, root, name, archive, o)
	})
	if layer.ReadOnly(err) && !snap.HostConfig.ReadonlyRootfs && s.Trash.Full() {
		// An overlay that finds no room for its own folder is mounted read-only.
		err = errs.Internal.Errorf("write %s: %w", name, syscall.ENOSPC)
	} else if layer.ReadOnly(err) {
		err = errs.Invalid.Errorf("container rootfs is marked read-only")
	}
	if err == nil {
		s.event(c.snap.Load(), "extract-to-dir")
	}
	return fileError(err, name, ref)
}

// writable refuses what the container itself could not write either.
func writable(snap *Snapshot, name string) error {
	abs := path.Join("/", name)
	in, rw := "", true
	for _, m := range snap.Mounts {
		d := path.Clean(m.Destination)
		if (abs == d || strings.HasPrefix(abs, d+"/")) && len(d) > len(in) {
			in, rw = d, m.RW
		}
	}
	switch {
	case in != "" && !rw:
		return errs.Invalid.Errorf("mounted volume is marked read-only")
	case in == "" && snap.HostConfig.ReadonlyRootfs:
		return errs.Invalid.Errorf("container rootfs is marked read-only")
	}
	return nil
}

// maxPasswd bounds the container's own passwd and group files, in bytes.
const maxPasswd = 4 << 20

// ownerOf finds user[:group] by the container's own files.
func ownerOf(root kernelfs.Root, user string) (uid, gid int, err error) {
	name, group, hasGroup := strings.Cut(user, ":")
	field := func(file, key string, want int) (string, bool) {
		data, err := root.ReadFile(file, maxPasswd)
		if err != nil {
			return "", false
		}
		for line := range strings.Lines(string(data)) {
			f := strings.Split(strings.TrimSpace(line), ":")
			if len(f) > want && (f[0] == key || len(f) > 2 && f[2] == key) {
				return f[want], true
			}
		}
		return "", false
	}
	number := func(file, key string, want int, what string) (int, error) {
		if v, ok := field(file, key, want); ok {
			if n, err := strconv.ParseUint(v, 10, 31); err == nil {
				return int(n), nil
			}
		}
		n, err := strconv.ParseUint(key, 10, 31)
		if err != nil {
			return 0, errs.Invalid.Errorf("unable to find %s %s: no matching entries in %s file", what, key, path.Base(file))
		}
		return int(n), nil
	}
	if uid, err = number("/etc/passwd", name, 2, "user"); err != nil {
		return 0, 0, err
	}
	if hasGroup {
		gid, err = number("/etc/group", group, 2, "group")
		return uid, gid, err
	}
	if v, ok := field("/etc/passwd", name, 3); ok {
		n, _ := strconv.ParseUint(v, 10, 31)
		gid = int(n)
	}
	return uid, gid, nil
}

// Export writes the container's file system, without what is mounted in it, as a tar stream.
func (s *Service) Export(ctx context.Context, ref string, w func() io.Writer) error {
	c, err := s.find(ref)
	if err != nil {
		return err
	}
	err = c.withFiles(ctx, true, func(root kernelfs.Root) error { return layer.PackRoot(ctx, w(), root) })
	if err == nil {
		s.event(c.snap.Load(), "export")
	}
	return err
}

// Changes lists what the container has changed of its image.
func (s *Service) Changes(ref string) ([]layer.Change, error) {
	c, err := s.find(ref)
	if err != nil {
		return nil, err
	}
	return s.Layers.Changes(c.get().Image.ChainID, c.id)
}

// Volumes names the places of the container whose content a commit leaves out: volumes and binds.
func (x *Snapshot) Volumes() []string {
	var all []string
	for _, m := range x.Mounts {
		if m.Type != mount.TypeTmpfs {
			all = append(all, m.Destination)
		}
	}
	slices.Sort(all)
	return all
}

// Committed tells that an image was made of the container.
func (s *Service) Committed(x *Snapshot, comment, id, ref string) {
	s.event(x, "commit", "comment", comment, "imageID", id, "imageRef", ref)
}
