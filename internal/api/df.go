package api

import (
	"slices"
	"time"

	"github.com/moby/moby/api/types/build"
	types "github.com/moby/moby/api/types/container"
	imagetypes "github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"

	"gantry/internal/container"
	"gantry/internal/errs"
	"gantry/internal/image"
)

// containerTop is GET /containers/{id}/top.
func (s *Server) containerTop(c *call) error {
	titles, processes, err := s.deps.Containers.Top(c.r.Context(), c.name, c.str("ps_args"))
	if err != nil {
		return err
	}
	return c.reply(200, types.TopResponse{Titles: titles, Processes: processes})
}

// diskUsage is the reply of GET /system/df: what API 1.53 has, and what it was before; 1.52 has both.
type diskUsage struct {
	system.DiskUsage
	*legacyDiskUsage
}

type legacyDiskUsage struct {
	LayersSize int64
	Images     []imageSummary
	Containers []types.Summary
	Volumes    []volume.Volume
	BuildCache []build.CacheRecord
}

// systemDf is GET /system/df.
func (s *Server) systemDf(c *call) error {
	want := c.query["type"]
	if c.version < v(42) {
		want = nil
	}
	for _, w := range want {
		switch system.DiskUsageObject(w) {
		case system.ContainerObject, system.ImageObject, system.VolumeObject, system.BuildCacheObject:
		default:
			return errs.Invalid.Errorf("unknown object type: %s", w)
		}
	}
	asked := func(o system.DiskUsageObject) bool { return len(want) == 0 || slices.Contains(want, string(o)) }
	verbose := c.version >= v(52) && c.flag("verbose")
	var out diskUsage
	if c.version < v(53) && !verbose {
		out.legacyDiskUsage = &legacyDiskUsage{}
	}
	if asked(system.ImageObject) {
		if err := s.imageUsage(c, &out, verbose); err != nil {
			return err
		}
	}
	if asked(system.ContainerObject) {
		if err := s.containerUsage(c, &out, verbose); err != nil {
			return err
		}
	}
	if asked(system.VolumeObject) {
		if err := s.volumeUsage(c, &out, verbose); err != nil {
			return err
		}
	}
	if asked(system.BuildCacheObject) {
		s.buildUsage(c, &out, verbose)
	}
	if c.version < v(52) {
		out.DiskUsage = system.DiskUsage{}
	}
	return c.reply(200, out)
}

// imageUsage counts shared layers once. What an image that is used does not share is not reclaimable.
func (s *Server) imageUsage(c *call, out *diskUsage, verbose bool) error {
	list, err := s.deps.Images.List(c.r.Context(), image.ListOptions{All: true})
	if err != nil {
		return err
	}
	users, err := s.users()
	if err != nil {
		return err
	}
	shared, total, err := s.deps.Images.SharedSize()
	if err != nil {
		return err
	}
	u := &imagetypes.DiskUsage{TotalCount: int64(len(list)), TotalSize: total, Reclaimable: total}
	legacy := []imageSummary{}
	for i := range list {
		x := &list[i]
		id := x.ID.String()
		sum := imageSummary{Summary: imagetypes.Summary{
			Containers: int64(len(users[id])), ID: id, Labels: x.Config.Config.Labels, RepoDigests: orEmpty(x.RepoDigests), RepoTags: orEmpty(x.RepoTags),
			SharedSize: shared[id], Size: x.Size,
		}}
		if x.Config.Created != nil {
			sum.Created = x.Config.Created.Unix()
		}
		if sum.Labels == nil {
			sum.Labels = map[string]string{}
		}
		if sum.Containers > 0 {
			u.ActiveCount++
			u.Reclaimable -= x.Size - shared[id]
		}
		if verbose {
			u.Items = append(u.Items, sum.Summary)
		}
		shape(c.version, &sum, imageSummaryShims)
		sum.Containers = int64(len(users[id])) // here it is told to every version
		legacy = append(legacy, sum)
	}
	out.ImageUsage = u
	if out.legacyDiskUsage != nil {
		out.LayersSize, out.Images = total, legacy
	}
	return nil
}

// buildUsage tells of the build cache. What an image shares is not reclaimed by a prune of the cache.
func (s *Server) buildUsage(c *call, out *diskUsage, verbose bool) {
	u := &build.DiskUsage{}
	legacy := []build.CacheRecord{}
	if s.deps.Builds != nil {
		for _, x := range s.deps.Builds.Usage(c.r.Context()) {
			r := build.CacheRecord{ID: x.ID, Parents: x.Parents, Type: x.Kind, Description: x.Description, InUse: x.InUse, Shared: x.Shared,
				Size: x.Size, CreatedAt: x.Created, LastUsedAt: &x.Used, UsageCount: x.Count}
			u.TotalCount++
			u.TotalSize += x.Size
			switch {
			case x.InUse:
				u.ActiveCount++
			case !x.Shared:
				u.Reclaimable += x.Size
			}
			if verbose {
				u.Items = append(u.Items, r)
			}
			legacy = append(legacy, r)
		}
	}
	out.BuildCacheUsage = u
	if out.legacyDiskUsage != nil {
		out.BuildCache = legacy
	}
}

func (s *Server) containerUsage(c *call, out *diskUsage, verbose bool) error {
	list, err := s.deps.Containers.List(container.ListOptions{All: true})
	if err != nil {
		return err
	}
	now := time.Now()
	names := imageNames{s: s}
	u := &types.DiskUsage{}
	legacy := []types.Summary{}
	for i := range list {
		sum := summarize(&list[i], now)
		sum.Image = names.of(&list[i])
		if sum.SizeRw, sum.SizeRootFs, err = s.deps.Containers.Sizes(c.r.Context(), list[i].ID); errs.NotFound.Is(err) {
			continue // removed meanwhile
		} else if err != nil {
			return err
		}
		u.TotalCount++
		u.TotalSize += sum.SizeRw
		if list[i].Status.Alive() {
			u.ActiveCount++
		} else {
			u.Reclaimable += sum.SizeRw
		}
		if verbose {
			u.Items = append(u.Items, sum)
		}
		shape(c.version, &sum, containerSummaryShims)
		legacy = append(legacy, sum)
	}
	out.ContainerUsage = u
	if out.legacyDiskUsage != nil {
		out.Containers = legacy
	}
	return nil
}
