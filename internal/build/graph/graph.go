// Package graph is what a build means: a directed acyclic graph of operations, each of which makes file
// systems out of others. It is the contract between those who ask for a build (the Dockerfile's language in
// internal/build/dockerfile, later whoever speaks BuildKit's protocol) and the one who carries it out, and it is
// plain data: nothing in here reads a file or opens a connection.
//
// # The story
//
// A front end makes vertices, each an operation ([Op]) with its inputs, and points a [Result] at the last of
// them. The operations are those of BuildKit's LLB, with LLB's meaning, so that a definition that comes over the
// wire can be told in them without loss:
//
//   - a source brings files from outside: [Image], [Local] (a folder the client offers), [HTTP], [Git], [Blob];
//   - [Exec] runs a program on a root file system, with mounts;
//   - [File] copies, writes, makes directories, removes and links, without running anything;
//   - [Merge] lays file systems over each other, [Diff] is what one has and another has not.
//
// An [Edge] names one output of a vertex; the edge without a vertex is scratch, the empty file system. Sources, Merge and
// Diff have one output, number 0. Exec has one for each mount that says so, File one for each action that says so.
//
// When the front end is done, [Seal] checks the whole, gives each vertex its digest and makes one vertex of
// those that are equal. The digest stands for what is asked for, including all that it is made from: the
// same step of two builds has the same digest, whoever asked and whatever it is called, and so the solver may
// run it once for both. It doesn't stand for contents. What is in a [Local] folder, or behind a tag or an
// address without a checksum, is found out by the solver, whose cache is keyed by that.
//
// What is only told, not asked, is in [Meta] and not in the digest: the name to show, the Dockerfile's lines, the
// wish not to use the cache.
//
// After Seal nothing in a graph may be changed; it may be read by any number of goroutines.
package graph

import (
	"fmt"

	"github.com/opencontainers/go-digest"
)

// Op is an operation: a pointer to one of the types that this package declares. The set is closed.
type Op interface {
	// Kind is the operation's name in outlines, digests and progress: "image", "exec", ….
	Kind() string
	// check reports what is wrong with the operation of a vertex with the given number of inputs.
	check(inputs int) error
	// outputs is the number of file systems that the operation makes.
	outputs() int
}

// Vertex is one operation with what it works on.
type Vertex struct {
	Op Op
	// Inputs are the file systems that Op refers to by index. None of them is scratch: an operation refers to
	// scratch by [Scratch] instead of an index.
	Inputs []Edge
	// Platform is what Image chooses by and what Exec runs as. It is part of the digest of these alone; Seal
	// clears it elsewhere, for the same copy is the same copy on each.
	Platform Platform
	Meta     Meta

	digest digest.Digest
}

// Digest returns what Seal computed, "" before that.
func (v *Vertex) Digest() digest.Digest { return v.digest }

// Scratch is the index that stands for the empty file system, where an operation refers to an input.
const Scratch = -1

// NoOutput is the number of an output that nobody gets: changes to the mount are dropped.
const NoOutput = -1

// Edge is one file system: the output Output of Vertex, or scratch if Vertex is nil.
type Edge struct {
	Vertex *Vertex
	Output int
}

// IsScratch reports whether e is the empty file system.
func (e Edge) IsScratch() bool { return e.Vertex == nil }

// Platform is an OCI platform, comparable. The zero value is none in particular.
type Platform struct {
	OS, Architecture, Variant, OSVersion string
}

// String returns os/architecture[/variant].
func (p Platform) String() string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// Meta is what is known of a vertex that doesn't change what it makes. None of it is in the digest.
type Meta struct {
	// Name is what people are shown, "[build 2/5] RUN make".
	Name string
	// Stage is the stage of the Dockerfile, by name or "stage-N".
	Stage string
	// Command is the instruction as the Dockerfile has it, with variables replaced: "RUN make".
	Command string
	// Source are the lines of the Dockerfile that ask for this.
	Source []Range
	// Internal vertices are not worth a line of progress, unless they fail.
	Internal bool
	// IgnoreCache asks for the operation to be done even if its result is known. It also holds for no one else: the new
	// result replaces the cached one.
	IgnoreCache bool
	// ExportCache says whether the result is worth exporting to a remote cache; nil leaves that to the exporter.
	ExportCache *bool
	// Group gathers vertices under one line of progress.
	Group *Group
	// Proxy is the environment for proxies that an Exec gets. Docker doesn't let it reach the cache or the image, since the
	// same step behind another proxy is the same step.
	Proxy *Proxy
	// Resources limit an Exec; what it makes doesn't depend on them.
	Resources *Resources
}

// Group is a line of progress that several vertices share.
type Group struct {
	ID, Name string
	// Weak vertices may be shown on their own as well.
	Weak bool
}

// Proxy is the environment for proxies; each is set in lower and in upper case unless it is empty.
type Proxy struct {
	HTTP, HTTPS, FTP, No, All string
}

// Resources are an Exec's limits; zero is none.
type Resources struct {
	// Memory and MemorySwap are bytes; MemorySwap is both together, -1 without limit.
	Memory, MemorySwap int64
	CPUShares          uint64
	// CPUPeriod and CPUQuota are microseconds.
	CPUPeriod              uint64
	CPUQuota               int64
	CPUSetCPUs, CPUSetMems string
}

// Range is a run of lines, counted from 1, both included.
type Range struct{ Start, End int }

// Graph is a sealed set of vertices.
type Graph struct {
	// Vertices has each vertex once, after all of its inputs.
	Vertices []*Vertex
	byDigest map[digest.Digest]*Vertex
}

// Vertex returns the vertex of that digest, or nil.
func (g *Graph) Vertex(d digest.Digest) *Vertex { return g.byDigest[d] }

// Seal checks what the roots are made from, computes all digests and lets equal vertices be one: the edges of
// vertices and roots are changed to the one that is kept. What the others wished (Meta.IgnoreCache) the kept
// one wishes, too.
func Seal(roots ...*Edge) (*Graph, error) {
	g := &Graph{byDigest: map[digest.Digest]*Vertex{}}
	kept := map[*Vertex]*Vertex{}
	// A chain may be as long as a Dockerfile, so no recursion.
	type frame struct {
		v    *Vertex
		next int
	}
	open := map[*Vertex]bool{}
	visit := func(root *Vertex) error {
		stack := []frame{{v: root}}
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			v := top.v
			if top.next == 0 {
				open[v] = true
			}
			if top.next < len(v.Inputs) {
				in := v.Inputs[top.next].Vertex
				top.next++
				switch {
				case in == nil:
					return fmt.Errorf("check vertex %q: input %d is scratch", v.Meta.Name, top.next-1)
				case kept[in] != nil:
				case open[in]:
					return fmt.Errorf("check vertex %q: it is made from itself", v.Meta.Name)
				default:
					stack = append(stack, frame{v: in})
				}
				continue
			}
			stack = stack[:len(stack)-1]
			delete(open, v)
			if kept[v] != nil {
				continue
			}
			if err := g.add(v, kept); err != nil {
				return err
			}
		}
		return nil
	}
	for _, r := range roots {
		if r.Vertex == nil {
			continue
		}
		if kept[r.Vertex] == nil {
			if err := visit(r.Vertex); err != nil {
				return nil, err
			}
		}
		r.Vertex = kept[r.Vertex]
		if r.Output < 0 || r.Output >= r.Vertex.Op.outputs() {
			return nil, fmt.Errorf("check result: vertex %q has no output %d", r.Vertex.Meta.Name, r.Output)
		}
	}
	return g, nil
}

// add seals v, whose inputs are sealed.
func (g *Graph) add(v *Vertex, kept map[*Vertex]*Vertex) error {
	if v.Op == nil {
		return fmt.Errorf("check vertex %q: it has no operation", v.Meta.Name)
	}
	if err := v.Op.check(len(v.Inputs)); err != nil {
		return fmt.Errorf("check vertex %q (%s): %w", v.Meta.Name, v.Op.Kind(), err)
	}
	for i := range v.Inputs {
		in := &v.Inputs[i]
		in.Vertex = kept[in.Vertex]
		if in.Output < 0 || in.Output >= in.Vertex.Op.outputs() {
			return fmt.Errorf("check vertex %q: input %d: vertex %q has no output %d", v.Meta.Name, i, in.Vertex.Meta.Name, in.Output)
		}
	}
	switch v.Op.(type) {
	case *Image, *Exec:
	default:
		v.Platform = Platform{}
	}
	v.digest = digestOf(v)
	if same := g.byDigest[v.digest]; same != nil {
		same.Meta.IgnoreCache = same.Meta.IgnoreCache || v.Meta.IgnoreCache
		kept[v] = same
		return nil
	}
	kept[v] = v
	g.byDigest[v.digest] = v
	g.Vertices = append(g.Vertices, v)
	return nil
}

// Outputs is how many outputs the vertex has.
func (v *Vertex) Outputs() int { return v.Op.outputs() }
