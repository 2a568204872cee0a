package seccomp

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	moby "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/internal/kernel/caps"
)

// machine is what the compiler knows about one GOARCH.
type machine struct {
	goarch string
	native int
	audits []uint32
	archs  []specs.Arch
}

func machines() []machine {
	return []machine{
		{"amd64", archAMD64, []uint32{auditAMD64, audit386}, []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}},
		{"arm64", archARM64, []uint32{auditARM64, auditARM}, []specs.Arch{specs.ArchAARCH64, specs.ArchARM}},
	}
}

// numbers are all call numbers that any table has, and what lies around and far above them.
func numbers() []uint32 {
	var out []uint32
	for nr := range uint32(700) {
		out = append(out, nr, nr|x32Bit, nr|1<<31, nr|1<<31|x32Bit)
	}
	for nr := range uint32(16) {
		out = append(out, armPrivate-4+nr)
	}
	return append(out, math.MaxUint32, math.MaxUint32-1, x32Bit-1, 1<<31-1, 1<<16, 1<<20)
}

// check compares a profile's filter with its meaning, for all numbers of all architectures, with tries sets of arguments each.
func check(t *testing.T, p *specs.LinuxSeccomp, m machine, tries int, arg func() uint64) (prog []unix.SockFilter) {
	t.Helper()
	prog, err := compile(p, m.goarch)
	if err != nil {
		t.Fatal(err)
	}
	means := meaningOf(p, m.native)
	for _, audit := range append(slices.Clone(m.audits), 0, 0xc0000015) {
		for _, nr := range numbers() {
			for range tries {
				d := call(audit, nr, arg(), arg(), arg(), arg(), arg(), arg())
				got, _ := run(t, prog, d)
				if want := means.of(d); got != want {
					t.Fatalf("%s: arch %#x, call %#x, arguments %#x: got %#x, want %#x", m.goarch, audit, nr, d[4:], got, want)
				}
			}
		}
	}
	return prog
}

// TestDefaultProfile compares the filters of the default profile with the profile, for all calls, with arguments around
// those that it asks for.
func TestDefaultProfile(t *testing.T) {
	t.Parallel()
	values := []uint64{0, 1, 8, 0x20000, 0x20008, 0xffffffff, 0xffffffffffffffff, 37, 38, 39, 40, 41, 1 << 32, 1<<32 + 39,
		unix.CLONE_NEWUSER, unix.CLONE_NEWNS | 17, unix.CLONE_VM, unix.CLONE_NEWUSER << 32}
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, m := range machines() {
		for _, set := range []caps.Set{0, caps.Default(), caps.Default() | caps.Of(caps.SYS_ADMIN), caps.All, caps.Set(rnd.Uint64()) & caps.All} {
			check(t, resolved(t, m, set), m, 8, func() uint64 { return values[rnd.IntN(len(values))] })
		}
	}
}

// resolved is the default profile with m's architectures. (Its rules for single architectures follow the one of the test.)
func resolved(t *testing.T, m machine, set caps.Set) *specs.LinuxSeccomp {
	t.Helper()
	p, err := moby.GetDefaultProfile(container(set))
	if err != nil {
		t.Fatal(err)
	}
	p.Architectures = m.archs
	return p
}

// TestRandomProfiles compares filters with profiles that nobody would write.
func TestRandomProfiles(t *testing.T) {
	t.Parallel()
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		pick := func(v ...uint64) uint64 { return v[rnd.IntN(len(v))] }
		value := func() uint64 {
			return pick(0, 1, 2, 3, 5, 8, 0x7e020000, math.MaxUint32, math.MaxUint64, 1<<32, 1<<32+1, 1<<63, 7<<32+3, 0xff, rnd.Uint64(), uint64(rnd.Uint32())) + pick(0, 0, 1)
		}
		m := machines()[seed%2]
		p := random(rnd, m, value)
		t.Run(fmt.Sprint(seed), func(t *testing.T) { check(t, p, m, 4, value) })
	}
}

func random(rnd *rand.Rand, m machine, value func() uint64) *specs.LinuxSeccomp {
	actions := []specs.LinuxSeccompAction{specs.ActAllow, specs.ActErrno, specs.ActErrno, specs.ActKillProcess, specs.ActKill, specs.ActTrap, specs.ActLog, specs.ActTrace}
	ops := []specs.LinuxSeccompOperator{specs.OpEqualTo, specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpGreaterThan, specs.OpGreaterEqual, specs.OpMaskedEqual}
	act := func() (specs.LinuxSeccompAction, *uint) {
		errno := uint(rnd.IntN(100))
		return actions[rnd.IntN(len(actions))], []*uint{nil, &errno}[rnd.IntN(2)]
	}
	p := &specs.LinuxSeccomp{Architectures: m.archs[:rnd.IntN(len(m.archs)+1)]}
	p.DefaultAction, p.DefaultErrnoRet = act()
	favourites := []string{"socket", "connect", "socketcall", "ipc", "semop", "clone", "nosuchcall", "set_tls", "read", "ioctl"}
	for range rnd.IntN(40) {
		s := specs.LinuxSyscall{}
		s.Action, s.ErrnoRet = act()
		for range 1 + rnd.IntN(30) {
			s.Names = append(s.Names, syscalls[rnd.IntN(len(syscalls))].name)
		}
		if rnd.IntN(2) == 0 {
			s.Names = favourites[rnd.IntN(len(favourites)):]
			for range rnd.IntN(4) {
				s.Args = append(s.Args, specs.LinuxSeccompArg{Index: uint(rnd.IntN(3)), Op: ops[rnd.IntN(len(ops))], Value: value(), ValueTwo: value()})
			}
		}
		p.Syscalls = append(p.Syscalls, s)
	}
	return p
}

// TestValuesOfOneArgument covers the tree over values: many plain rules for one argument.
func TestValuesOfOneArgument(t *testing.T) {
	t.Parallel()
	for seed := range uint64(40) {
		rnd := rand.New(rand.NewPCG(seed, 9))
		value := func() uint64 {
			return (uint64(rnd.IntN(3))<<32+uint64(rnd.IntN(6)))*[]uint64{1, 1, math.MaxUint64}[rnd.IntN(3)] + uint64(rnd.IntN(2))
		}
		p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: machines()[0].archs}
		for i := range 1 + rnd.IntN(12) {
			errno := uint(2 + i%3)
			p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: []string{"personality"}, Action: specs.ActErrno, ErrnoRet: &errno,
				Args: []specs.LinuxSeccompArg{{Index: 2, Value: value(), Op: []specs.LinuxSeccompOperator{specs.OpEqualTo, specs.OpNotEqual, specs.OpLessThan,
					specs.OpLessEqual, specs.OpGreaterThan, specs.OpGreaterEqual}[rnd.IntN(6)]}}})
		}
		prog, err := compile(p, "amd64")
		if err != nil {
			t.Fatal(err)
		}
		means := meaningOf(p, archAMD64)
		for range 500 {
			for _, d := range []*data{call(auditAMD64, 135, 0, 0, value()), call(audit386, 136, 0, 0, value()), call(auditAMD64, x32Bit|135, 0, 0, value())} {
				got, _ := run(t, prog, d)
				if want := means.of(d); got != want {
					t.Fatalf("seed %d: %#x: got %#x, want %#x", seed, d, got, want)
				}
			}
		}
	}
}

// TestLongJumps compiles more than conditional jumps can reach over.
func TestLongJumps(t *testing.T) {
	t.Parallel()
	m := machines()[0]
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: m.archs}
	for i := range 280 {
		errno := uint(2 + i)
		p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: []string{syscalls[i%140].name}, Action: specs.ActErrno, ErrnoRet: &errno,
			Args: []specs.LinuxSeccompArg{{Index: uint(i % 2), Op: specs.OpMaskedEqual, Value: 7, ValueTwo: uint64(i % 8)}, {Index: 3, Op: specs.OpNotEqual, Value: uint64(i % 5)}}})
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	prog := check(t, p, m, 8, func() uint64 { return uint64(rnd.IntN(8)) })
	if len(prog) < 1000 || !slices.ContainsFunc(prog, func(i unix.SockFilter) bool { return i.Code == opJump }) {
		t.Fatalf("%d instructions without a long jump prove nothing", len(prog))
	}
}

func TestTooLarge(t *testing.T) {
	t.Parallel()
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}
	for i := range 5000 {
		p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow,
			Args: []specs.LinuxSeccompArg{{Index: 0, Op: specs.OpEqualTo, Value: uint64(2 * i)}}})
	}
	if _, err := compile(p, "amd64"); err != errTooLarge {
		t.Fatalf("got %v", err)
	}
	for range 2 {
		p.Syscalls = append(p.Syscalls, p.Syscalls...)
	}
	if _, err := compile(p, "amd64"); err != errTooLarge {
		t.Fatalf("got %v", err)
	}
}

// TestSize holds what the default filter costs: instructions, which the kernel checks and translates at every start
// of a container, and steps on the way to a decision. A new version of the profile may move the numbers a little;
// a jump means that the tree has lost its shape.
func TestSize(t *testing.T) {
	t.Parallel()
	for _, m := range machines() {
		prog, err := compile(resolved(t, m, caps.Default()), m.goarch)
		if err != nil {
			t.Fatal(err)
		}
		worst := 0
		for _, audit := range m.audits {
			for _, nr := range numbers() {
				for _, v := range []uint64{0, 5, 39, 0x20008, math.MaxUint64} {
					_, steps := run(t, prog, call(audit, nr, v))
					worst = max(worst, steps)
				}
			}
		}
		t.Logf("%s: %d instructions, at most %d steps", m.goarch, len(prog), worst)
		if len(prog) > 240 || worst > 30 {
			t.Errorf("%s: %d instructions, at most %d steps", m.goarch, len(prog), worst)
		}
	}
}

// TestTables holds some numbers of every architecture against the kernel's headers, and the order of the rows.
func TestTables(t *testing.T) {
	t.Parallel()
	if !slices.IsSortedFunc(syscalls[:], func(a, b row) int {
		if a.name < b.name {
			return -1
		}
		return 1
	}) {
		t.Fatal("the rows are not sorted, or a name stands twice")
	}
	for name, want := range map[string][archCount]int32{
		"read":             {0, 3, 0, 63, 3},
		"rt_sigaction":     {13, 174, 512, 134, 174},
		"pwritev2":         {328, 379, 547, 287, 393},
		"socketcall":       {-1, 102, -1, -1, -1},
		"newfstatat":       {262, -1, 262, 79, -1},
		"fstatat64":        {-1, 300, -1, -1, 327},
		"clone3":           {435, 435, 435, 435, 435},
		"mseal":            {462, 462, 462, 462, 462},
		"map_shadow_stack": {453, 453, -1, 453, 453},
		"uretprobe":        {335, -1, -1, -1, -1},
		"set_tls":          {-1, -1, -1, -1, 0xf0005},
	} {
		for arch, nr := range want {
			got, ok := lookup(name, arch)
			if ok != (nr >= 0) || ok && got != uint32(nr) {
				t.Errorf("%s on %d is %d (%v), want %d", name, arch, got, ok, nr)
			}
		}
	}
}
