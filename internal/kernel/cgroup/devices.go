package cgroup

import (
	"regexp"
	"strconv"
	"strings"

	"gantry/internal/errs"
)

// Access is a set of what may be done with a device node. The bits are the kernel's BPF_DEVCG_ACC_*.
type Access uint8

const (
	// Mknod allows making the node.
	Mknod Access = 1 << iota
	// Read allows opening it for reading.
	Read
	// Write allows opening it for writing.
	Write
)

// String returns the letters of a, in the kernel's order "rwm".
func (a Access) String() string {
	s := ""
	for _, l := range []struct {
		bit    Access
		letter string
	}{{Read, "r"}, {Write, "w"}, {Mknod, "m"}} {
		if a&l.bit != 0 {
			s += l.letter
		}
	}
	return s
}

// ParseAccess reads the letters r, w and m in any order, as in --device's third part.
func ParseAccess(s string) (Access, error) {
	var a Access
	for _, c := range s {
		switch c {
		case 'r':
			a |= Read
		case 'w':
			a |= Write
		case 'm':
			a |= Mknod
		default:
			return 0, errs.Invalid.Errorf("invalid device access %q: want letters of rwm", s)
		}
	}
	if a == 0 {
		return 0, errs.Invalid.Errorf("invalid device access %q: want letters of rwm", s)
	}
	return a, nil
}

// Any stands for every major or minor number.
const Any = -1

// DeviceRule allows or denies access to device nodes.
type DeviceRule struct {
	Allow  bool
	Type   byte  // 'b' (block), 'c' (character), or 'a' for both
	Major  int64 // or Any
	Minor  int64
	Access Access
}

func (r DeviceRule) numbers() string {
	n := func(v int64) string {
		if v == Any {
			return "*"
		}
		return strconv.FormatInt(v, 10)
	}
	return n(r.Major) + ":" + n(r.Minor)
}

// String returns the rule in the kernel's form, such as "c 1:3 rwm".
func (r DeviceRule) String() string {
	return string(r.Type) + " " + r.numbers() + " " + r.Access.String()
}

var ruleForm = regexp.MustCompile(`^([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})$`)

// ParseDeviceRule reads the value of --device-cgroup-rule, such as "c 42:* rmw".
func ParseDeviceRule(s string) (DeviceRule, error) {
	m := ruleForm.FindStringSubmatch(s)
	if m == nil {
		return DeviceRule{}, errs.Invalid.Errorf("invalid device cgroup rule format: '%s'", s)
	}
	r := DeviceRule{Allow: true, Type: m[1][0], Major: Any, Minor: Any}
	for i, p := range []*int64{&r.Major, &r.Minor} {
		if v := m[2+i]; v != "*" {
			n, err := strconv.ParseUint(v, 10, 32)
			if err != nil {
				return DeviceRule{}, errs.Invalid.Errorf("invalid device cgroup rule format: '%s'", s)
			}
			*p = int64(n)
		}
	}
	r.Access, _ = ParseAccess(m[4])
	return r, nil
}

const rwm = Read | Write | Mknod

// AllDevices allows everything: --privileged.
func AllDevices() []DeviceRule {
	return []DeviceRule{{Allow: true, Type: 'a', Major: Any, Minor: Any, Access: rwm}}
}

// DefaultDevices is what Docker allows every container: to make any node, and to open the harmless ones.
func DefaultDevices() []DeviceRule {
	c := func(major, minor int64) DeviceRule {
		return DeviceRule{Allow: true, Type: 'c', Major: major, Minor: minor, Access: rwm}
	}
	return []DeviceRule{
		{Type: 'a', Major: Any, Minor: Any, Access: rwm},
		{Allow: true, Type: 'c', Major: Any, Minor: Any, Access: Mknod},
		{Allow: true, Type: 'b', Major: Any, Minor: Any, Access: Mknod},
		c(1, 3),     // null
		c(1, 5),     // zero
		c(1, 7),     // full
		c(1, 8),     // random
		c(1, 9),     // urandom
		c(5, 0),     // tty
		c(5, 1),     // console
		c(5, 2),     // ptmx
		c(136, Any), // pts/*
		c(10, 200),  // net/tun
	}
}

func (r DeviceRule) covers(o DeviceRule) bool {
	return (r.Type == 'a' || r.Type == o.Type) && (r.Major == Any || r.Major == o.Major) && (r.Minor == Any || r.Minor == o.Minor)
}

func (r DeviceRule) overlaps(o DeviceRule) bool {
	return (r.Type == 'a' || o.Type == 'a' || r.Type == o.Type) &&
		(r.Major == Any || o.Major == Any || r.Major == o.Major) && (r.Minor == Any || o.Minor == Any || r.Minor == o.Minor)
}

// deviceWrites turns rules into the writes to version 1's devices.allow and devices.deny. A version 1 group is a
// default (all or nothing) and a set of exceptions from it; rules whose order matters beyond that are
// errs.NotImplemented there. A fresh group has its parent's set, so a default is always written first.
func deviceWrites(rules []DeviceRule) (deny, allow []string, err error) {
	base := false
	type key struct {
		kind         byte
		major, minor int64
	}
	var order []key
	except := map[key]Access{}
	for _, r := range rules {
		if r.Type == 'a' {
			// The kernel ignores what follows the "a".
			if r.Major != Any || r.Minor != Any || r.Access != rwm {
				b, c := r, r
				b.Type, c.Type = 'b', 'c'
				for _, one := range []DeviceRule{b, c} {
					k := key{one.Type, one.Major, one.Minor}
					if r.Allow != base {
						if _, ok := except[k]; !ok {
							order = append(order, k)
						}
						except[k] |= r.Access
					} else if len(except) > 0 {
						return nil, nil, errs.NotImplemented.Errorf("device rule %q takes back part of an earlier one, which control groups of version 1 cannot express", r)
					}
				}
				continue
			}
			base, order, except = r.Allow, nil, map[key]Access{}
			continue
		}
		k := key{r.Type, r.Major, r.Minor}
		if r.Allow != base {
			if _, ok := except[k]; !ok {
				order = append(order, k)
			}
			except[k] |= r.Access
			continue
		}
		for e, a := range except {
			o := DeviceRule{Type: e.kind, Major: e.major, Minor: e.minor}
			switch {
			case r.covers(o):
				except[e] = a &^ r.Access
			case r.overlaps(o) && a&r.Access != 0:
				return nil, nil, errs.NotImplemented.Errorf("device rule %q takes back part of an earlier one, which control groups of version 1 cannot express", r)
			}
		}
	}
	var list []string
	for _, k := range order {
		if a := except[k]; a != 0 {
			list = append(list, DeviceRule{Type: k.kind, Major: k.major, Minor: k.minor, Access: a}.String())
		}
	}
	if base {
		return list, []string{"a"}, nil
	}
	return []string{"a"}, list, nil
}

// setDevices installs the filter in a group that is new and empty.
func (g *Group) setDevices(rules []DeviceRule) error {
	if allowsAll(rules) {
		return nil // a fresh group has its parent's set, which is all that it may have
	}
	if i, ok := g.host.where["devices"]; ok && !g.host.trees[i].unified {
		deny, allow, err := deviceWrites(rules)
		if err != nil {
			return err
		}
		files := []struct {
			name   string
			values []string
		}{{"/devices.deny", deny}, {"/devices.allow", allow}}
		if len(allow) == 1 && allow[0] == "a" {
			files[0], files[1] = files[1], files[0] // the default first
		}
		for _, f := range files {
			if len(f.values) == 0 {
				continue
			}
			if err := writeFile(g.dirs[i]+f.name, f.values...); err != nil {
				return err
			}
		}
		return nil
	}
	dir := g.Path("")
	if dir == "" {
		return errs.Unavailable.Errorf("no devices controller and no cgroup2 hierarchy is mounted, so device access cannot be limited")
	}
	return g.host.attachFilter(dir, rules)
}

func allowsAll(rules []DeviceRule) bool {
	if len(rules) == 0 {
		return false
	}
	last := rules[len(rules)-1]
	return last.Allow && last.Type == 'a' && last.Major == Any && last.Minor == Any && last.Access == rwm
}

// filterKey names a list of rules.
func filterKey(rules []DeviceRule) string {
	var b strings.Builder
	for _, r := range rules {
		if r.Allow {
			b.WriteByte('+')
		}
		b.WriteString(r.String())
		b.WriteByte('\n')
	}
	return b.String()
}
