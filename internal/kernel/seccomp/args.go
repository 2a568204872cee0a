package seccomp

import (
	"cmp"
	"math"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Offsets in struct seccomp_data (linux/seccomp.h), on a little-endian machine.
const (
	offsetNr   = 0
	offsetArch = 4
	offsetArgs = 16
)

// word returns the offset of an argument's lower or upper half.
func word(arg uint, high bool) uint32 {
	off := offsetArgs + 8*uint32(arg)
	if high {
		off += 4
	}
	return off
}

// cond is one condition on an argument, with the meaning that libseccomp gives the values: of a masked comparison
// value is the mask and value2 the datum, of which only the bits in the mask count.
type cond struct {
	arg           uint
	op            specs.LinuxSeccompOperator
	value, value2 uint64
}

// on returns the condition as it holds on an architecture. Where arguments are narrow, the upper halves of the
// profile's values are cut off, as libseccomp does: -1 written as 64 bits means the 32-bit -1 there.
func (c cond) on(arch int) cond {
	if narrow(arch) {
		c.value, c.value2 = uint64(uint32(c.value)), uint64(uint32(c.value2))
	}
	if c.op == specs.OpMaskedEqual {
		c.value2 &= c.value
	}
	return c
}

// always reports whether the condition holds for every argument.
func (c cond) always() bool { return c.op == specs.OpMaskedEqual && c.value == 0 }

// match returns the nodes that go to yes when the condition holds and to no when it does not. Of a narrow argument they
// look at the lower half only.
func (g *graph) match(c cond, wide bool, yes, no ref) ref {
	switch c.op {
	case specs.OpNotEqual:
		yes, no = no, yes
	case specs.OpLessThan, specs.OpLessEqual:
		yes, no = no, yes
	}
	lo, hi := uint32(c.value), uint32(c.value>>32)
	low := func(code uint16) ref { return g.load(word(c.arg, false), g.branch(code, lo, yes, no)) }
	switch c.op {
	case specs.OpEqualTo, specs.OpNotEqual:
		r := low(opEQ)
		if wide {
			r = g.load(word(c.arg, true), g.branch(opEQ, hi, r, no))
		}
		return r
	case specs.OpGreaterThan, specs.OpLessEqual:
		return g.above(c.arg, hi, wide, low(opGT), yes, no)
	case specs.OpGreaterEqual, specs.OpLessThan:
		return g.above(c.arg, hi, wide, low(opGE), yes, no)
	}
	// A masked comparison, half by half.
	r := g.masked(word(c.arg, false), lo, uint32(c.value2), yes, no)
	if wide {
		r = g.masked(word(c.arg, true), hi, uint32(c.value2>>32), r, no)
	}
	return r
}

// above compares upper halves: a greater one decides for yes, a smaller one for no, an equal one leaves it to low.
func (g *graph) above(arg uint, hi uint32, wide bool, low, yes, no ref) ref {
	if !wide {
		return low
	}
	return g.load(word(arg, true), g.branch(opGT, hi, yes, g.branch(opEQ, hi, low, no)))
}

// masked goes to yes when the word at offset has, of the bits in mask, exactly those in datum.
func (g *graph) masked(offset, mask, datum uint32, yes, no ref) ref {
	switch {
	case mask == 0:
		return yes
	case datum == 0:
		return g.load(offset, g.branch(opSet, mask, no, yes))
	case mask == math.MaxUint32:
		return g.load(offset, g.branch(opEQ, datum, yes, no))
	case mask&(mask-1) == 0:
		return g.load(offset, g.branch(opSet, mask, yes, no))
	}
	return g.load(offset, g.and(mask, g.branch(opEQ, datum, yes, no)))
}

// rule is an action for the calls on which all conditions hold.
type rule struct {
	conds  []cond
	action uint32
}

// rules returns the nodes that apply a call's rules: the first whose conditions hold decides, and otherwise fallback.
func (g *graph) rules(list []rule, wide bool, fallback ref) ref {
	if arg, ok := plain(list); ok {
		return g.values(arg, list, wide, fallback)
	}
	r := fallback
	for _, x := range slices.Backward(list) {
		yes := g.ret(x.action)
		for _, c := range slices.Backward(x.conds) {
			yes = g.match(c, wide, yes, r)
		}
		r = yes
	}
	return r
}

// plain reports whether the rules all look at one argument only, and only compare it with values.
func plain(list []rule) (arg uint, ok bool) {
	for i, x := range list {
		if len(x.conds) != 1 || x.conds[0].op == specs.OpMaskedEqual || i > 0 && x.conds[0].arg != arg {
			return 0, false
		}
		arg = x.conds[0].arg
	}
	return arg, len(list) > 0
}

// values applies rules for which plain holds. They cut the argument's values into ranges, which a tree finds faster, and
// with fewer instructions, than the rules' conditions one after the other.
func (g *graph) values(arg uint, list []rule, wide bool, fallback ref) ref {
	cuts := []uint64{0}
	for _, x := range list {
		c := x.conds[0]
		if c.op != specs.OpGreaterThan && c.op != specs.OpLessEqual {
			cuts = append(cuts, c.value)
		}
		if c.op != specs.OpGreaterEqual && c.op != specs.OpLessThan && c.value < math.MaxUint64 {
			cuts = append(cuts, c.value+1)
		}
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	if !wide {
		// The value after the highest one of 32 bits.
		cuts = slices.DeleteFunc(cuts, func(v uint64) bool { return v > math.MaxUint32 })
	}

	// The tree over the upper halves: one value for each in which a cut lies, one span between those.
	var high, low []span
	var last ref
	for i, v := range cuts {
		to := fallback
		if j := slices.IndexFunc(list, func(x rule) bool { return x.conds[0].holds(v) }); j >= 0 {
			to = g.ret(list[j].action)
		}
		hi, lo := uint32(v>>32), uint32(v)
		if len(low) == 0 && lo > 0 {
			low = append(low, span{0, last})
		}
		low, last = append(low, span{lo, to}), to
		if i+1 < len(cuts) && uint32(cuts[i+1]>>32) == hi {
			continue
		}
		high = append(high, span{hi, g.lookup(word(arg, false), low)})
		if hi < math.MaxUint32 && (i+1 == len(cuts) || uint32(cuts[i+1]>>32) > hi+1) {
			high = append(high, span{hi + 1, to})
		}
		low = nil
	}
	if !wide {
		return high[0].to
	}
	return g.lookup(word(arg, true), high)
}

// lookup returns the nodes that go to the successor of the span in which the word at offset lies.
func (g *graph) lookup(offset uint32, spans []span) ref {
	spans = merge(spans)
	if len(spans) == 1 {
		return spans[0].to
	}
	return g.load(offset, g.tree(spans))
}

// holds evaluates the condition.
func (c cond) holds(v uint64) bool {
	d := cmp.Compare(v, c.value)
	switch c.op {
	case specs.OpEqualTo:
		return d == 0
	case specs.OpNotEqual:
		return d != 0
	case specs.OpLessThan:
		return d < 0
	case specs.OpLessEqual:
		return d <= 0
	case specs.OpGreaterThan:
		return d > 0
	case specs.OpGreaterEqual:
		return d >= 0
	}
	return v&c.value == c.value2
}
