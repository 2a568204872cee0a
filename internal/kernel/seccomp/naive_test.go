package seccomp

import (
	"math"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// meaning is a profile, sorted by architecture and call and otherwise as it stands: it says what the profile means
// for a call straight from the rules in Compile's comment, one after the other, without a graph.
type meaning struct {
	profile  *specs.LinuxSeccomp
	native   int
	fallback uint32
	rules    [archCount]map[uint32][]naiveRule
	last     [archCount]int
}

type naiveRule struct {
	args   []specs.LinuxSeccompArg
	action uint32
}

func meaningOf(p *specs.LinuxSeccomp, native int) *meaning {
	m := &meaning{profile: p, native: native}
	m.fallback, _ = action(p.DefaultAction, p.DefaultErrnoRet)
	for arch := range archCount {
		m.rules[arch], m.last[arch] = map[uint32][]naiveRule{}, -1
		for _, s := range p.Syscalls {
			act, _ := action(s.Action, s.ErrnoRet)
			for _, name := range s.Names {
				nr, ok := lookup(name, arch)
				if ok && (arch != archARM || nr < 0xf0000) {
					m.last[arch] = max(m.last[arch], int(nr))
				}
				if act == m.fallback {
					continue
				}
				for _, args := range alternatives(s.Args) {
					if ok {
						m.add(arch, nr, args, act)
					}
					if arch == arch386 {
						m.addSubcall(name, args, act)
					}
				}
			}
		}
	}
	return m
}

func (m *meaning) add(arch int, nr uint32, args []specs.LinuxSeccompArg, act uint32) {
	args = slices.DeleteFunc(slices.Clone(args), func(a specs.LinuxSeccompArg) bool { return tautology(a, arch) })
	m.rules[arch][nr] = append(m.rules[arch][nr], naiveRule{args, act})
}

// addSubcall adds a rule for the call by way of socketcall or ipc, if it can be made so.
func (m *meaning) addSubcall(name string, args []specs.LinuxSeccompArg, act uint32) {
	for nr, names := range map[uint32][]string{
		102: {1: "socket", 2: "bind", 3: "connect", 4: "listen", 5: "accept", 6: "getsockname", 7: "getpeername", 8: "socketpair",
			9: "send", 10: "recv", 11: "sendto", 12: "recvfrom", 13: "shutdown", 14: "setsockopt", 15: "getsockopt", 16: "sendmsg",
			17: "recvmsg", 18: "accept4", 19: "recvmmsg", 20: "sendmmsg"},
		117: {1: "semop", 2: "semget", 3: "semctl", 4: "semtimedop", 11: "msgsnd", 12: "msgrcv", 13: "msgget", 14: "msgctl",
			21: "shmat", 22: "shmdt", 23: "shmget", 24: "shmctl"},
	} {
		sub := slices.Index(names, name)
		if sub < 1 {
			continue
		}
		out := []specs.LinuxSeccompArg{{Index: 0, Value: uint64(sub), Op: specs.OpEqualTo}}
		for _, a := range args {
			if a.Index != 0 {
				out = append(out, a)
			}
		}
		m.add(arch386, nr, out, act)
	}
}

// of returns the verdict on a call.
func (m *meaning) of(d *data) uint32 {
	arch, nr, ok := origin(m.profile, m.native, d)
	if !ok {
		return unix.SECCOMP_RET_KILL_THREAD
	}
	if arch < 0 {
		return m.fallback
	}
	private := arch == archARM && nr >= 0xf0000 && nr <= 0xf0006
	switch m.profile.DefaultAction {
	case specs.ActAllow, specs.ActLog, specs.ActTrace:
	default:
		if m.last[arch] >= 0 && int(nr) > m.last[arch] && !private {
			return unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
		}
	}
	for _, conditional := range []bool{false, true} {
		for _, r := range m.rules[arch][nr] {
			if conditional == (len(r.args) > 0) && !slices.ContainsFunc(r.args, func(a specs.LinuxSeccompArg) bool { return !satisfied(a, arch, d) }) {
				return r.action
			}
		}
	}
	return m.fallback
}

// origin tells the architecture of a call and its number there; not ok is a call from elsewhere. The
// architecture is -1 for the call that a tracer has emptied.
func origin(p *specs.LinuxSeccomp, native int, d *data) (arch int, nr uint32, ok bool) {
	audit, nr := d[1], d[0]
	listed := func(a specs.Arch) bool { return slices.Contains(p.Architectures, a) }
	if native == archARM64 {
		switch audit {
		case auditARM64:
			return archARM64, nr, true
		case auditARM:
			return archARM, nr, listed(specs.ArchARM)
		}
		return 0, 0, false
	}
	switch {
	case audit == audit386:
		return arch386, nr, listed(specs.ArchX86)
	case audit != auditAMD64:
		return 0, 0, false
	case nr < 1<<30:
		return archAMD64, nr, true
	case listed(specs.ArchX32):
		return archX32, nr &^ (1 << 30), true
	}
	return -1, nr, nr == math.MaxUint32
}

func alternatives(args []specs.LinuxSeccompArg) [][]specs.LinuxSeccompArg {
	for i, a := range args {
		for _, b := range args[:i] {
			if a.Index == b.Index {
				return slices.Collect(slices.Chunk(args, 1))
			}
		}
	}
	return [][]specs.LinuxSeccompArg{args}
}

func tautology(a specs.LinuxSeccompArg, arch int) bool {
	mask := a.Value
	if arch != archAMD64 && arch != archARM64 {
		mask &= math.MaxUint32
	}
	return a.Op == specs.OpMaskedEqual && mask == 0
}

func satisfied(a specs.LinuxSeccompArg, arch int, d *data) bool {
	have := uint64(d[4+2*a.Index]) | uint64(d[5+2*a.Index])<<32
	one, two := a.Value, a.ValueTwo
	if arch != archAMD64 && arch != archARM64 {
		have, one, two = have&math.MaxUint32, one&math.MaxUint32, two&math.MaxUint32
	}
	switch a.Op {
	case specs.OpEqualTo:
		return have == one
	case specs.OpNotEqual:
		return have != one
	case specs.OpLessThan:
		return have < one
	case specs.OpLessEqual:
		return have <= one
	case specs.OpGreaterThan:
		return have > one
	case specs.OpGreaterEqual:
		return have >= one
	}
	return have&one == two&one
}
