package cgroup

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gantry/internal/errs"
)

func TestParseDeviceRule(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"c 42:* rmw": "c 42:* rwm", "a *:* m": "a *:* m", "b 8:0 r": "b 8:0 r"} {
		r, err := ParseDeviceRule(in)
		if err != nil || r.String() != want || !r.Allow {
			t.Errorf("%q: got %v, %v", in, r, err)
		}
	}
	for _, in := range []string{"", "c 1:3", "c 1:3 x", "d 1:3 r", "c -1:3 r", "c 1:3 rwmr", "c 4294967296:0 r", "c 1:3 r\n", " c 1:3 r"} {
		_, err := ParseDeviceRule(in)
		if !errs.Invalid.Is(err) || err.Error() != "invalid device cgroup rule format: '"+in+"'" {
			t.Errorf("%q: got %v", in, err)
		}
	}
}

func FuzzParseDeviceRule(f *testing.F) {
	f.Add("c 1:3 rwm")
	f.Add("a *:* m")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseDeviceRule(s)
		if err != nil {
			return
		}
		again, err := ParseDeviceRule(r.String())
		if err != nil || again != r {
			t.Errorf("%q became %q, then %v, %v", s, r, again, err)
		}
	})
}

// allowed is what the rules mean, said plainly.
func allowed(rules []DeviceRule, kind byte, major, minor int64, access Access) bool {
	if access == 0 {
		// Something that needs no right, such as asking whether the file exists: as version 1, true if any rule
		// allows anything.
		return slices.ContainsFunc(rules, func(r DeviceRule) bool {
			return r.Allow && r.covers(DeviceRule{Type: kind, Major: major, Minor: minor})
		})
	}
	for bit := Access(1); bit <= Write; bit <<= 1 {
		if access&bit == 0 {
			continue
		}
		ok := false
		for _, r := range rules {
			if r.covers(DeviceRule{Type: kind, Major: major, Minor: minor}) && r.Access&bit != 0 {
				ok = r.Allow
			}
		}
		if !ok {
			return false
		}
	}
	return true
}

// execute runs a program as the kernel would, as far as compile's instructions go.
func execute(t *testing.T, p []insn, accessType, major, minor uint32) uint64 {
	t.Helper()
	var reg [11]uint64
	ctx := map[int16]uint32{0: accessType, 4: major, 8: minor}
	for pc, steps := 0, 0; ; pc, steps = pc+1, steps+1 {
		if pc >= len(p) || steps > len(p) {
			t.Fatalf("ran out of the program at %d", pc)
		}
		i := p[pc]
		dst, src := i.regs&15, i.regs>>4
		v := uint32(reg[dst])
		switch i.op {
		case opLoad32:
			reg[dst] = uint64(ctx[i.off])
		case opMovReg:
			reg[dst] = uint64(uint32(reg[src]))
		case opMovImm:
			reg[dst] = uint64(int64(i.imm))
		case opAndImm:
			reg[dst] = uint64(v & uint32(i.imm))
		case opRshImm:
			reg[dst] = uint64(v >> i.imm)
		case opJneImm:
			if v != uint32(i.imm) {
				pc += int(i.off)
			}
		case opJeqImm:
			if v == uint32(i.imm) {
				pc += int(i.off)
			}
		case opExit:
			return reg[r0]
		default:
			t.Fatalf("unknown instruction %#x", i.op)
		}
	}
}

func randomRules(r *rand.Rand) []DeviceRule {
	var rules []DeviceRule
	for range r.IntN(8) {
		rules = append(rules, DeviceRule{
			Allow: r.IntN(2) == 0, Type: "abc"[r.IntN(3)], Major: r.Int64N(4) - 1, Minor: r.Int64N(4) - 1, Access: Access(1 + r.IntN(7)),
		})
	}
	return rules
}

func TestCompileMeansTheRules(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	sets := [][]DeviceRule{nil, AllDevices(), DefaultDevices()}
	for range 500 {
		sets = append(sets, randomRules(rnd))
	}
	for _, rules := range sets {
		p := compile(rules)
		for _, kind := range []byte("bc") {
			for major := range int64(6) {
				for minor := range int64(6) {
					for access := range Access(8) {
						k := uint32(devChar)
						if kind == 'b' {
							k = devBlock
						}
						got := execute(t, p, k|uint32(access)<<16, uint32(major), uint32(minor)) == 1
						if want := allowed(rules, kind, major, minor, access); got != want {
							t.Fatalf("%v: %c %d:%d %s: got %v, want %v", rules, kind, major, minor, access, got, want)
						}
					}
				}
			}
		}
	}
}

func TestKernelTakesCompiledFilters(t *testing.T) {
	needRoot(t)
	rnd := rand.New(rand.NewPCG(3, 4))
	sets := [][]DeviceRule{nil, AllDevices(), DefaultDevices()}
	for range 20 {
		sets = append(sets, randomRules(rnd))
	}
	sets = append(sets, slices.Repeat(append(DefaultDevices(), DeviceRule{Type: 'c', Major: 7, Minor: 7, Access: rwm}), maxRules/13))
	for _, rules := range sets {
		fd, err := load(encode(compile(rules)))
		if err != nil {
			t.Fatalf("%v: %v", rules, err)
		}
		unix.Close(fd)
	}
}

// v1Allowed is how the kernel's version 1 controller decides: a default and exceptions.
func v1Allowed(deny, allow []string, kind byte, major, minor int64, access Access) bool {
	all, list := false, deny
	if slices.Contains(deny, "a") {
		list = allow
	} else {
		all = true
	}
	for _, s := range list {
		if s == "a" {
			continue
		}
		r, err := ParseDeviceRule(s)
		if err != nil {
			panic(err)
		}
		if !r.covers(DeviceRule{Type: kind, Major: major, Minor: minor}) {
			continue
		}
		if all && r.Access&access != 0 || !all && access&^r.Access == 0 {
			return !all
		}
	}
	return all
}

func TestDeviceWrites(t *testing.T) {
	t.Parallel()
	deny, allow, err := deviceWrites(DefaultDevices())
	if err != nil || !slices.Equal(deny, []string{"a"}) {
		t.Fatal(deny, err)
	}
	const want = "c *:* m|b *:* m|c 1:3 rwm|c 1:5 rwm|c 1:7 rwm|c 1:8 rwm|c 1:9 rwm|c 5:0 rwm|c 5:1 rwm|c 5:2 rwm|c 136:* rwm|c 10:200 rwm"
	if got := strings.Join(allow, "|"); got != want {
		t.Errorf("got %s", got)
	}
	rnd := rand.New(rand.NewPCG(5, 6))
	said := 0
	for range 2000 {
		rules := randomRules(rnd)
		deny, allow, err := deviceWrites(rules)
		if err != nil {
			if !errs.NotImplemented.Is(err) {
				t.Fatal(err)
			}
			continue
		}
		said++
		// Single bits: version 1 wants one exception to cover a whole access, and may deny more than is asked.
		for _, kind := range []byte("bc") {
			for major := range int64(4) {
				for minor := range int64(4) {
					for _, access := range []Access{Read, Write, Mknod} {
						got, want := v1Allowed(deny, allow, kind, major, minor, access), allowed(rules, kind, major, minor, access)
						if got != want {
							t.Fatalf("%v became deny %q, allow %q: %c %d:%d %s: got %v, want %v", rules, deny, allow, kind, major, minor, access, got, want)
						}
					}
				}
			}
		}
	}
	if said < 500 {
		t.Errorf("only %d of 2000 rule sets could be said", said)
	}
}
