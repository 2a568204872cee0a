package api

import (
	"context"
	"strings"
	"time"

	"gantry/internal/errs"
	"gantry/internal/trash"
)

// removal is the context of a request that removes things. Beside what Docker knows it may say "now", which spares the trash,
// and "operation": what was removed under the same one is undone together.
func (c *call) removal() context.Context {
	return trash.Choose(c.r.Context(), trash.Choice{Now: c.flag("now"), Operation: c.str("operation")})
}

// Removed is a thing in the trash, as GET /gantry/trash tells it.
type Removed struct {
	ID        string
	Kind      string // container, image, volume
	Key       string // the thing's own ID, or a volume's name
	Names     []string
	Operation string
	Removed   time.Time
	Until     time.Time
	Size      int64 // bytes that will be free without it, about
}

func (s *Server) trashList(c *call) error {
	out := []Removed{}
	for _, it := range s.deps.Trash.Items("") {
		out = append(out, Removed{it.ID, it.Kind, it.Key, orEmpty(it.Names), it.Operation, it.Removed, s.deps.Trash.Until(it), s.deps.Trash.Size(it)})
	}
	return c.reply(200, out)
}

// trashEmpty deletes what "ref" names for good, or everything.
func (s *Server) trashEmpty(c *call) error {
	if s.deps.Trash == nil {
		return errs.NotFound.Errorf("there is no trash")
	}
	n, bytes, err := s.deps.Trash.Empty(c.r.Context(), c.str("ref"))
	if err != nil {
		return err
	}
	return c.reply(200, struct {
		Things         int
		SpaceReclaimed int64
	}{n, bytes})
}

// undo brings back what "ref" names, or what the last removal took; "as" gives it another name.
func (s *Server) undo(c *call) error {
	if s.deps.Trash == nil {
		return errs.NotFound.Errorf("there is no trash")
	}
	back, err := s.deps.Trash.Undo(c.r.Context(), c.str("ref"), c.str("as"))
	if err != nil && len(back) == 0 {
		return err
	}
	out := struct {
		Restored []trash.Restored
		Failed   []string
	}{Restored: back, Failed: []string{}}
	if err != nil {
		out.Failed = strings.Split(err.Error(), "\n")
	}
	return c.reply(200, out)
}

// imageProtect keeps an image from removal; with on=0 it ends that.
func (s *Server) imageProtect(c *call) error {
	x, err := s.deps.Images.Get(c.r.Context(), c.name)
	if err != nil {
		return err
	}
	if err := s.deps.Trash.Protect(c.r.Context(), trash.Image, x.ID.String(), c.str("on") == "" || c.flag("on")); err != nil {
		return err
	}
	return c.ok(204)
}
