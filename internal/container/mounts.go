package container

import (
	"context"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/opencontainers/go-digest"

	"gantry/internal/errs"
	"gantry/internal/ids"
)

// MountOptions are what a mount point does not say on the wire.
type MountOptions struct {
	Anonymous  bool          `json:"anonymous,omitempty"`   // a volume that goes with the container
	NoCopy     bool          `json:"no_copy,omitempty"`     // the image's content does not come into the volume
	MakeSource bool          `json:"make_source,omitempty"` // -v: a missing folder of the host is made
	Subpath    string        `json:"subpath,omitempty"`     // what of the volume or the image is mounted
	Map        string        `json:"map,omitempty"`         // "map" or "map=uid[:gid]"
	Image      digest.Digest `json:"image,omitempty"`       // of a mount of type image
	Chain      digest.Digest `json:"chain,omitempty"`
}

// mountPlan is what a container shall have mounted.
type mountPlan struct {
	points  []api.MountPoint
	options map[string]MountOptions // by destination
	volumes []VolumeRequest         // to hold
}

func (p *mountPlan) find(destination string) int {
	return slices.IndexFunc(p.points, func(m api.MountPoint) bool { return m.Destination == destination })
}

// put adds a mount point, in the place of one at the same destination.
func (p *mountPlan) put(m api.MountPoint, o MountOptions) {
	if i := p.find(m.Destination); i >= 0 {
		p.points = slices.Delete(p.points, i, i+1)
	}
	p.points = append(p.points, m)
	p.options[m.Destination] = o
}

// mountPlan lists what is mounted into the container, in the order in which it is mounted: a path comes before what lies
// below it. As in Docker, what a container of --volumes-from has gives way to -v and --mount, and they come before the volumes of
// the image.
func (s *Service) mountPlan(ctx context.Context, h *api.HostConfig, c *api.Config) (*mountPlan, error) {
	p := &mountPlan{options: map[string]MountOptions{}}
	for _, v := range h.VolumesFrom {
		if err := s.inherit(p, v); err != nil {
			return nil, err
		}
	}
	own := map[string]bool{} // said by the user: each once
	for t := range h.Tmpfs {
		if !path.IsAbs(t) {
			return nil, errs.Invalid.Errorf("invalid mount path: '%s' mount path must be absolute", t)
		}
		own[path.Clean(t)] = true
	}
	add := func(m api.MountPoint, o MountOptions, r VolumeRequest) error {
		if own[m.Destination] {
			return errs.Invalid.Errorf("Duplicate mount point: %s", m.Destination)
		}
		own[m.Destination] = true
		if m.Type == mount.TypeVolume {
			if o.Anonymous = m.Name == ""; o.Anonymous {
				m.Name = ids.New()
			}
			r.Name, r.Anonymous = m.Name, o.Anonymous
			if r.Driver == "" {
				r.Driver = h.VolumeDriver
			}
			p.volumes = append(p.volumes, r)
		}
		p.put(m, o)
		return nil
	}
	for _, b := range h.Binds {
		m, o, err := parseBind(b)
		if err == nil {
			if m.Type == mount.TypeVolume && m.Mode == "" {
				m.Mode = "z" // Docker's way to say that a label would be shared
			}
			err = add(m, o, VolumeRequest{})
		}
		if err != nil {
			return nil, err
		}
	}
	for i := range h.Mounts {
		m, o, r, err := s.parseMount(ctx, &h.Mounts[i])
		if err == nil {
			err = add(m, o, r)
		}
		if err != nil {
			return nil, err
		}
	}
	for _, d := range slices.Sorted(maps.Keys(c.Volumes)) {
		d = path.Clean("/" + d)
		if p.find(d) >= 0 || own[d] || d == "/" {
			continue
		}
		if err := add(api.MountPoint{Type: mount.TypeVolume, Destination: d, RW: true}, MountOptions{}, VolumeRequest{}); err != nil {
			return nil, err
		}
	}
	for i := range p.points {
		if m := &p.points[i]; m.Type == mount.TypeVolume {
			m.Driver, m.Source = "local", s.volumePlace(m.Name)
		}
	}
	slices.SortStableFunc(p.points, func(a, b api.MountPoint) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
	if len(p.volumes) > 0 && s.Volumes == nil {
		return nil, errs.NotImplemented.Errorf("this engine has no volumes")
	}
	return p, nil
}

// inherit takes over what another container has mounted: --volumes-from.
func (s *Service) inherit(p *mountPlan, spec string) error {
	if spec == "" {
		return errs.Invalid.Errorf("volumes-from specification cannot be an empty string")
	}
	ref, mode, _ := strings.Cut(spec, ":")
	ro := false
	for w := range strings.SplitSeq(mode, ",") {
		switch kind := modeWord(w); {
		case kind == "rw":
			ro = w == "ro"
		case kind == "label", mode == "":
		default:
			// Neither propagation nor copying can be had from another container.
			return errs.Invalid.Errorf("invalid mode: %s", mode)
		}
	}
	c, err := s.find(ref)
	if err != nil {
		return errs.Invalid.Wrap(err) // not a 404: clients take that for a missing image, and pull
	}
	from := c.get()
	for _, m := range from.Mounts {
		if m.Type == mount.TypeTmpfs {
			continue
		}
		o := from.MountOptions[m.Destination]
		o.NoCopy = true
		m.RW = m.RW && !ro
		m.Mode = ""
		p.put(m, o)
		if m.Type == mount.TypeVolume {
			p.volumes = append(p.volumes, VolumeRequest{Name: m.Name})
		}
	}
	return nil
}

// parseMount checks one --mount by Docker's rules.
func (s *Service) parseMount(ctx context.Context, w *mount.Mount) (m api.MountPoint, o MountOptions, r VolumeRequest, err error) {
	bad := func(format string, args ...any) (api.MountPoint, MountOptions, VolumeRequest, error) {
		return m, o, r, errs.Invalid.Errorf("invalid mount config for type %q: "+format, append([]any{w.Type}, args...)...)
	}
	m = api.MountPoint{Type: w.Type, Destination: path.Clean(w.Target), RW: !w.ReadOnly}
	switch {
	case w.Target == "":
		return bad("field Target must not be empty")
	case m.Destination == "/":
		return bad("invalid specification: destination can't be '/'")
	case !path.IsAbs(w.Target):
		return bad("invalid mount path: '%s' mount path must be absolute", w.Target)
	}
	switch w.Type {
	case mount.TypeBind:
		switch {
		case w.Source == "":
			return bad("field Source must not be empty")
		case w.VolumeOptions != nil:
			return bad("field VolumeOptions must not be specified")
		case !path.IsAbs(w.Source):
			return bad("invalid mount path: '%s' mount path must be absolute", w.Source)
		}
		m.Source, m.Propagation = filepath.Clean(w.Source), mount.PropagationRPrivate
		if b := w.BindOptions; b != nil {
			if b.Propagation != "" {
				if !slices.Contains(mount.Propagations, b.Propagation) {
					return bad("invalid propagation mode: %s", b.Propagation)
				}
				m.Propagation = b.Propagation
			}
			o.MakeSource = b.CreateMountpoint
		}
		if _, err := os.Stat(m.Source); err != nil && !o.MakeSource {
			return bad("bind source path does not exist: %s", w.Source)
		}
	case mount.TypeVolume:
		if w.BindOptions != nil {
			return bad("field BindOptions must not be specified")
		}
		if w.Source == "" && w.ReadOnly {
			return bad("must not set ReadOnly mode when using anonymous volumes")
		}
		m.Name, m.Mode = w.Source, "z"
		if v := w.VolumeOptions; v != nil {
			o.NoCopy, o.Subpath, r.Labels = v.NoCopy, v.Subpath, v.Labels
			if v.DriverConfig != nil {
				r.Driver, r.Options = v.DriverConfig.Name, v.DriverConfig.Options
			}
			if o.Subpath != "" {
				if w.Source == "" {
					return bad("must not set Subpath when using anonymous volumes")
				}
				if !filepath.IsLocal(o.Subpath) {
					return bad("subpath must be a relative path within the volume")
				}
			}
		}
	case mount.TypeTmpfs:
		if w.Source != "" {
			return bad("field Source must not be specified")
		}
	case mount.TypeImage:
		if w.Source == "" {
			return bad("field Source must not be empty")
		}
		img, err := s.Images.Image(ctx, w.Source)
		if err != nil {
			return m, o, r, err
		}
		m.Source, m.RW, o.Image, o.Chain = w.Source, false, img.ID, img.ChainID
		if w.ImageOptions != nil {
			o.Subpath = w.ImageOptions.Subpath
		}
		if o.Subpath != "" && !filepath.IsLocal(o.Subpath) {
			return bad("subpath must be a relative path within the image")
		}
	case mount.TypeNamedPipe, mount.TypeCluster:
		return m, o, r, errs.NotImplemented.Errorf("mount type %q is not supported", w.Type)
	default:
		return bad("mount type unknown")
	}
	return m, o, r, nil
}

// volumeNames are the volumes that the container holds; anonymous: only those that go with it.
func (x *Snapshot) volumeNames(anonymous bool) (names []string) {
	for _, m := range x.Mounts {
		if m.Type == mount.TypeVolume && (!anonymous || x.MountOptions[m.Destination].Anonymous) && !slices.Contains(names, m.Name) {
			names = append(names, m.Name)
		}
	}
	return names
}
