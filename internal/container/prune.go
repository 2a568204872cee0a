package container

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"gantry/internal/errs"
)

// Prune removes all containers that do not run, and returns their IDs and the bytes of their writable layers. Filters are
// until, label and label!.
func (s *Service) Prune(ctx context.Context, filters map[string][]string) (ids []string, freed int64, err error) {
	list, err := s.Prunable(filters)
	if err != nil {
		return nil, 0, err
	}
	for _, x := range list {
		if err := ctx.Err(); err != nil {
			return ids, freed, err
		}
		size, _ := s.Sizer.Size(x.ID)
		if err := s.Remove(ctx, x.ID, false, false, false); err != nil {
			if !errs.NotFound.Is(err) && !errs.Conflict.Is(err) { // started or removed meanwhile
				s.Log.Warn("pruning a container failed", "container", x.ID, "err", err)
			}
			continue
		}
		ids = append(ids, x.ID)
		freed += size
	}
	return ids, freed, nil
}

// Prunable lists what Prune would remove.
func (s *Service) Prunable(filters map[string][]string) (list []Snapshot, err error) {
	match, err := pruneFilter(filters)
	if err != nil {
		return nil, err
	}
	for _, x := range s.all() {
		if !x.Status.Alive() && x.Status != Removing && match(x.Created, x.Config.Labels) {
			list = append(list, x)
		}
	}
	return list, nil
}

// pruneFilter reads the filters that prunes share.
func pruneFilter(f map[string][]string) (func(created time.Time, labels map[string]string) bool, error) {
	var until time.Time
	for k, v := range f {
		switch k {
		case "label", "label!":
		case "until":
			if len(v) > 1 {
				return nil, errs.Invalid.Errorf("more than one until filter specified")
			}
			var err error
			if until, err = parseUntil(v[0]); err != nil {
				return nil, err
			}
		default:
			return nil, errs.Invalid.Errorf("invalid filter '%s'", k)
		}
	}
	has := func(labels map[string]string, want string) bool {
		k, v, valued := strings.Cut(want, "=")
		have, ok := labels[k]
		return ok && (!valued || have == v)
	}
	return func(created time.Time, labels map[string]string) bool {
		if !until.IsZero() && !created.Before(until) {
			return false
		}
		return !slices.ContainsFunc(f["label"], func(l string) bool { return !has(labels, l) }) &&
			!slices.ContainsFunc(f["label!"], func(l string) bool { return has(labels, l) })
	}, nil
}

func parseUntil(v string) (time.Time, error) {
	if d, err := time.ParseDuration(v); err == nil {
		return time.Now().Add(-d), nil
	}
	if sec, err := strconv.ParseFloat(v, 64); err == nil {
		return time.UnixMicro(int64(sec * 1e6)), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, v, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, errs.Invalid.Errorf("failed to parse value as time or duration: %q", v)
}
