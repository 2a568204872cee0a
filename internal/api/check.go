package api

import (
	"encoding/json"
	"sync"

	"gantry/internal/errs"
	"gantry/internal/image"
)

// disk is GET /gantry/disk: what takes how much of the data root, down to the last block.
func (s *Server) disk(c *call) error {
	if s.deps.Usage == nil {
		return errs.NotImplemented.Errorf("the disk is not measured here")
	}
	u, err := s.deps.Usage(c.r.Context())
	if err != nil {
		return err
	}
	return c.reply(200, u)
}

// checkLine is one line of what POST /gantry/check replies: a finding, or what was checked at the end, or why it ended early.
type checkLine struct {
	Finding *image.Finding `json:",omitempty"`
	Checked *image.Checked `json:",omitempty"`
	Error   string         `json:",omitempty"`
}

// check is POST /gantry/check: every blob and layer is read; with repair=1 what can be is mended.
func (s *Server) check(c *call) error {
	if s.deps.Check == nil {
		return errs.NotImplemented.Errorf("nothing is checked here")
	}
	var mu sync.Mutex
	c.w.Header()["Content-Type"] = typeJSON
	e := json.NewEncoder(c.w)
	send := func(l checkLine) {
		mu.Lock()
		defer mu.Unlock()
		_ = e.Encode(l)
		c.flush()
	}
	done, err := s.deps.Check(c.r.Context(), c.flag("repair"), func(f image.Finding) { send(checkLine{Finding: &f}) })
	if err != nil {
		send(checkLine{Error: s.advise(err).Error()})
		return nil
	}
	send(checkLine{Checked: &done})
	return nil
}
