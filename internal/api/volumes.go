package api

import (
	"io"
	"net/http"

	types "github.com/moby/moby/api/types/volume"

	"gantry/internal/errs"
	"gantry/internal/volume"
)

// volumeList is GET /volumes.
func (s *Server) volumeList(c *call) error {
	f, err := c.filters()
	if err != nil {
		return err
	}
	list, err := s.deps.Volumes.List(f)
	if err != nil {
		return err
	}
	return c.reply(200, types.ListResponse{Volumes: list})
}

func (s *Server) volumeInspect(c *call) error {
	x, err := s.deps.Volumes.Get(c.name)
	if err != nil {
		return err
	}
	return c.reply(200, x)
}

// volumeCreate is POST /volumes/create. The parameter protect is ours.
func (s *Server) volumeCreate(c *call) error {
	var r types.CreateRequest
	if err := c.decode(&r); err != nil {
		return err
	}
	if r.ClusterVolumeSpec != nil {
		return errs.Unavailable.Errorf(`This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.`)
	}
	x, err := s.deps.Volumes.Create(c.r.Context(), volume.Request{Name: r.Name, Driver: r.Driver, Labels: r.Labels, Options: r.DriverOpts, Protected: c.flag("protect")})
	if err != nil {
		return err
	}
	return c.reply(201, x)
}

func (s *Server) volumeRemove(c *call) error {
	if err := s.deps.Volumes.Remove(c.removal(), c.name, c.flag("force")); err != nil {
		return err
	}
	return c.ok(204)
}

// volumePrune is POST /volumes/prune. Before 1.42 it took volumes with a name, too.
func (s *Server) volumePrune(c *call) error {
	f, err := c.filters()
	if err != nil {
		return err
	}
	if c.version < v(42) {
		if f == nil {
			f = map[string][]string{}
		}
		f["all"] = []string{"true"}
	}
	names, freed, err := s.deps.Volumes.Prune(c.removal(), f)
	if err != nil {
		return err
	}
	s.deps.Events.Pruned("volume", pruned(freed))
	return c.reply(200, types.PruneReport{VolumesDeleted: orEmpty(names), SpaceReclaimed: pruned(freed)})
}

// volumeUpdate is PUT /volumes/{name}, which Docker has for swarm's volumes only.
func (s *Server) volumeUpdate(*call) error {
	return errs.Unavailable.Errorf("volume update only valid for cluster volumes, but swarm is unavailable")
}

func (s *Server) volumeProtect(c *call) error {
	if err := s.deps.Volumes.Protect(c.name, c.flag("on")); err != nil {
		return err
	}
	return c.ok(204)
}

func (s *Server) volumeClone(c *call) error {
	x, err := s.deps.Volumes.Clone(c.r.Context(), c.name, c.str("to"))
	if err != nil {
		return err
	}
	return c.reply(201, x)
}

// volumeExport is GET /volumes/{name}/export: a tar stream.
func (s *Server) volumeExport(c *call) error {
	begun := false
	err := s.deps.Volumes.Export(c.r.Context(), c.name, func() io.Writer {
		begun = true
		c.w.Header()["Content-Type"] = []string{"application/x-tar"}
		return c.w
	})
	if err != nil && begun {
		s.log.Warn("exporting a volume failed", "volume", c.name, "err", err)
		panic(http.ErrAbortHandler) // the client must not take half an archive for a whole one
	}
	return err
}

// volumeImport is POST /volumes/{name}/import: the body is a tar stream, plain or compressed.
func (s *Server) volumeImport(c *call) error {
	if err := s.deps.Volumes.Import(c.r.Context(), volume.Request{Name: c.name}, c.r.Body); err != nil {
		return err
	}
	return c.ok(200)
}

func (s *Server) snapshotList(c *call) error {
	list, err := s.deps.Volumes.Snapshots(c.name)
	if err != nil {
		return err
	}
	return c.reply(200, list)
}

func (s *Server) snapshotCreate(c *call) error {
	x, err := s.deps.Volumes.SnapshotCreate(c.r.Context(), c.name, c.str("name"))
	if err != nil {
		return err
	}
	return c.reply(201, x)
}

func (s *Server) snapshotRemove(c *call) error {
	if err := s.deps.Volumes.SnapshotRemove(c.r.Context(), c.name, c.str("name")); err != nil {
		return err
	}
	return c.ok(204)
}

func (s *Server) volumeRestore(c *call) error {
	if err := s.deps.Volumes.Restore(c.r.Context(), c.name, c.str("snapshot")); err != nil {
		return err
	}
	return c.ok(204)
}

// volumeUsage is the volumes' part of GET /system/df.
func (s *Server) volumeUsage(c *call, out *diskUsage, verbose bool) error {
	list, err := s.deps.Volumes.List(nil)
	if err != nil {
		return err
	}
	u := &types.DiskUsage{}
	kept := []types.Volume{}
	for _, x := range list {
		size, links, err := s.deps.Volumes.Size(c.r.Context(), x.Name)
		if errs.NotFound.Is(err) {
			continue // removed meanwhile
		}
		if err != nil {
			return err
		}
		x.UsageData = &types.UsageData{Size: size, RefCount: int64(links)}
		u.TotalCount++
		u.TotalSize += size
		if links > 0 {
			u.ActiveCount++
		} else {
			u.Reclaimable += size
		}
		kept = append(kept, x)
	}
	if verbose {
		u.Items = kept
	}
	out.VolumeUsage = u
	if out.legacyDiskUsage != nil {
		out.Volumes = kept
	}
	return nil
}
