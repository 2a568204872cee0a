package api

import (
	"strings"

	"gantry/internal/errs"
)

// Prunable is a thing that a prune would take.
type Prunable struct {
	Kind, ID, Name string
	Size           int64 // bytes; 0: not known, or none
}

// prunable is GET /gantry/prunable/{name}: what a prune of containers, images ("all-images": with those that have names),
// networks or volumes would take. It is no option of the prune itself: an engine that did not know it would prune.
func (s *Server) prunable(c *call) error {
	f, err := c.filters()
	if err != nil {
		return err
	}
	out := []Prunable{}
	switch c.name {
	case "containers":
		list, err := s.deps.Containers.Prunable(f)
		if err != nil {
			return err
		}
		for _, x := range list {
			size, _, _ := s.deps.Containers.Sizes(c.r.Context(), x.ID)
			out = append(out, Prunable{"container", x.ID, x.Name, size})
		}
	case "images", "all-images":
		if f == nil {
			f = map[string][]string{}
		}
		if c.name == "all-images" {
			f["dangling"] = []string{"false"}
		}
		list, err := s.deps.Images.Prunable(c.r.Context(), f)
		if err != nil {
			return err
		}
		for _, x := range list {
			name := "<none> " + x.ID.String()
			if len(x.RepoTags) > 0 {
				name = strings.Join(x.RepoTags, ", ")
			}
			out = append(out, Prunable{"image", x.ID.String(), name, x.Size})
		}
	case "networks":
		if s.deps.Networks == nil {
			break
		}
		match, err := s.networkFilter(c, "label", "label!", "until")
		if err != nil {
			return err
		}
		for _, x := range s.deps.Networks.List() {
			if x.Name != "bridge" && x.Name != "host" && x.Name != "none" && match(&x.Network) && !s.deps.Containers.UsesNetwork(x.Name, x.ID) {
				out = append(out, Prunable{Kind: "network", ID: x.ID, Name: x.Name})
			}
		}
	case "volumes":
		if s.deps.Volumes == nil {
			break
		}
		names, err := s.deps.Volumes.Prunable(c.r.Context(), f)
		if err != nil {
			return err
		}
		for _, name := range names {
			out = append(out, Prunable{Kind: "volume", ID: name, Name: name})
		}
	default:
		return errs.NotFound.Errorf("nothing is known of pruning %s", c.name)
	}
	return c.reply(200, out)
}
