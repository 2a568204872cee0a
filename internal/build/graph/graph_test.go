package graph_test

import (
	"strings"
	"testing"

	"gantry/internal/build/graph"
)

func image(ref string) *graph.Vertex { return &graph.Vertex{Op: &graph.Image{Ref: ref}} }

func run(on *graph.Vertex, args ...string) *graph.Vertex {
	return &graph.Vertex{
		Op:     &graph.Exec{Args: args, Cwd: "/", Mounts: []graph.Mount{{Type: graph.MountBind, Dest: "/"}}},
		Inputs: []graph.Edge{{Vertex: on}},
	}
}

func seal(t *testing.T, roots ...*graph.Vertex) *graph.Graph {
	t.Helper()
	edges := make([]*graph.Edge, len(roots))
	for i, v := range roots {
		edges[i] = &graph.Edge{Vertex: v}
	}
	g, err := graph.Seal(edges...)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestEqualVerticesBecomeOne(t *testing.T) {
	t.Parallel()
	a := run(image("docker.io/library/debian:13"), "make")
	a.Meta.Name = "[a 2/2] RUN make"
	b := run(image("docker.io/library/debian:13"), "make")
	b.Meta.IgnoreCache = true
	m := &graph.Vertex{Op: &graph.Merge{}, Inputs: []graph.Edge{{Vertex: a}, {Vertex: b}}}
	g := seal(t, m)
	if len(g.Vertices) != 3 {
		t.Fatalf("have %d vertices, want image, exec and merge", len(g.Vertices))
	}
	if m.Inputs[0] != m.Inputs[1] || m.Inputs[0].Vertex != g.Vertices[1] {
		t.Error("the inputs of the merge are not the kept vertex")
	}
	if !g.Vertices[1].Meta.IgnoreCache {
		t.Error("one of the two wished not to use the cache, the kept one doesn't")
	}
	for _, v := range g.Vertices {
		if g.Vertex(v.Digest()) != v {
			t.Errorf("%s is not found by its digest", v.Op.Kind())
		}
	}
}

// TestDigestTellsAllApart changes one thing at a time.
func TestDigestTellsAllApart(t *testing.T) {
	t.Parallel()
	base := func() *graph.Vertex {
		v := run(image("docker.io/library/debian:13"), "a", "bc")
		v.Platform = graph.Platform{OS: "linux", Architecture: "amd64"}
		return v
	}
	zero := int64(0)
	seen := map[string]string{}
	for name, change := range map[string]func(*graph.Vertex) *graph.Vertex{
		"nothing":    func(v *graph.Vertex) *graph.Vertex { return v },
		"split":      func(v *graph.Vertex) *graph.Vertex { v.Op.(*graph.Exec).Args = []string{"ab", "c"}; return v },
		"not UTF-8":  func(v *graph.Vertex) *graph.Vertex { v.Op.(*graph.Exec).Args[0] = "\xff"; return v },
		"replaced":   func(v *graph.Vertex) *graph.Vertex { v.Op.(*graph.Exec).Args[0] = "\uFFFD"; return v },
		"platform":   func(v *graph.Vertex) *graph.Vertex { v.Platform.Architecture = "arm64"; return v },
		"os version": func(v *graph.Vertex) *graph.Vertex { v.Platform.OSVersion = "1"; return v },
		"image": func(v *graph.Vertex) *graph.Vertex {
			v.Inputs[0].Vertex = image("docker.io/library/debian:12")
			return v
		},
		"read-only": func(v *graph.Vertex) *graph.Vertex { v.Op.(*graph.Exec).Mounts[0].ReadOnly = true; return v },
		"empty env": func(v *graph.Vertex) *graph.Vertex { v.Op.(*graph.Exec).Env = []string{""}; return v },
		"two empty": func(v *graph.Vertex) *graph.Vertex { v.Op.(*graph.Exec).Env = []string{"", ""}; return v },
		"timestamp 0": func(v *graph.Vertex) *graph.Vertex {
			return &graph.Vertex{Op: &graph.File{Actions: []graph.Action{{MkDir: &graph.MkDir{Path: "/x", Timestamp: &zero}}}}, Inputs: v.Inputs}
		},
		"no timestamp": func(v *graph.Vertex) *graph.Vertex {
			return &graph.Vertex{Op: &graph.File{Actions: []graph.Action{{MkDir: &graph.MkDir{Path: "/x"}}}}, Inputs: v.Inputs}
		},
	} {
		v := change(base())
		seal(t, v)
		if other, ok := seen[string(v.Digest())]; ok {
			t.Errorf("%q and %q have the same digest", name, other)
		}
		seen[string(v.Digest())] = name
	}
}

// TestDigestStays holds the encoding: a changed digest empties every builder's cache.
func TestDigestStays(t *testing.T) {
	t.Parallel()
	v := run(image("docker.io/library/debian:13"), "make")
	v.Meta = graph.Meta{Name: "shown", Stage: "build", Source: []graph.Range{{Start: 1, End: 2}}}
	seal(t, v)
	const want = "sha256:9a5ccab7c10b46816338a2372a2b875997cdc6c5efb0dddf2fd4cb8e66041a5f"
	if got := v.Digest().String(); got != want {
		t.Errorf("digest is %s, was %s", got, want)
	}
}

func TestSealRefuses(t *testing.T) {
	t.Parallel()
	circle := run(image("x"), "a")
	circle.Inputs[0].Vertex = run(circle, "b")
	noRoot := run(image("x"), "a")
	noRoot.Op.(*graph.Exec).Mounts[0].Dest = "/mnt"
	gap := run(image("x"), "a")
	gap.Op.(*graph.Exec).Mounts = append(gap.Op.(*graph.Exec).Mounts, graph.Mount{Type: graph.MountBind, Dest: "/b", Output: 2})
	dropped := run(image("x"), "a")
	dropped.Op.(*graph.Exec).Mounts[0].Output = graph.NoOutput
	for want, v := range map[string]*graph.Vertex{
		"made from itself":            circle,
		"want one mount on /, have 0": noRoot,
		"without gaps":                gap,
		"has no output 0":             dropped,
		"is scratch":                  {Op: &graph.Merge{}, Inputs: []graph.Edge{{Vertex: image("x")}, {}}},
		"want two inputs":             {Op: &graph.Merge{}, Inputs: []graph.Edge{{Vertex: image("x")}}},
		"no such input":               {Op: &graph.File{Actions: []graph.Action{{Input: 0, Rm: &graph.Rm{Path: "/x"}}}}},
		"one thing to do":             {Op: &graph.File{Actions: []graph.Action{{Input: -1, From: -1}}}},
		"where it comes from":         image(""),
		"no operation":                {},
	} {
		if _, err := graph.Seal(&graph.Edge{Vertex: v}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want %q", err, want)
		}
	}
}

// TestSealDeepChain seals as many steps as a hostile Dockerfile has lines.
func TestSealDeepChain(t *testing.T) {
	t.Parallel()
	v := image("x")
	for range 100_000 {
		v = run(v, "true")
	}
	if g := seal(t, v); len(g.Vertices) != 100_001 {
		t.Errorf("have %d vertices", len(g.Vertices))
	}
}

func TestOutline(t *testing.T) {
	t.Parallel()
	v := run(image("x"), "make")
	v.Meta = graph.Meta{Name: "[2/2] RUN make", Source: []graph.Range{{Start: 3, End: 3}}}
	var b strings.Builder
	if err := seal(t, v).Outline(&b); err != nil {
		t.Fatal(err)
	}
	want := `1 image
  Ref = "x"
2 exec ← 1  [2/2] RUN make  (line 3)
  Args = ["make"]
  Cwd = "/"
  Mounts = "1"
  Mounts[0].Dest = "/"
  Mounts[0].Type = "bind"
`
	if b.String() != want {
		t.Errorf("outline is\n%s\nwant\n%s", &b, want)
	}
}
