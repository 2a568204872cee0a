package seccomp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxConditional bounds the rules with conditions, of all calls together: each is an instruction or more.
const maxConditional = 1 << 13

// Compile turns a profile into a filter for a machine of the given GOARCH (amd64 or arm64): an array of struct
// sock_filter in the machine's byte order, ready for seccomp(2).
//
// The profile's own conditions (capabilities, kernel, architecture) must have been resolved. Its meaning is that
// of runc with libseccomp:
//
//   - The machine's own architecture is always covered; calls of one that the profile does not list kill the thread.
//   - Names that no table knows are ignored, as are rules whose action is the default.
//   - A rule without arguments beats every rule with some. Among rules with arguments the first that matches
//     decides (libseccomp leaves that open). Several arguments of one rule must all match, except that a rule
//     which names one argument twice stands for one rule for each.
//   - A call that is newer than every call named by the profile gives ENOSYS, unless the default action lets
//     calls through: programs then fall back to an older call, where EPERM would stop them. "Newer" means a higher
//     number than the highest one named, on each architecture.
//   - SCMP_ACT_NOTIFY is refused: nobody would answer.
//
// Flags are checked but have no effect on the filter, for they belong to seccomp(2): SECCOMP_FILTER_FLAG_TSYNC means
// nothing to a process with one thread, SPEC_ALLOW is for whoever loads the filter to set always (a
// container is not slowed down for the sake of its own threads, as in runc), and LOG only adds to the audit log.
//
// Errors are about the profile, and name what is wrong with it.
func Compile(p *specs.LinuxSeccomp, goarch string) ([]byte, error) {
	prog, err := compile(p, goarch)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, len(prog)*8)
	for _, i := range prog {
		b = binary.NativeEndian.AppendUint16(b, i.Code)
		b = append(b, i.Jt, i.Jf)
		b = binary.NativeEndian.AppendUint32(b, i.K)
	}
	return b, nil
}

func compile(p *specs.LinuxSeccomp, goarch string) ([]unix.SockFilter, error) {
	c, err := newCompiler(p, goarch)
	if err != nil {
		return nil, err
	}
	for _, call := range p.Syscalls {
		if err := c.call(call); err != nil {
			return nil, err
		}
	}
	root, err := c.root()
	if err != nil {
		return nil, err
	}
	return c.g.assemble(root)
}

// compiler is a profile on its way to a graph.
type compiler struct {
	g             *graph
	native        int
	defaultAction uint32
	permissive    bool // the default action lets calls through
	archs         [archCount]*policy
	conditional   int
}

// policy is what a profile says about one architecture.
type policy struct {
	calls map[uint32]*callRules
	last  int64 // the highest number named by the profile, -1 for none
}

// callRules are the rules for one call. Once one without conditions came, the others count no more.
type callRules struct {
	rules         []rule
	unconditional bool
}

func newCompiler(p *specs.LinuxSeccomp, goarch string) (*compiler, error) {
	c := &compiler{g: newGraph()}
	switch goarch {
	case "amd64":
		c.native = archAMD64
	case "arm64":
		c.native = archARM64
	default:
		return nil, fmt.Errorf("no system call table for %s", goarch)
	}
	var err error
	if c.defaultAction, err = action(p.DefaultAction, p.DefaultErrnoRet); err != nil {
		return nil, fmt.Errorf("default action: %w", err)
	}
	switch p.DefaultAction {
	case specs.ActAllow, specs.ActLog, specs.ActTrace:
		c.permissive = true
	}
	for _, f := range p.Flags {
		switch f {
		case "SECCOMP_FILTER_FLAG_TSYNC", specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow:
		default:
			return nil, fmt.Errorf("unknown seccomp flag: %s", f)
		}
	}
	c.archs[c.native] = &policy{calls: map[uint32]*callRules{}, last: -1}
	for _, name := range p.Architectures {
		a, ok := arches[name]
		if !ok {
			return nil, fmt.Errorf("unknown seccomp architecture: %s", name)
		}
		if a != foreign && sameMachine(a, c.native) && c.archs[a] == nil {
			c.archs[a] = &policy{calls: map[uint32]*callRules{}, last: -1}
		}
	}
	return c, nil
}

// sameMachine reports whether calls of arch can be made on a machine of the native one.
func sameMachine(arch, native int) bool {
	if native == archAMD64 {
		return arch == archAMD64 || arch == arch386 || arch == archX32
	}
	return arch == archARM64 || arch == archARM
}

// action translates an action to what a filter returns (SECCOMP_RET_*). Refusals are EPERM where the profile
// does not say.
func action(a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	data := uint32(unix.EPERM)
	if errno != nil {
		data = uint32(*errno) & unix.SECCOMP_RET_DATA
	}
	switch a {
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	case specs.ActTrap:
		return unix.SECCOMP_RET_TRAP, nil
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO | data, nil
	case specs.ActTrace:
		return unix.SECCOMP_RET_TRACE | data, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActNotify:
		return 0, errors.New("seccomp action SCMP_ACT_NOTIFY is not supported")
	}
	return 0, fmt.Errorf("unknown seccomp action: %q", a)
}

// call adds one entry of the profile.
func (c *compiler) call(s specs.LinuxSyscall) error {
	act, err := action(s.Action, s.ErrnoRet)
	if err != nil {
		return fmt.Errorf("rule for %q: %w", s.Names, err)
	}
	conds := make([]cond, 0, len(s.Args))
	used := [6]bool{}
	twice := false
	for _, a := range s.Args {
		if a.Index >= uint(len(used)) {
			return fmt.Errorf("rule for %q: argument index %d is not below 6", s.Names, a.Index)
		}
		switch a.Op {
		case specs.OpEqualTo, specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpGreaterThan, specs.OpGreaterEqual, specs.OpMaskedEqual:
		default:
			return fmt.Errorf("rule for %q: unknown seccomp operator: %q", s.Names, a.Op)
		}
		twice = twice || used[a.Index]
		used[a.Index] = true
		conds = append(conds, cond{arg: a.Index, op: a.Op, value: a.Value, value2: a.ValueTwo})
	}
	alternatives := [][]cond{conds}
	if twice {
		alternatives = slices.Collect(slices.Chunk(conds, 1))
	}
	for _, name := range s.Names {
		if name == "" {
			return errors.New("rule for a system call without a name")
		}
		for arch, p := range c.archs {
			if p == nil {
				continue
			}
			nr, ok := lookup(name, arch)
			if ok && !(arch == archARM && nr >= armPrivate) {
				p.last = max(p.last, int64(nr))
			}
			if act == c.defaultAction {
				continue
			}
			for _, conds := range alternatives {
				if ok {
					c.rule(arch, nr, conds, act)
				}
				if arch == arch386 {
					if call, sub, ok := multiplexed(name); ok {
						nr, _ := lookup(call, arch)
						c.rule(arch, nr, subcall(conds, sub), act)
					}
				}
			}
			if c.conditional > maxConditional {
				return errTooLarge
			}
		}
	}
	return nil
}

// subcall is the conditions of a call when it is made as a subcall: see multiplexed.
func subcall(conds []cond, sub uint32) []cond {
	out := []cond{{arg: 0, op: specs.OpEqualTo, value: uint64(sub)}}
	for _, c := range conds {
		if c.arg != 0 {
			out = append(out, c)
		}
	}
	return out
}

func (c *compiler) rule(arch int, nr uint32, conds []cond, act uint32) {
	calls := c.archs[arch].calls
	r := calls[nr]
	if r == nil {
		r = &callRules{}
		calls[nr] = r
	}
	if r.unconditional {
		return
	}
	needed := make([]cond, 0, len(conds))
	for _, x := range conds {
		if x = x.on(arch); !x.always() {
			needed = append(needed, x)
		}
	}
	if len(needed) == 0 {
		*r = callRules{rules: []rule{{action: act}}, unconditional: true}
		return
	}
	r.rules = append(r.rules, rule{needed, act})
	c.conditional++
}

// root builds the graph: by architecture, then by call.
func (c *compiler) root() (ref, error) {
	var trees [archCount][]span
	for arch, p := range c.archs {
		if p == nil {
			continue
		}
		if trees[arch] = c.spans(arch, p); trees[arch] == nil {
			return none, errTooLarge
		}
	}
	kill := c.g.ret(unix.SECCOMP_RET_KILL_THREAD)
	byNr := func(spans []span) ref { return c.g.load(offsetNr, c.g.tree(spans)) }
	if c.native == archARM64 {
		other := kill
		if c.archs[archARM] != nil {
			other = c.g.branch(opEQ, auditARM, byNr(trees[archARM]), kill)
		}
		return c.g.load(offsetArch, c.g.branch(opEQ, auditARM64, byNr(trees[archARM64]), other)), nil
	}
	other := kill
	if c.archs[arch386] != nil {
		other = c.g.branch(opEQ, audit386, byNr(trees[arch386]), kill)
	}
	native := slices.DeleteFunc(slices.Clone(trees[archAMD64]), func(s span) bool { return s.lo >= x32Bit })
	if c.archs[archX32] != nil {
		native = append(native, span{x32Bit, c.g.and(^uint32(x32Bit), c.x32(trees[archX32], trees[archAMD64]))})
	} else {
		// -1 is the number that a tracer sets to skip a call; it must reach the default action (seccomp(2)).
		native = append(native, span{x32Bit, kill}, span{math.MaxUint32, c.g.ret(c.defaultAction)})
	}
	return c.g.load(offsetArch, c.g.branch(opEQ, auditAMD64, byNr(native), other)), nil
}

// x32 returns the tree for x32, over numbers without the bit. Most calls have amd64's numbers and rules: the tree finds those
// that differ and leaves the rest to amd64's own, if that takes less than a tree of all.
func (c *compiler) x32(x32, amd64 []span) ref {
	same := c.g.tree(amd64)
	var differ []span
	for lo := range bounds(x32, amd64) {
		to := find(x32, lo)
		if to == find(amd64, lo) {
			to = same
		}
		differ = append(differ, span{lo, to})
	}
	differ = merge(differ)
	if len(differ) < len(x32) {
		return c.g.tree(differ)
	}
	return c.g.tree(x32)
}

// bounds yields every value at which a span of a or b begins, in order.
func bounds(a, b []span) func(func(uint32) bool) {
	var all []uint32
	for _, s := range [][]span{a, b} {
		for _, x := range s {
			all = append(all, x.lo)
		}
	}
	slices.Sort(all)
	return slices.Values(slices.Compact(all))
}

// find returns the successor of the span in which v lies.
func find(spans []span, v uint32) ref {
	i, ok := slices.BinarySearchFunc(spans, v, func(s span, v uint32) int {
		switch {
		case s.lo < v:
			return -1
		case s.lo > v:
			return 1
		}
		return 0
	})
	if !ok {
		i--
	}
	return spans[i].to
}

// spans returns what is to happen with every call number of an architecture, or nil when the graph becomes too large.
func (c *compiler) spans(arch int, p *policy) []span {
	numbers := make([]uint32, 0, len(p.calls))
	for nr := range p.calls {
		numbers = append(numbers, nr)
	}
	slices.Sort(numbers)

	fallback := c.g.ret(c.defaultAction)
	out := []span{{0, fallback}}
	for _, nr := range numbers {
		r := p.calls[nr]
		var to ref
		if r.unconditional {
			to = c.g.ret(r.rules[0].action)
		} else {
			to = c.g.rules(r.rules, !narrow(arch), fallback)
		}
		if len(c.g.nodes) > maxNodes {
			return nil
		}
		out = append(out, span{nr, to}, span{nr + 1, fallback})
	}
	if !c.permissive && p.last >= 0 {
		out = newer(distinct(out), arch, uint32(p.last), c.g.ret(unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS)))
	}
	return merge(distinct(out))
}

// distinct leaves the last of spans with the same beginning.
func distinct(s []span) []span {
	out := s[:0]
	for _, x := range s {
		if len(out) > 0 && out[len(out)-1].lo == x.lo {
			out[len(out)-1] = x
			continue
		}
		out = append(out, x)
	}
	return out
}

// newer makes the calls above last go to enosys.
func newer(s []span, arch int, last uint32, enosys ref) []span {
	out := slices.DeleteFunc(slices.Clone(s), func(x span) bool { return x.lo > last })
	out = append(out, span{last + 1, enosys})
	if arch != archARM {
		return out
	}
	// The private calls of ARM stand far above the others and are no newer: they keep their rules.
	out = append(out, span{armPrivate, find(s, armPrivate)})
	for _, x := range s {
		if x.lo > armPrivate && x.lo <= armPrivateLast {
			out = append(out, x)
		}
	}
	return append(out, span{armPrivateLast + 1, enosys})
}
