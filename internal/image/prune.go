package image

import (
	"context"
	"slices"
	"strings"

	"gantry/internal/errs"
	"gantry/internal/trash"
)

// Prune removes images that no container uses: those without a name, or with the filter dangling=false all. Further
// filters are until, label and label!. It returns what went, and the bytes of the layers that nobody shares any more.
func (s *Service) Prune(ctx context.Context, filters map[string][]string) (deleted []Deleted, freed int64, err error) {
	list, err := s.Prunable(ctx, filters)
	if err != nil {
		return nil, 0, err
	}
	for _, i := range list {
		if err := ctx.Err(); err != nil {
			return deleted, freed, err
		}
		refs := append(slices.Clone(i.RepoTags), i.RepoDigests...)
		if len(refs) == 0 {
			refs = []string{i.ID.String()}
		}
		for _, ref := range refs {
			gone, n, err := s.removeCounted(ctx, ref, false)
			if err != nil { // used or untagged meanwhile: not unused any more
				continue
			}
			deleted = append(deleted, gone...)
			freed += n
		}
	}
	return deleted, freed, nil
}

// Prunable lists what Prune would remove.
func (s *Service) Prunable(ctx context.Context, filters map[string][]string) (list []Image, err error) {
	dangling := true
	keep := map[string][]string{}
	var without []string
	for k, v := range filters {
		switch k {
		case "dangling":
			if dangling, err = parseBool(v); err != nil {
				return nil, invalidFilter("dangling", v)
			}
		case "label!":
			without = v
		case "label", "until":
			keep[k] = v
		default:
			return nil, errs.Invalid.Errorf("invalid filter '%s'", k)
		}
	}
	match, err := s.filter(ctx, keep)
	if err != nil {
		return nil, err
	}
	for _, i := range sorted(s.view()) {
		if dangling && len(i.RepoTags)+len(i.RepoDigests) > 0 || !match(&i) || slices.ContainsFunc(without, func(l string) bool {
			k, v, valued := strings.Cut(l, "=")
			have, ok := i.Config.Config.Labels[k]
			return ok && (!valued || have == v)
		}) {
			continue
		}
		if running, stopped := s.usersOf(i.ID); len(running)+len(stopped) > 0 || s.trash.Protected(trash.Image, i.ID.String()) {
			continue
		}
		list = append(list, i)
	}
	return list, nil
}

// SharedSize returns how many bytes of each image's layers another image has too, by image ID; and the bytes of all layers,
// each counted once.
func (s *Service) SharedSize() (shared map[string]int64, total int64, err error) {
	images := s.view()
	users := map[string]int{}
	sizes := map[string]int64{}
	chains := map[string][]string{}
	for id, i := range images {
		list, err := s.layers.Chain(i.ChainID)
		if err != nil {
			continue // removed meanwhile
		}
		for _, l := range list {
			c := l.ChainID.String()
			users[c]++
			sizes[c] = l.Size
			chains[id.String()] = append(chains[id.String()], c)
		}
	}
	shared = map[string]int64{}
	for id, list := range chains {
		for _, c := range list {
			if users[c] > 1 {
				shared[id] += sizes[c]
			}
		}
	}
	for _, n := range sizes {
		total += n
	}
	return shared, total, nil
}
