package seccomp

import (
	"encoding/binary"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// data is struct seccomp_data, in its words.
type data [16]uint32

func call(audit, nr uint32, args ...uint64) *data {
	var d data
	d[offsetNr/4], d[offsetArch/4] = nr, audit
	for i, v := range args {
		d[word(uint(i), false)/4], d[word(uint(i), true)/4] = uint32(v), uint32(v>>32)
	}
	return &d
}

// run executes a filter as the kernel does, with only the instructions that the compiler may use, and returns its
// verdict and how many instructions it took.
func run(t testing.TB, prog []unix.SockFilter, d *data) (verdict uint32, steps int) {
	var a uint32
	for pc := 0; ; pc++ {
		if pc >= len(prog) {
			t.Fatalf("the filter runs off its end at %d", pc)
		}
		steps++
		i := prog[pc]
		var hit bool
		switch i.Code {
		case opRet:
			return i.K, steps
		case opLoad:
			if i.K%4 != 0 || i.K >= 64 {
				t.Fatalf("load from %d", i.K)
			}
			a = d[i.K/4]
			continue
		case opAnd:
			a &= i.K
			continue
		case opJump:
			pc += int(i.K)
			continue
		case opEQ:
			hit = a == i.K
		case opGE:
			hit = a >= i.K
		case opGT:
			hit = a > i.K
		case opSet:
			hit = a&i.K != 0
		default:
			t.Fatalf("instruction %#x at %d", i.Code, pc)
		}
		if hit {
			pc += int(i.Jt)
		} else {
			pc += int(i.Jf)
		}
	}
}

// decode reads a filter back.
func decode(filter []byte) []unix.SockFilter {
	var prog []unix.SockFilter
	for b := range slices.Chunk(filter, 8) {
		prog = append(prog, unix.SockFilter{Code: binary.NativeEndian.Uint16(b), Jt: b[2], Jf: b[3], K: binary.NativeEndian.Uint32(b[4:])})
	}
	return prog
}
