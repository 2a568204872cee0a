package image

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"

	"gantry/internal/errs"
)

// filterNames are the filters of GET /images/json.
var filterNames = []string{"dangling", "label", "before", "since", "reference", "until"}

// List returns the images that match, newest first.
func (s *Service) List(ctx context.Context, o ListOptions) ([]Image, error) {
	match, err := s.filter(ctx, o.Filters)
	if err != nil {
		return nil, err
	}
	var list []Image
	for _, i := range sorted(s.view()) {
		if match(&i) {
			list = append(list, i)
		}
	}
	return list, nil
}

func invalidFilter(name string, values []string) error {
	return errs.Invalid.Errorf("invalid filter '%s=[%s]'", name, strings.Join(values, " "))
}

// filter makes one predicate of the filters: values of one name are alternatives (label excepted: all must match), names
// add up. It cuts the references of an image to those that match.
func (s *Service) filter(ctx context.Context, f map[string][]string) (func(*Image) bool, error) {
	for name := range f {
		if !slices.Contains(filterNames, name) {
			return nil, errs.Invalid.Errorf("invalid filter '%s'", name)
		}
	}
	var tests []func(*Image) bool
	if v := f["dangling"]; len(v) > 0 {
		want, err := parseBool(v)
		if err != nil {
			return nil, invalidFilter("dangling", v)
		}
		tests = append(tests, func(i *Image) bool { return (len(i.RepoTags)+len(i.RepoDigests) == 0) == want })
	}
	for _, name := range []string{"before", "since"} {
		for _, ref := range f[name] {
			other, err := s.Get(ctx, ref)
			if err != nil {
				return nil, err
			}
			tests = append(tests, func(i *Image) bool {
				if name == "before" {
					return i.Created().Before(other.Created())
				}
				return i.Created().After(other.Created())
			})
		}
	}
	for _, v := range f["until"] {
		t, err := parseTime(v, time.Now())
		if err != nil {
			return nil, invalidFilter("until", []string{v})
		}
		tests = append(tests, func(i *Image) bool { return i.Created().Before(t) })
	}
	if labels := f["label"]; len(labels) > 0 {
		tests = append(tests, func(i *Image) bool {
			for _, l := range labels {
				k, v, hasValue := strings.Cut(l, "=")
				if have, ok := i.Config.Config.Labels[k]; !ok || hasValue && have != v {
					return false
				}
			}
			return true
		})
	}
	if patterns := f["reference"]; len(patterns) > 0 {
		for _, p := range patterns {
			if _, err := reference.FamiliarMatch(p, anyName); err != nil {
				return nil, errs.Invalid.Errorf("invalid filter 'reference=[%s]': %w", p, err)
			}
		}
		tests = append(tests, func(i *Image) bool {
			i.RepoTags = matching(patterns, i.RepoTags)
			i.RepoDigests = matching(patterns, i.RepoDigests)
			return len(i.RepoTags)+len(i.RepoDigests) > 0
		})
	}
	return func(i *Image) bool {
		for _, t := range tests {
			if !t(i) {
				return false
			}
		}
		return true
	}, nil
}

var anyName, _ = reference.ParseNormalizedNamed("a")

func matching(patterns, names []string) []string {
	var kept []string
	for _, name := range names {
		named, err := reference.ParseNormalizedNamed(name)
		if err == nil && slices.ContainsFunc(patterns, func(p string) bool {
			ok, _ := reference.FamiliarMatch(p, named)
			return ok
		}) {
			kept = append(kept, name)
		}
	}
	return kept
}

// parseBool takes what Docker's clients send: "true", "1", "false", "0"; several values must agree.
func parseBool(values []string) (bool, error) {
	first := false
	for n, v := range values {
		var b bool
		switch v {
		case "1", "true":
			b = true
		case "0", "false":
		default:
			return false, errs.Invalid.Errorf("not a boolean: %q", v)
		}
		if n > 0 && b != first {
			return false, errs.Invalid.Errorf("both true and false")
		}
		first = b
	}
	return first, nil
}

// parseTime takes a Unix time, RFC 3339 or a duration before now.
func parseTime(v string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(v); err == nil {
		return now.Add(-d), nil
	}
	if sec, err := strconv.ParseFloat(v, 64); err == nil {
		return time.UnixMicro(int64(sec * 1e6)), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, v, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, errs.Invalid.Errorf("not a time: %q", v)
}
