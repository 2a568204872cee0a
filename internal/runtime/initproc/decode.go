package initproc

import (
	"errors"
	"strconv"

	"gantry/internal/runtime/jsonstring"
	"gantry/internal/runtime/spec"
)

// The payload is decoded by hand: encoding/json would make init half as big again and start a fifth slower, at
// every start of every container. A test fills every field of the spec by reflection and compares, so that a
// field added there cannot be forgotten here.

// decoder reads JSON from the front of b. The first error stays in err and ends all loops.
type decoder struct {
	b     []byte
	depth int
	err   error
}

// maxDepth bounds nesting, and with it the stack.
const maxDepth = 32

var errSyntax = errors.New("malformed payload")

func (d *decoder) fail() {
	if d.err == nil {
		d.err = errSyntax
	}
	d.b = nil
}

// next skips white space and returns the next byte without taking it; 0 at the end.
func (d *decoder) next() byte {
	for len(d.b) > 0 {
		switch d.b[0] {
		case ' ', '\t', '\r', '\n':
			d.b = d.b[1:]
		default:
			return d.b[0]
		}
	}
	return 0
}

func (d *decoder) take(c byte) bool {
	if d.next() != c {
		return false
	}
	d.b = d.b[1:]
	return true
}

func (d *decoder) literal(s string) bool {
	d.next()
	if len(d.b) < len(s) || string(d.b[:len(s)]) != s {
		return false
	}
	d.b = d.b[len(s):]
	return true
}

// object calls field for each key; field must read the value.
func (d *decoder) object(field func(key string)) {
	if d.literal("null") {
		return
	}
	if !d.take('{') || d.depth == maxDepth {
		d.fail()
		return
	}
	d.depth++
	for first := true; d.err == nil && !d.take('}'); first = false {
		if !first && !d.take(',') {
			d.fail()
			return
		}
		key := d.string()
		if !d.take(':') {
			d.fail()
			return
		}
		field(key)
	}
	d.depth--
}

// array calls item for each element; item must read it.
func (d *decoder) array(item func()) {
	if d.literal("null") {
		return
	}
	if !d.take('[') || d.depth == maxDepth {
		d.fail()
		return
	}
	d.depth++
	for first := true; d.err == nil && !d.take(']'); first = false {
		if !first && !d.take(',') {
			d.fail()
			return
		}
		item()
	}
	d.depth--
}

// skip reads any value; an older init may be given fields it does not know.
func (d *decoder) skip() {
	switch c := d.next(); {
	case c == '{':
		d.object(func(string) { d.skip() })
	case c == '[':
		d.array(d.skip)
	case c == '"':
		d.string()
	case d.literal("true"), d.literal("false"), d.literal("null"):
	default:
		d.number()
	}
}

func (d *decoder) string() string {
	if d.literal("null") {
		return ""
	}
	if !d.take('"') {
		d.fail()
		return ""
	}
	for i, c := range d.b {
		switch {
		case c == '"':
			s := string(d.b[:i])
			d.b = d.b[i+1:]
			return s
		case c == '\\':
			return d.escaped(i)
		case c < ' ':
			d.fail()
			return ""
		}
	}
	d.fail()
	return ""
}

// escaped finishes a string whose first backslash is at i.
func (d *decoder) escaped(i int) string {
	out := append(make([]byte, 0, 2*i+16), d.b[:i]...)
	b := d.b[i:]
	for len(b) > 0 {
		c := b[0]
		b = b[1:]
		switch {
		case c == '"':
			d.b = b
			return string(out)
		case c < ' ':
			d.fail()
			return ""
		case c != '\\':
			out = append(out, c)
			continue
		}
		var ok bool
		if out, b, ok = jsonstring.Unescape(out, b); !ok {
			break
		}
	}
	d.fail()
	return ""
}

func (d *decoder) number() string {
	d.next()
	i := 0
	for i < len(d.b) && (d.b[i] >= '0' && d.b[i] <= '9' || d.b[i] == '-' || d.b[i] == '+' || d.b[i] == '.' || d.b[i] == 'e' || d.b[i] == 'E') {
		i++
	}
	if i == 0 {
		d.fail()
		return ""
	}
	s := string(d.b[:i])
	d.b = d.b[i:]
	return s
}

func (d *decoder) uint64() uint64 {
	n, err := strconv.ParseUint(d.number(), 10, 64)
	if err != nil {
		d.fail()
	}
	return n
}

func (d *decoder) uint32() uint32 {
	n := d.uint64()
	if n > 1<<32-1 {
		d.fail()
	}
	return uint32(n)
}

func (d *decoder) int() int {
	n, err := strconv.Atoi(d.number())
	if err != nil {
		d.fail()
	}
	return n
}

func (d *decoder) bool() bool {
	switch {
	case d.literal("true"):
		return true
	case d.literal("false"), d.literal("null"):
	default:
		d.fail()
	}
	return false
}

func (d *decoder) strings() (out []string) {
	d.array(func() { out = append(out, d.string()) })
	return out
}

// base64 reads a string in standard encoding (RFC 4648, section 4), as encoding/json writes []byte.
func (d *decoder) base64() []byte {
	s := d.string()
	for len(s) > 0 && s[len(s)-1] == '=' {
		s = s[:len(s)-1]
	}
	if s == "" {
		return nil
	}
	out := make([]byte, 0, len(s)*3/4)
	var acc uint32
	var bits uint
	for i := range len(s) {
		var v byte
		switch c := s[i]; {
		case c >= 'A' && c <= 'Z':
			v = c - 'A'
		case c >= 'a' && c <= 'z':
			v = c - 'a' + 26
		case c >= '0' && c <= '9':
			v = c - '0' + 52
		case c == '+':
			v = 62
		case c == '/':
			v = 63
		default:
			d.fail()
			return nil
		}
		acc, bits = acc<<6|uint32(v), bits+6
		if bits >= 8 {
			bits -= 8
			out = append(out, byte(acc>>bits))
		}
	}
	return out
}

// decodeInit reads a spec.Init.
func decodeInit(b []byte) (*spec.Init, error) {
	d := &decoder{b: b}
	v := new(spec.Init)
	d.object(func(key string) {
		switch key {
		case "root":
			d.root(&v.Root)
		case "mounts":
			d.array(func() { v.Mounts = append(v.Mounts, d.mount()) })
		case "devices":
			d.array(func() { v.Devices = append(v.Devices, d.device()) })
		case "masked":
			v.Masked = d.strings()
		case "read_only":
			v.ReadOnly = d.strings()
		case "hostname":
			v.Hostname = d.string()
		case "domainname":
			v.Domainname = d.string()
		case "sysctls":
			d.object(func(k string) {
				if v.Sysctls == nil {
					v.Sysctls = make(map[string]string)
				}
				v.Sysctls[k] = d.string()
			})
		case "join":
			d.array(func() { v.Join = append(v.Join, d.join()) })
		case "clone":
			v.Clone = uintptr(d.uint64())
		case "cgroup_ns":
			v.CgroupNS = d.bool()
		case "user":
			v.User = d.bool()
		case "exec":
			d.exec(&v.Exec)
		default:
			d.skip()
		}
	})
	return v, d.end()
}

// decodeExec reads a spec.Exec.
func decodeExec(b []byte) (*spec.Exec, error) {
	d := &decoder{b: b}
	v := new(spec.Exec)
	d.exec(v)
	return v, d.end()
}

func (d *decoder) end() error {
	if d.next() != 0 {
		d.fail()
	}
	return d.err
}

func (d *decoder) root(v *spec.Root) {
	d.object(func(key string) {
		switch key {
		case "base":
			v.Base = d.string()
		case "lower":
			v.Lower = d.strings()
		case "upper":
			v.Upper = d.string()
		case "work":
			v.Work = d.string()
		case "dir":
			v.Dir = d.string()
		case "target":
			v.Target = d.string()
		case "read_only":
			v.ReadOnly = d.bool()
		case "volatile":
			v.Volatile = d.bool()
		case "propagation":
			v.Propagation = d.string()
		default:
			d.skip()
		}
	})
}

func (d *decoder) mount() (v spec.Mount) {
	d.object(func(key string) {
		switch key {
		case "type":
			v.Type = d.string()
		case "source":
			v.Source = d.string()
		case "target":
			v.Target = d.string()
		case "options":
			v.Options = d.strings()
		case "create":
			v.Create = d.bool()
		case "copy_content":
			v.CopyContent = d.bool()
		case "subpath":
			v.Subpath = d.string()
		case "id_map":
			if !d.literal("null") {
				v.IDMap = new(spec.Process)
				d.process(v.IDMap)
			}
		case "of":
			if !d.literal("null") {
				v.Of = new(spec.Process)
				d.process(v.Of)
			}
		case "root":
			if !d.literal("null") {
				v.Root = new(spec.Root)
				d.root(v.Root)
			}
		default:
			d.skip()
		}
	})
	return v
}

func (d *decoder) device() (v spec.Device) {
	d.object(func(key string) {
		switch key {
		case "path":
			v.Path = d.string()
		case "host":
			v.Host = d.string()
		case "type":
			v.Type = byte(d.uint32())
		case "major":
			v.Major = d.uint32()
		case "minor":
			v.Minor = d.uint32()
		case "mode":
			v.Mode = d.uint32()
		case "uid":
			v.UID = d.uint32()
		case "gid":
			v.GID = d.uint32()
		default:
			d.skip()
		}
	})
	return v
}

func (d *decoder) process(v *spec.Process) {
	d.object(func(key string) {
		switch key {
		case "pid":
			v.Pid = d.int()
		case "start_time":
			v.StartTime = d.uint64()
		default:
			d.skip()
		}
	})
}

func (d *decoder) join() (v spec.Join) {
	d.object(func(key string) {
		switch key {
		case "type":
			v.Type = d.string()
		case "of":
			d.process(&v.Of)
		case "path":
			v.Path = d.string()
		default:
			d.skip()
		}
	})
	return v
}

func (d *decoder) exec(v *spec.Exec) {
	d.object(func(key string) {
		switch key {
		case "args":
			v.Args = d.strings()
		case "env":
			v.Env = d.strings()
		case "cwd":
			v.Cwd = d.string()
		case "user":
			v.User = d.string()
		case "groups":
			v.Groups = d.strings()
		case "caps":
			d.caps(&v.Caps)
		case "rlimits":
			d.array(func() { v.Rlimits = append(v.Rlimits, d.rlimit()) })
		case "no_new_privileges":
			v.NoNewPrivileges = d.bool()
		case "oom_score_adj":
			if !d.literal("null") {
				n := d.int()
				v.OOMScoreAdj = &n
			}
		case "seccomp":
			v.Seccomp = d.base64()
		case "apparmor":
			v.AppArmor = d.string()
		case "label":
			v.Label = d.string()
		case "umask":
			if !d.literal("null") {
				n := d.uint32()
				v.Umask = &n
			}
		case "reaper":
			v.Reaper = d.bool()
		case "terminal":
			v.Terminal = d.bool()
		case "await_pids":
			v.AwaitPids = d.bool()
		default:
			d.skip()
		}
	})
}

func (d *decoder) caps(v *spec.Caps) {
	d.object(func(key string) {
		switch key {
		case "bounding":
			v.Bounding = d.uint64()
		case "effective":
			v.Effective = d.uint64()
		case "permitted":
			v.Permitted = d.uint64()
		case "inheritable":
			v.Inheritable = d.uint64()
		case "ambient":
			v.Ambient = d.uint64()
		default:
			d.skip()
		}
	})
}

func (d *decoder) rlimit() (v spec.Rlimit) {
	d.object(func(key string) {
		switch key {
		case "type":
			v.Type = d.int()
		case "soft":
			v.Soft = d.uint64()
		case "hard":
			v.Hard = d.uint64()
		default:
			d.skip()
		}
	})
	return v
}
