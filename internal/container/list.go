package container

import (
	"context"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/network"
	"github.com/opencontainers/go-digest"

	"gantry/internal/errs"
)

// listFilters are the filters that Docker knows for containers.
var listFilters = []string{"ancestor", "before", "exited", "id", "isolation", "label", "name", "status", "health", "since",
	"volume", "network", "is-task", "publish", "expose"}

// List returns those that match, newest first.
func (s *Service) List(o ListOptions) ([]Snapshot, error) {
	all := s.all()
	m, err := s.matcher(&o, all)
	if err != nil {
		return nil, err
	}
	var list []Snapshot
	for i := range all {
		if o.Limit > 0 && len(list) == o.Limit {
			break
		}
		if m(i) {
			list = append(list, all[i])
		}
	}
	return list, nil
}

// matcher compiles the options into a predicate on the index of all, which is sorted newest first.
func (s *Service) matcher(o *ListOptions, all []Snapshot) (func(int) bool, error) {
	f := o.Filters
	for k := range f {
		if !slices.Contains(listFilters, k) {
			return nil, errs.Invalid.Errorf("Invalid filter '%s'", k)
		}
	}
	var tests []func(int) bool
	add := func(t func(c *Snapshot) bool) { tests = append(tests, func(i int) bool { return t(&all[i]) }) }

	if !o.All && o.Limit <= 0 && len(f["status"]) == 0 {
		add(func(c *Snapshot) bool { return c.Status.Alive() })
	}
	for _, v := range f["status"] {
		if _, ok := ParseStatus(v); !ok {
			return nil, errs.Invalid.Errorf("Invalid filter 'status=%s'", v)
		}
	}
	if v := f["status"]; len(v) > 0 {
		add(func(c *Snapshot) bool { return slices.Contains(v, c.Status.String()) })
	}
	for _, v := range f["health"] {
		switch v {
		case "none", "starting", "healthy", "unhealthy":
		default:
			return nil, errs.Invalid.Errorf("Invalid filter 'health=%s'", v)
		}
	}
	if v := f["health"]; len(v) > 0 {
		add(func(*Snapshot) bool { return slices.Contains(v, "none") }) // health checks come with their own issue
	}
	if v := f["exited"]; len(v) > 0 {
		var codes []int
		for _, x := range v {
			n, err := strconv.Atoi(x)
			if err != nil {
				return nil, errs.Invalid.Errorf("Invalid filter 'exited=%s'", x)
			}
			codes = append(codes, n)
		}
		add(func(c *Snapshot) bool {
			return !c.Status.Alive() && !c.StartedAt.IsZero() && slices.Contains(codes, c.ExitCode)
		})
	}
	if v := f["is-task"]; len(v) > 0 {
		want, err := boolFilter("is-task", v)
		if err != nil {
			return nil, err
		}
		add(func(*Snapshot) bool { return !want }) // tasks are Swarm's
	}
	if v := f["id"]; len(v) > 0 {
		match := patterns(v)
		add(func(c *Snapshot) bool { return match(c.ID) })
	}
	if v := f["name"]; len(v) > 0 {
		match := patterns(v)
		add(func(c *Snapshot) bool { return match(c.Name) || match("/"+c.Name) })
	}
	for _, v := range f["label"] {
		key, value, has := strings.Cut(v, "=")
		add(func(c *Snapshot) bool {
			got, ok := c.Config.Labels[key]
			return ok && (!has || got == value)
		})
	}
	if v := f["volume"]; len(v) > 0 {
		add(func(c *Snapshot) bool {
			for _, m := range c.Mounts {
				if slices.Contains(v, m.Destination) || (m.Name != "" && slices.Contains(v, m.Name)) || (m.Name == "" && slices.Contains(v, m.Source)) {
					return true
				}
			}
			return false
		})
	}
	if v := f["network"]; len(v) > 0 {
		add(func(c *Snapshot) bool {
			for name, e := range c.Connected() {
				if slices.Contains(v, name) || e != nil && e.NetworkID != "" && slices.ContainsFunc(v, func(x string) bool { return len(x) > 0 && strings.HasPrefix(e.NetworkID, x) }) {
					return true
				}
			}
			return false
		})
	}
	for _, key := range []string{"publish", "expose"} {
		v := f[key]
		if len(v) == 0 {
			continue
		}
		ports, err := portFilter(key, v)
		if err != nil {
			return nil, err
		}
		add(func(c *Snapshot) bool {
			if key == "publish" {
				return slices.ContainsFunc(hostPorts(c.HostConfig.PortBindings), ports)
			}
			for p := range maps.Keys(c.Config.ExposedPorts) {
				if ports(p) {
					return true
				}
			}
			return false
		})
	}
	if v := f["ancestor"]; len(v) > 0 {
		var images []digest.Digest
		for _, ref := range v {
			// An image that is not there has no descendants; Docker only logs it.
			if img, err := s.Images.Image(context.Background(), ref); err == nil {
				images = append(images, img.ID)
			}
		}
		add(func(c *Snapshot) bool { return slices.Contains(images, c.Image.ID) })
	}
	for _, ref := range f["before"] {
		at, err := s.indexOf(ref, all)
		if err != nil {
			return nil, err
		}
		tests = append(tests, func(i int) bool { return i > at })
	}
	for _, ref := range f["since"] {
		at, err := s.indexOf(ref, all)
		if err != nil {
			return nil, err
		}
		tests = append(tests, func(i int) bool { return i < at })
	}
	return func(i int) bool {
		for _, t := range tests {
			if !t(i) {
				return false
			}
		}
		return true
	}, nil
}

func (s *Service) indexOf(ref string, all []Snapshot) (int, error) {
	c, err := s.find(ref)
	if err != nil {
		return 0, err
	}
	return slices.IndexFunc(all, func(x Snapshot) bool { return x.ID == c.id }), nil
}

// patterns reports whether a text equals, or as a regular expression matches, one of the values.
func patterns(values []string) func(string) bool {
	var res []*regexp.Regexp
	for _, v := range values {
		if re, err := regexp.Compile(v); err == nil { // an empty one matches all
			res = append(res, re)
		}
	}
	return func(s string) bool {
		return slices.Contains(values, s) || slices.ContainsFunc(res, func(re *regexp.Regexp) bool { return re.MatchString(s) })
	}
}

func boolFilter(key string, values []string) (bool, error) {
	yes, no := false, false
	for _, v := range values {
		switch v {
		case "1", "true":
			yes = true
		case "0", "false":
			no = true
		default:
			return false, errs.Invalid.Errorf("Invalid filter '%s=%s'", key, v)
		}
	}
	if yes == no {
		return false, errs.Invalid.Errorf("Invalid filter '%s=%v'", key, values)
	}
	return yes, nil
}

// portFilter reads <port>[-<port>][/<proto>].
// hostPorts are the ports of the host that were asked for, whether they are published now or not.
func hostPorts(m network.PortMap) (out []network.Port) {
	for p, bindings := range m {
		for _, b := range bindings {
			if h, err := network.ParsePort(b.HostPort + "/" + string(p.Proto())); err == nil {
				out = append(out, h)
			}
		}
	}
	return out
}

func portFilter(key string, values []string) (func(network.Port) bool, error) {
	var ranges []network.PortRange
	for _, v := range values {
		if strings.Contains(v, ":") {
			return nil, errs.Invalid.Errorf("filter for '%s' should not contain ':': %s", key, v)
		}
		r, err := network.ParsePortRange(v)
		if err != nil {
			return nil, errs.Invalid.Errorf("error while looking up for %s %s: %w", key, v, err)
		}
		ranges = append(ranges, r)
	}
	return func(p network.Port) bool {
		return slices.ContainsFunc(ranges, func(r network.PortRange) bool {
			return p.Proto() == r.Proto() && r.Start() <= p.Num() && p.Num() <= r.End()
		})
	}, nil
}
