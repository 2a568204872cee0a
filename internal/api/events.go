package api

import (
	"encoding/json"
	"strings"

	mobytypes "github.com/moby/moby/api/types"

	"gantry/internal/errs"
	"gantry/internal/events"
)

// events is GET /events: a stream of JSON values, the header first, at once.
func (s *Server) events(c *call) error {
	since, err := c.time("since")
	if err != nil {
		return err
	}
	until, err := c.time("until")
	if err != nil {
		return err
	}
	if !until.IsZero() && since.After(until) {
		return errs.Invalid.Errorf("`since` time (%s) cannot be after `until` time (%s)", c.str("since"), c.str("until"))
	}
	filters, err := c.filters()
	if err != nil {
		return err
	}
	sub := s.deps.Events.Subscribe(since, until, events.Filter(filters))
	defer sub.Close()

	kind := streamType(c)
	c.w.Header().Set("Content-Type", kind)
	c.w.WriteHeader(200)
	c.flush()
	e := json.NewEncoder(c.w)
	e.SetEscapeHTML(false)
	for {
		m, err := sub.Next(c.r.Context())
		if err != nil {
			// The status is out; a stream that was cut off just ends, and the client subscribes again
			// with since.
			return nil
		}
		x := event{Message: &m}
		shape(c.version, &x, eventShims)
		if x.Message == nil {
			continue
		}
		if kind == mobytypes.MediaTypeJSONSequence {
			_, _ = c.w.Write([]byte{0x1e}) // RFC 7464
		}
		if e.Encode(x) != nil {
			return nil
		}
		if sub.Waiting() {
			c.flush()
		}
	}
}

// streamType chooses what a stream of JSON values calls itself: one of three that the client accepts by name
// (wildcards do not count), else what its version expects.
func streamType(c *call) mobytypes.MediaType {
	for _, field := range c.r.Header["Accept"] {
		for kind := range strings.SplitSeq(field, ",") {
			kind, _, _ = strings.Cut(kind, ";")
			switch kind = strings.TrimSpace(kind); kind {
			case mobytypes.MediaTypeJSONLines, mobytypes.MediaTypeNDJSON, mobytypes.MediaTypeJSONSequence:
				return kind
			}
		}
	}
	if c.version < v(52) {
		return mobytypes.MediaTypeJSON
	}
	return mobytypes.MediaTypeJSONLines
}
