package container

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/opencontainers/go-digest"

	"gantry/internal/errs"
	kernelfs "gantry/internal/kernel/fs"
	kernelmount "gantry/internal/kernel/mount"
	"gantry/internal/kernel/view"
	"gantry/internal/runtime"
	"gantry/internal/runtime/spec"
	"gantry/internal/trash"
)

// VolumeRequest asks for a volume, which is made if it is not there.
type VolumeRequest struct {
	Name, Driver    string
	Labels, Options map[string]string
	Anonymous       bool
}

// VolumeUse is one volume in a container.
type VolumeUse struct {
	Name, Destination string
	RW                bool
	Propagation       string
}

// VolumeSource says how a volume is mounted: a folder of the host that is bound, or a file system of its own.
type VolumeSource struct {
	Path         string
	Type, Device string // when Type is not empty: mounted anew in the container
	Options      []string
	Recursive    bool
	From         string // a container that has it mounted, from which it is bound
}

// Volumes keeps data that outlives containers. What a container holds is not removed.
type Volumes interface {
	// Hold makes the volumes that are not there and holds all of them for a container; behind: what this writes down may
	// follow the return. It may be told twice.
	Hold(ctx context.Context, container string, want []VolumeRequest, behind bool) error
	// Keep tells of a container of before.
	Keep(container string, names []string)
	// Fill copies the directory path in the root that open opens into a volume, if that is empty.
	Fill(ctx context.Context, container, name string, open func() (kernelfs.Root, error), path string, durable bool) error
	// Release ends the holding, and removes those of the volumes in remove that nobody else holds.
	// ctx says whether those go into the trash (package trash).
	Release(ctx context.Context, container string, remove []string)
}

// Mounter hears which volumes are in use by processes, and says how they are mounted.
type Mounter interface {
	Mount(ctx context.Context, container string, uses []VolumeUse) ([]VolumeSource, error)
	Mounted(container string, names []string) // of a container of before
	Unmount(container string)
	Sources(names []string) []VolumeSource // as Mount, but nothing is in use
}

// takeVolumes holds the volumes of a new container and puts the image's content into those that are empty.
func (s *Service) takeVolumes(ctx context.Context, now *Snapshot, want []VolumeRequest, behind bool) error {
	if len(want) == 0 {
		return nil
	}
	if err := s.Volumes.Hold(ctx, now.ID, want, behind); err != nil {
		return err
	}
	var root kernelfs.Root
	opened := false
	open := func() (kernelfs.Root, error) {
		if opened {
			return root, nil
		}
		o, err := s.Layers.Overlay(now.Image.ChainID, "")
		if err != nil {
			return root, err
		}
		root, err = view.Mount(view.Overlay{Base: o.Base, Lower: o.Lower, Target: filepath.Join(s.Root, now.ID, "rootfs")}, nil)
		opened = err == nil
		return root, err
	}
	defer func() {
		if opened {
			root.Close()
		}
	}()
	for _, m := range now.Mounts {
		o := now.MountOptions[m.Destination]
		if m.Type != mount.TypeVolume || o.NoCopy || o.Subpath != "" {
			continue
		}
		if err := s.Volumes.Fill(ctx, now.ID, m.Name, open, m.Destination, !behind); err != nil {
			return err
		}
	}
	return nil
}

// leaveVolumes undoes takeVolumes. The anonymous ones of a container that goes into the trash go along with it.
func (s *Service) leaveVolumes(id string, anonymous []string, with *trash.Item) {
	if s.Volumes == nil {
		return
	}
	choice := trash.Choice{Now: true}
	if with != nil {
		choice = trash.Choice{Operation: with.Operation, With: with.Key}
	}
	s.Volumes.Release(trash.Choose(context.Background(), choice), id, anonymous)
}

// keepVolumes tells of the containers in the records what they hold.
func (s *Service) keepVolumes(records map[string]*record) {
	if s.Volumes == nil {
		return
	}
	for id, r := range records {
		x := Snapshot{Mounts: r.Mounts, MountOptions: r.MountOptions}
		s.Volumes.Keep(id, x.volumeNames(false))
	}
}

// sources says how the container's mounts are made that are more than a folder of the host; its volumes are in use from now on. done lets
// go of what is held for it, when init has it.
func (s *Service) sources(ctx context.Context, snap *Snapshot) (out map[string]runtime.Source, done func(), err error) {
	out = map[string]runtime.Source{}
	var held []*view.Held
	done = func() {
		for _, h := range held {
			h.Close()
		}
		held = nil
	}
	var uses []VolumeUse
	for _, m := range snap.Mounts {
		o := snap.MountOptions[m.Destination]
		switch m.Type {
		case mount.TypeVolume:
			uses = append(uses, VolumeUse{m.Name, m.Destination, m.RW, string(m.Propagation)})
		case mount.TypeImage:
			layers, err := s.Layers.Overlay(o.Chain, "")
			if err != nil {
				return nil, done, errs.KindOf(err).Errorf("image %s, mounted at %s: %w", m.Source, m.Destination, err)
			}
			out[m.Destination] = runtime.Source{Overlay: &layers, Subpath: o.Subpath}
		}
	}
	if len(uses) == 0 {
		return out, done, nil
	}
	if s.Mounter == nil {
		return nil, done, errs.NotImplemented.Errorf("this engine has no volumes")
	}
	list, err := s.Mounter.Mount(ctx, snap.ID, uses)
	if err != nil {
		return nil, done, err
	}
	for i, v := range list {
		src := runtime.Source{Path: v.Path, Options: v.Options, NonRecursive: !v.Recursive, Subpath: snap.MountOptions[uses[i].Destination].Subpath}
		if v.From != "" {
			if place := s.placeOf(v.From, uses[i].Name); place != "" {
				if p, err := s.processOf(v.From); err == nil {
					src = runtime.Source{Path: place, Of: &p, Subpath: src.Subpath}
				}
			}
		}
		if v.Type != "" && src.Of == nil {
			h, err := s.holdVolume(ctx, &v, s.volumePlace(uses[i].Name))
			if err != nil {
				return nil, done, err
			}
			held = append(held, h)
			src = runtime.Source{Path: h.Path, Of: &spec.Process{Pid: h.Pid, StartTime: h.StartTime}, NonRecursive: true, Subpath: src.Subpath}
		}
		out[uses[i].Destination] = src
	}
	return out, done, nil
}

// volumePlace is the folder of a volume, by which Docker's errors name it.
func (s *Service) volumePlace(name string) string { return filepath.Join(s.VolumeRoot, name, "_data") }

// patience is how long a file server may take to answer a mount.
const patience = 2 * time.Minute

// holdVolume mounts the file system that a volume's options ask for where init finds it. Init could not: the container's control group
// denies devices, and its network may not reach the server. What the kernel refuses is told in Docker's words; a password among the
// options (CIFS) is not repeated.
func (s *Service) holdVolume(ctx context.Context, v *VolumeSource, place string) (*view.Held, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	o := kernelmount.Parse(v.Options)
	h, err := view.Hold(ctx, v.Type, v.Device, o, s.Root)
	if err == nil {
		return h, nil
	}
	text := "mount " + v.Device + ":" + place
	if flags := o.Flags(); flags != 0 {
		text += fmt.Sprintf(", flags: 0x%x", flags)
	}
	if len(o.Data) > 0 {
		for i, d := range o.Data {
			if strings.HasPrefix(d, "password=") {
				o.Data[i] = "password=********"
			}
		}
		text += ", data: " + strings.Join(o.Data, ",")
	}
	if refused := (*kernelmount.OptionError)(nil); errors.As(err, &refused) {
		err = refused.Err // its text has the option, and Docker's has not
	}
	return nil, errs.Internal.Errorf("error while mounting volume '%s': failed to mount local volume: %s: %w", place, text, err)
}

// placeOf is where a container has the volume, whole.
func (s *Service) placeOf(id, volume string) string {
	c, err := s.find(id)
	if err != nil {
		return ""
	}
	x := c.get()
	i := slices.IndexFunc(x.Mounts, func(m api.MountPoint) bool {
		return m.Type == mount.TypeVolume && m.Name == volume && x.MountOptions[m.Destination].Subpath == ""
	})
	if i < 0 {
		return ""
	}
	return x.Mounts[i].Destination
}

// unmounted tells that the processes of the container are gone.
func (s *Service) unmounted(id string) {
	if s.Mounter != nil {
		s.Mounter.Unmount(id)
	}
}

// mountsImage reports whether the container has the image mounted.
func (x *Snapshot) mountsImage(id digest.Digest) bool {
	for o := range maps.Values(x.MountOptions) {
		if o.Image == id {
			return true
		}
	}
	return false
}
