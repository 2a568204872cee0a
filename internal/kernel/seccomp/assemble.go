package seccomp

import (
	"math"
	"slices"

	"golang.org/x/sys/unix"
)

// assemble lays the graph out as a program.
//
// All jumps of a classic BPF program go forward, so it is written from its end: when a node's turn comes, its successors
// stand already. A conditional jump reaches 255 instructions; where that is too short, the jump goes to
// a copy of the target if that is a return, and else to an unconditional jump, placed behind the node.
func (g *graph) assemble(root ref) ([]unix.SockFilter, error) {
	a := assembler{g: g, place: slices.Repeat([]int{-1}, len(g.nodes))}
	for _, r := range g.order(root) {
		a.emit(r)
		if len(a.out) > unix.BPF_MAXINSNS {
			return nil, errTooLarge
		}
	}
	slices.Reverse(a.out)
	return a.out, nil
}

// order returns the nodes that can be reached, each after its successors, and a load or mask right after its
// successor where possible.
func (g *graph) order(root ref) []ref {
	var out []ref
	seen := make([]bool, len(g.nodes))
	var visit func(ref)
	visit = func(r ref) {
		if r == none || seen[r] {
			return
		}
		seen[r] = true
		visit(g.nodes[r].t)
		visit(g.nodes[r].f)
		out = append(out, r)
	}
	visit(root)
	return out
}

type assembler struct {
	g     *graph
	out   []unix.SockFilter // from the program's end
	place []int             // by node: where in out it stands, or a stand-in for it
}

func (a *assembler) emit(r ref) {
	n := a.g.nodes[r]
	i := unix.SockFilter{Code: n.code, K: n.k}
	switch n.code {
	case opRet:
	case opLoad, opAnd:
		if a.distance(n.t) > 0 {
			a.standIn(n.t)
		}
	default:
		// A stand-in for one successor puts the other further away.
		for a.distance(n.t) > math.MaxUint8 || a.distance(n.f) > math.MaxUint8 {
			if a.distance(n.t) > a.distance(n.f) {
				a.standIn(n.t)
			} else {
				a.standIn(n.f)
			}
		}
		i.Jt, i.Jf = uint8(a.distance(n.t)), uint8(a.distance(n.f))
	}
	a.place[r] = len(a.out)
	a.out = append(a.out, i)
}

// distance is how many instructions the next one has to skip to get to r.
func (a *assembler) distance(r ref) int { return len(a.out) - a.place[r] - 1 }

func (a *assembler) standIn(r ref) {
	i := unix.SockFilter{Code: opJump, K: uint32(a.distance(r))}
	if n := a.g.nodes[r]; n.code == opRet {
		i = unix.SockFilter{Code: opRet, K: n.k}
	}
	a.place[r] = len(a.out)
	a.out = append(a.out, i)
}
