package seccomp

import (
	"errors"
	"math"
	"slices"

	"golang.org/x/sys/unix"
)

// ref is a node of a graph, by its index.
type ref int32

// none is no node.
const none ref = -1

// node is one step of a filter, before it has a place in the program. What it does depends only on the
// accumulator and the call, so two equal nodes are one: the architectures share what they have in common.
type node struct {
	code uint16 // of the instruction: BPF_RET|BPF_K, BPF_LD|BPF_W|BPF_ABS, BPF_ALU|BPF_AND|BPF_K, BPF_JMP|…|BPF_K
	k    uint32
	t, f ref // where to go on: for a jump t when the condition holds, f when not; else t
}

// The instructions in use. They are the few that the kernel (5.11) can evaluate ahead when a filter is loaded:
// for calls that are allowed whatever their arguments it then never runs the filter (kernel/seccomp.c,
// seccomp_is_const_allow). One other instruction on the way to such a call would undo that.
const (
	opRet  = unix.BPF_RET | unix.BPF_K
	opLoad = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	opAnd  = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opEQ   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	opGE   = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	opGT   = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
	opSet  = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
	opJump = unix.BPF_JMP | unix.BPF_JA
)

// maxNodes bounds the memory that a hostile profile can use. The kernel takes 4096 instructions at most.
const maxNodes = 1 << 15

var errTooLarge = errors.New("seccomp profile is too large: its filter exceeds the kernel's limit of 4096 instructions")

// graph is a filter as a graph of nodes without cycles: a node's successors are older than itself.
type graph struct {
	nodes []node
	index map[node]ref
}

func newGraph() *graph { return &graph{index: map[node]ref{}} }

func (g *graph) add(n node) ref {
	if r, ok := g.index[n]; ok {
		return r
	}
	r := ref(len(g.nodes))
	g.nodes = append(g.nodes, n)
	g.index[n] = r
	return r
}

// ret ends the filter with an action.
func (g *graph) ret(action uint32) ref { return g.add(node{opRet, action, none, none}) }

// load puts the word at offset of struct seccomp_data into the accumulator.
func (g *graph) load(offset uint32, next ref) ref { return g.add(node{opLoad, offset, next, none}) }

// and masks the accumulator.
func (g *graph) and(mask uint32, next ref) ref { return g.add(node{opAnd, mask, next, none}) }

// branch compares the accumulator with k.
func (g *graph) branch(code uint16, k uint32, t, f ref) ref {
	if t == f {
		return t
	}
	return g.add(node{code, k, t, f})
}

// span is a range of values with one successor. It begins at lo and ends before the next span; the last one ends
// at the highest value.
type span struct {
	lo uint32
	to ref
}

// merge joins neighbours with the same successor.
func merge(s []span) []span {
	out := s[:0]
	for _, x := range s {
		if len(out) == 0 || out[len(out)-1].to != x.to {
			out = append(out, x)
		}
	}
	return out
}

// nodeCost is what a node costs against one step of one path through it. A node is paid when the filter is loaded
// (copied, checked, translated, compiled: tenths of a microsecond), a step once for every call number in the kernel's
// evaluation ahead (nanoseconds) and in every call that is not decided there.
const nodeCost = 300

// longChain is how many values in a row a path may be compared with, one by one.
const longChain = 8

// maxSpans bounds the dynamic programming, whose time grows with the third power; longer ranges are cut in the middle.
// No profile that somebody wrote for use comes near.
const maxSpans = 256

// tree returns a search tree over the accumulator: the nodes that lead every value to the successor of its span.
// The first span begins at the lowest value that can occur.
//
// It is the cheapest one of two forms, found by dynamic programming: cutting the range in two (one BPF_JGE), and, where
// some single values stand out of a range that otherwise goes to one successor, asking for those one by one
// (a BPF_JEQ each, where cutting takes two).
func (g *graph) tree(spans []span) ref {
	spans = merge(slices.Clone(spans))
	n := len(spans)
	if n == 1 {
		return spans[0].to
	}
	if n > maxSpans {
		mid := n / 2
		high, low := g.tree(spans[mid:]), g.tree(spans[:mid])
		return g.branch(opGE, spans[mid].lo, high, low)
	}
	t := search{g: g, spans: spans, weight: make([]int, n+1), best: make([]choice, n*(n+1))}
	for i := range spans {
		t.weight[i+1] = t.weight[i] + int(min(t.width(i), 64))
	}
	for size := 1; size <= n; size++ {
		for i := 0; i+size <= n; i++ {
			t.best[i*(n+1)+i+size] = t.choose(i, i+size)
		}
	}
	return t.build(0, n)
}

// search holds the state of tree. A range i, j stands for the spans i to j-1.
type search struct {
	g      *graph
	spans  []span
	weight []int    // sums of the spans' widths, where a width counts 64 at most
	best   []choice // by i*(len(spans)+1) + j
}

// choice is the cheapest way to decide a range: to cut it before span cut, or, where cut is 0, to ask for every
// single value that does not go to base.
type choice struct {
	cost int
	cut  int
	base ref
}

func (t *search) at(i, j int) choice { return t.best[i*(len(t.spans)+1)+j] }

// width returns how many values a span has, less those beyond math.MaxUint32.
func (t *search) width(i int) uint32 {
	if i+1 == len(t.spans) {
		return math.MaxUint32 - t.spans[i].lo
	}
	return t.spans[i+1].lo - t.spans[i].lo
}

func (t *search) choose(i, j int) choice {
	if j-i == 1 {
		return choice{base: t.spans[i].to}
	}
	best := t.chain(i, j)
	for cut := i + 1; cut < j; cut++ {
		cost := nodeCost + t.weight[j] - t.weight[i] + t.at(i, cut).cost + t.at(cut, j).cost
		if cost < best.cost {
			best = choice{cost: cost, cut: cut}
		}
	}
	return best
}

// chain is the choice of asking one by one.
func (t *search) chain(i, j int) choice {
	impossible := choice{cost: math.MaxInt}
	if j-i > 2*longChain+1 {
		return impossible
	}
	base := none
	for k := i; k < j; k++ {
		if t.width(k) == 1 || t.spans[k].to == base {
			continue
		}
		if base != none {
			return impossible
		}
		base = t.spans[k].to
	}
	if base == none {
		base = t.spans[i].to
	}
	steps, cost := 0, 0
	for k := i; k < j; k++ {
		if t.spans[k].to != base {
			steps++
			cost += nodeCost + steps
		}
	}
	if steps > longChain {
		return impossible
	}
	return choice{cost: cost + steps*(t.weight[j]-t.weight[i]), base: base}
}

func (t *search) build(i, j int) ref {
	c := t.at(i, j)
	if c.cut != 0 {
		high, low := t.build(c.cut, j), t.build(i, c.cut)
		return t.g.branch(opGE, t.spans[c.cut].lo, high, low)
	}
	r := c.base
	for k := j - 1; k >= i; k-- {
		if t.spans[k].to != c.base {
			r = t.g.branch(opEQ, t.spans[k].lo, t.spans[k].to, r)
		}
	}
	return r
}
