package container

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"gantry/internal/errs"
)

// Volumes come with an issue of their own. Until then an anonymous one (an image's VOLUME, or `-v /path`) is
// part of the container's writable layer: it has the image's content from the start, and goes with the container.

// errVolumes says what is not there yet.
func errVolumes(what string) error {
	return errs.NotImplemented.Errorf("%s: named volumes are not supported yet; bind a host directory instead (-v /host/dir:/dir)", what)
}

// parseBind reads one value of `-v`: host:container[:options]. A path alone is an anonymous volume, which the
// CLI sends as Config.Volumes.
func parseBind(spec string) (api.MountPoint, error) {
	var m api.MountPoint
	parts := strings.Split(spec, ":")
	switch {
	case len(parts) < 2 || len(parts) > 3 || parts[0] == "":
		return m, errs.Invalid.Errorf("invalid volume specification: '%s'", spec)
	case len(parts) == 3:
		m.Mode = parts[2]
	}
	if !path.IsAbs(parts[1]) {
		return m, errs.Invalid.Errorf("invalid volume specification: '%s': invalid mount config for type \"bind\": invalid mount path: '%s' mount path must be absolute", spec, parts[1])
	}
	m.Type, m.Source, m.Destination, m.RW, m.Propagation = mount.TypeBind, filepath.Clean(parts[0]), path.Clean(parts[1]), true, mount.PropagationRPrivate
	if !path.IsAbs(parts[0]) {
		return m, errVolumes(parts[0])
	}
	if m.Destination == "/" {
		return m, errs.Invalid.Errorf("invalid volume specification: '%s': invalid mount config for type \"bind\": invalid specification: destination can't be '/'", spec)
	}
	if m.Mode == "" {
		return m, nil
	}
	seen := map[string]bool{}
	for o := range strings.SplitSeq(m.Mode, ",") {
		kind := ""
		switch o {
		case "ro", "rw":
			kind, m.RW = "rw", o == "rw"
		case "z", "Z":
			kind = "label"
		case "nocopy":
			kind = "copy"
		case "consistent", "cached", "delegated":
			kind = "consistency"
		case "private", "rprivate", "shared", "rshared", "slave", "rslave":
			kind, m.Propagation = "propagation", mount.Propagation(o)
		}
		if kind == "" || seen[kind] {
			return m, errs.Invalid.Errorf("invalid volume specification: '%s': invalid mode: %s", spec, m.Mode)
		}
		seen[kind] = true
	}
	return m, nil
}

// mountPoints lists what is bound into the container, in the order in which it is mounted: a path comes
// before what lies below it.
func mountPoints(h *api.HostConfig) ([]api.MountPoint, error) {
	var all []api.MountPoint
	for _, b := range h.Binds {
		m, err := parseBind(b)
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	for _, w := range h.Mounts {
		bad := func(format string, args ...any) ([]api.MountPoint, error) {
			return nil, errs.Invalid.Errorf("invalid mount config for type %q: "+format, append([]any{w.Type}, args...)...)
		}
		if !path.IsAbs(w.Target) {
			if w.Target == "" {
				return bad("field Target must not be empty")
			}
			return bad("invalid mount path: '%s' mount path must be absolute", w.Target)
		}
		target := path.Clean(w.Target)
		if target == "/" {
			return bad("invalid specification: destination can't be '/'")
		}
		switch w.Type {
		case mount.TypeBind:
			switch {
			case w.Source == "":
				return bad("field Source must not be empty")
			case !path.IsAbs(w.Source):
				return bad("invalid mount path: '%s' mount path must be absolute", w.Source)
			}
			m := api.MountPoint{Type: mount.TypeBind, Source: filepath.Clean(w.Source), Destination: target, RW: !w.ReadOnly, Propagation: mount.PropagationRPrivate}
			if o := w.BindOptions; o != nil {
				if o.Propagation != "" {
					m.Propagation = o.Propagation
				}
				if o.CreateMountpoint {
					all = append(all, m)
					continue
				}
			}
			if _, err := os.Stat(m.Source); err != nil {
				return bad("bind source path does not exist: %s", w.Source)
			}
			all = append(all, m)
		case mount.TypeTmpfs:
			if w.Source != "" {
				return bad("field Source must not be specified")
			}
			all = append(all, api.MountPoint{Type: mount.TypeTmpfs, Destination: target, RW: !w.ReadOnly})
		case mount.TypeVolume:
			return nil, errVolumes("--mount type=volume")
		case mount.TypeImage, mount.TypeNamedPipe, mount.TypeCluster:
			return nil, errs.NotImplemented.Errorf("mount type %q is not supported", w.Type)
		default:
			return bad("mount type unknown")
		}
	}
	slices.SortStableFunc(all, func(a, b api.MountPoint) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
	seen := map[string]bool{}
	for t := range h.Tmpfs {
		if !path.IsAbs(t) {
			return nil, errs.Invalid.Errorf("invalid mount path: '%s' mount path must be absolute", t)
		}
		seen[path.Clean(t)] = true
	}
	for _, m := range all {
		if seen[m.Destination] {
			return nil, errs.Invalid.Errorf("Duplicate mount point: %s", m.Destination)
		}
		seen[m.Destination] = true
	}
	return all, nil
}

// makeSources creates the host directories that `-v` names and that do not exist, as Docker does; `--mount`
// refuses them.
func makeSources(mounts []api.MountPoint) error {
	for _, m := range mounts {
		if m.Type != mount.TypeBind {
			continue
		}
		if _, err := os.Stat(m.Source); os.IsNotExist(err) {
			if err := os.MkdirAll(m.Source, 0o755); err != nil {
				return errs.Internal.Errorf("error while creating mount source path '%s': %w", m.Source, err)
			}
		}
	}
	return nil
}
