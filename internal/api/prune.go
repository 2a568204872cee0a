package api

import (
	types "github.com/moby/moby/api/types/container"
	imagetypes "github.com/moby/moby/api/types/image"
)

// pruned counts in the API what a prune freed.
func pruned(n int64) uint64 { return uint64(max(n, 0)) }

// containerPrune is POST /containers/prune.
func (s *Server) containerPrune(c *call) error {
	f, err := c.filters()
	if err != nil {
		return err
	}
	ids, freed, err := s.deps.Containers.Prune(c.removal(), f)
	if err != nil {
		return err
	}
	s.deps.Events.Pruned("container", pruned(freed))
	return c.reply(200, types.PruneReport{ContainersDeleted: ids, SpaceReclaimed: pruned(freed)})
}

// imagePrune is POST /images/prune.
func (s *Server) imagePrune(c *call) error {
	f, err := c.filters()
	if err != nil {
		return err
	}
	gone, freed, err := s.deps.Images.Prune(c.removal(), f)
	if err != nil {
		return err
	}
	out := imagetypes.PruneReport{SpaceReclaimed: pruned(freed)}
	for _, g := range gone {
		out.ImagesDeleted = append(out.ImagesDeleted, imagetypes.DeleteResponse{Deleted: g.Deleted, Untagged: g.Untagged})
	}
	s.deps.Events.Pruned("image", pruned(freed))
	return c.reply(200, out)
}

func (s *Server) containerPause(c *call) error {
	if err := s.deps.Containers.Pause(c.r.Context(), c.name); err != nil {
		return err
	}
	return c.ok(204)
}

func (s *Server) containerUnpause(c *call) error {
	if err := s.deps.Containers.Unpause(c.r.Context(), c.name); err != nil {
		return err
	}
	return c.ok(204)
}

func (s *Server) containerRename(c *call) error {
	if err := s.deps.Containers.Rename(c.r.Context(), c.name, c.str("name")); err != nil {
		return err
	}
	return c.ok(204)
}
