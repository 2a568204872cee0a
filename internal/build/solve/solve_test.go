package solve

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"gantry/internal/build/executor"
	"gantry/internal/build/graph"
	"gantry/internal/build/source"
	"gantry/internal/errs"
	"gantry/internal/layer"
	"gantry/internal/state"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("this test needs root")
		}
		t.Skip("this test needs root")
	}
}

// bench is a solver on a data-root of its own, whose programs are Go functions by the name in Args[0]. They write into the upper directory.
type bench struct {
	t        testing.TB
	root     string
	programs map[string]func(ctx context.Context, upper string, r *executor.Run) error
	runs     atomic.Int64
	*Solver
	close func()
}

func open(t testing.TB, root string) *bench {
	t.Helper()
	st, err := state.Open(filepath.Join(root, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	layers, err := layer.Open(root, st, layer.Options{})
	if err != nil {
		t.Fatal(err)
	}
	cache, err := OpenCache(st, layers)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, root: root, programs: map[string]func(context.Context, string, *executor.Run) error{}}
	if b.Solver, err = Open(Options{Cache: cache, Layers: layers, Runner: b, Dir: filepath.Join(root, "build")}); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	b.close = func() {
		once.Do(func() {
			b.Solver.Close()
			layers.Close()
			st.Close()
		})
	}
	t.Cleanup(b.close)
	return b
}

func (b *bench) Run(ctx context.Context, r *executor.Run) error {
	b.runs.Add(1)
	return b.programs[r.Op.Args[0]](ctx, filepath.Join(r.Root.Base, r.Root.Upper), r)
}

// folders is a client with folders, secrets, and nothing else.
type folders struct {
	trees   map[string]source.Tree
	secrets map[string]string
}

func (f folders) Folder(_ context.Context, l *graph.Local) (source.Tree, error) {
	if t := f.trees[l.Name]; t != nil {
		return t, nil
	}
	return nil, errs.NotFound.Errorf("no folder %s", l.Name)
}

func (f folders) Secret(_ context.Context, id string) ([]byte, error) {
	if s, ok := f.secrets[id]; ok {
		return []byte(s), nil
	}
	return nil, errs.NotFound.Errorf("no secret %s", id)
}

func (folders) Agent(context.Context, string) (net.Conn, error) {
	return nil, errs.NotFound.Errorf("no agent")
}

func tree(t testing.TB, files map[string]string) source.Tree {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, data := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(data))
	}
	w.Close()
	a, err := source.ReadArchive(t.Context(), &b, t.TempDir(), source.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

func program(on graph.Edge, args ...string) *graph.Vertex {
	v := &graph.Vertex{Op: &graph.Exec{Args: args, Cwd: "/", Mounts: []graph.Mount{{Type: graph.MountBind, Dest: "/", Input: graph.Scratch}}}}
	if !on.IsScratch() {
		v.Inputs = []graph.Edge{on}
		v.Op.(*graph.Exec).Mounts[0].Input = 0
	}
	return v
}

func copied(on graph.Edge, from *graph.Vertex, src, dest string) *graph.Vertex {
	v := &graph.Vertex{Inputs: []graph.Edge{{Vertex: from}}}
	a := graph.Action{Input: graph.Scratch, From: 0, Copy: &graph.Copy{Src: src, Dest: dest, Contents: true, FollowLinks: true, CreateDest: true}}
	if !on.IsScratch() {
		v.Inputs, a.Input, a.From = []graph.Edge{on, {Vertex: from}}, 0, 1
	}
	v.Op = &graph.File{Actions: []graph.Action{a}}
	return v
}

func local(name string) *graph.Vertex { return &graph.Vertex{Op: &graph.Local{Name: name}} }

// solve seals and solves what root needs, and saves it.
func (b *bench) solve(client Client, sink Sink, root *graph.Vertex) (*Solved, error) {
	b.t.Helper()
	e := graph.Edge{Vertex: root}
	g, err := graph.Seal(&e)
	if err != nil {
		b.t.Fatal(err)
	}
	r, err := b.Solve(context.Background(), &Job{Graph: g, Roots: []graph.Edge{e}, Client: client, Sink: sink})
	if err != nil {
		return nil, err
	}
	return r, r.Save(context.Background())
}

// read returns a file of what was solved.
func (b *bench) read(r *Solved, name string) string {
	b.t.Helper()
	data, err := b.readFile(context.Background(), r.Roots[0], name)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// TestCacheByContent: what a copy takes counts, not when, nor by which way; and it is known after a restart.
func TestCacheByContent(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	b := open(t, root)
	program1 := func(_ context.Context, upper string, _ *executor.Run) error {
		return os.WriteFile(filepath.Join(upper, "random"), []byte(strconv.Itoa(os.Getpid())), 0o644)
	}
	b.programs["make"] = program1
	build := func(b *bench, files map[string]string) (*Solved, int64) {
		t.Helper()
		before := b.runs.Load()
		base := program(graph.Edge{}, "make", "base")
		c := copied(graph.Edge{Vertex: base}, local("context"), "/src", "/dst")
		r, err := b.solve(folders{trees: map[string]source.Tree{"context": tree(t, files)}}, nil, program(graph.Edge{Vertex: c}, "make", "end"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.Release)
		return r, b.runs.Load() - before
	}
	r, n := build(b, map[string]string{"src/a": "1", "other": "x"})
	if n != 2 || b.read(r, "/dst/a") != "1" {
		t.Fatalf("%d runs; /dst/a is %q", n, b.read(r, "/dst/a"))
	}
	if _, n := build(b, map[string]string{"src/a": "1", "other": "y"}); n != 0 {
		t.Errorf("a file that is not copied had %d programs run", n)
	}
	if _, n := build(b, map[string]string{"src/a": "2"}); n != 1 {
		t.Errorf("a changed file had %d programs run, not the one behind it", n)
	}
	r.Release()
	b.close()
	b = open(t, root)
	b.programs["make"] = program1
	r, n = build(b, map[string]string{"src/a": "1"})
	if n != 0 || b.read(r, "/dst/a") != "1" {
		t.Errorf("after a restart %d programs ran; /dst/a is %q", n, b.read(r, "/dst/a"))
	}
}

// TestSameContentByAnotherWay: a stage that is made anew, with the same files, changes nothing for who copies from it.
func TestSameContentByAnotherWay(t *testing.T) {
	needRoot(t)
	b := open(t, t.TempDir())
	b.programs["stage"] = func(_ context.Context, upper string, r *executor.Run) error {
		return os.WriteFile(filepath.Join(upper, "artifact"), []byte("the same"), 0o644)
	}
	b.programs["end"] = b.programs["stage"]
	build := func(how string) int64 {
		before := b.runs.Load()
		c := copied(graph.Edge{}, program(graph.Edge{}, "stage", how), "/artifact", "/a")
		r, err := b.solve(folders{}, nil, program(graph.Edge{Vertex: c}, "end"))
		if err != nil {
			t.Fatal(err)
		}
		r.Release()
		return b.runs.Load() - before
	}
	if n := build("one"); n != 2 {
		t.Errorf("%d programs ran at first", n)
	}
	if n := build("another"); n != 1 {
		t.Errorf("%d programs ran the second time, not the stage alone", n)
	}
}

// TestSharedAndCanceled: two builds share a step; the one that goes does not end it for the other; when both go, it ends.
func TestSharedAndCanceled(t *testing.T) {
	needRoot(t)
	b := open(t, t.TempDir())
	began, goOn, ended := make(chan struct{}, 8), make(chan struct{}), make(chan error, 8)
	b.programs["wait"] = func(ctx context.Context, upper string, _ *executor.Run) error {
		began <- struct{}{}
		select {
		case <-goOn:
			ended <- nil
			return nil
		case <-ctx.Done():
			ended <- ctx.Err()
			return ctx.Err()
		}
	}
	start := func(ctx context.Context) chan error {
		e := graph.Edge{Vertex: program(graph.Edge{}, "wait")}
		g, err := graph.Seal(&e)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			r, err := b.Solve(ctx, &Job{Graph: g, Roots: []graph.Edge{e}, Client: folders{}})
			if err == nil {
				r.Release()
			}
			done <- err
		}()
		return done
	}
	first, leave := context.WithCancel(context.Background())
	one := start(first)
	<-began
	leave()
	if err := <-one; !errors.Is(err, context.Canceled) {
		t.Errorf("who went has %v", err)
	}
	if err := <-ended; err == nil {
		t.Error("a step that nobody wants went on")
	}
	one, two := start(context.Background()), start(context.Background())
	<-began
	close(goOn)
	for _, c := range []chan error{one, two} {
		if err := <-c; err != nil {
			t.Error(err)
		}
	}
	if n := b.runs.Load(); n != 2 {
		t.Errorf("%d programs ran, not one canceled and one for both", n)
	}
}

// TestSecretsStayOut: a secret reaches the program, and nothing else that stays.
func TestSecretsStayOut(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	b := open(t, root)
	const secret = "the-secret-that-nobody-may-see"
	b.programs["use"] = func(_ context.Context, upper string, r *executor.Run) error {
		if len(r.Mounts) != 1 || string(r.Mounts[0].Secret) != secret {
			return fmt.Errorf("the mounts are %v", r.Mounts)
		}
		return os.WriteFile(filepath.Join(upper, "used"), nil, 0o644)
	}
	build := func(value string) {
		v := program(graph.Edge{}, "use")
		op := v.Op.(*graph.Exec)
		op.Mounts = append(op.Mounts, graph.Mount{Type: graph.MountSecret, Dest: "/run/secrets/s", ID: "s", Input: graph.Scratch, Output: graph.NoOutput, Mode: 0o400})
		r, err := b.solve(folders{secrets: map[string]string{"s": value}}, nil, v)
		if err != nil {
			t.Fatal(err)
		}
		r.Release()
	}
	build(secret)
	build("another") // the cache knows the step by the secret's name
	if n := b.runs.Load(); n != 1 {
		t.Errorf("%d programs ran", n)
	}
	b.close()
	filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if data, _ := os.ReadFile(p); bytes.Contains(data, []byte(secret)) {
				t.Errorf("%s holds the secret", p)
			}
		}
		return nil
	})
}

// TestFailedStep: the error names its vertex; what was done before stays known.
func TestFailedStep(t *testing.T) {
	needRoot(t)
	b := open(t, t.TempDir())
	b.programs["ok"] = func(context.Context, string, *executor.Run) error { return nil }
	b.programs["bad"] = func(context.Context, string, *executor.Run) error { return &executor.ExitError{Code: 7} }
	bad := program(graph.Edge{Vertex: program(graph.Edge{}, "ok")}, "bad")
	_, err := b.solve(folders{}, nil, bad)
	var v *VertexError
	var exit *executor.ExitError
	if !errors.As(err, &v) || !errors.As(err, &exit) || v.Vertex != bad || exit.Code != 7 {
		t.Errorf("the error is %#v", err)
	}
	b.programs["bad"] = b.programs["ok"]
	r, err := b.solve(folders{}, nil, program(graph.Edge{Vertex: program(graph.Edge{}, "ok")}, "bad"))
	if err != nil {
		t.Fatal(err)
	}
	r.Release()
	if n := b.runs.Load(); n != 3 {
		t.Errorf("%d programs ran", n)
	}
	if !strings.Contains(exit.Error(), "exit code: 7") {
		t.Error(exit)
	}
}

// TestPruneGivesBack: what nobody uses goes, its layers too.
func TestPruneGivesBack(t *testing.T) {
	needRoot(t)
	b := open(t, t.TempDir())
	b.programs["make"] = func(_ context.Context, upper string, _ *executor.Run) error {
		return os.WriteFile(filepath.Join(upper, "f"), make([]byte, 1000), 0o644)
	}
	r, err := b.solve(folders{}, nil, program(graph.Edge{}, "make"))
	if err != nil {
		t.Fatal(err)
	}
	chain := r.Roots[0].Chain()
	if gone, err := b.Prune(t.Context(), PruneOptions{All: true}); err != nil || len(gone) != 0 {
		t.Errorf("while it is used, %v went (%v)", gone, err)
	}
	r.Release()
	gone, err := b.Prune(t.Context(), PruneOptions{All: true})
	if err != nil || len(gone) != 1 || gone[0].Size != 1000 {
		t.Errorf("%v went (%v)", gone, err)
	}
	if _, err := b.Layers.Collect(t.Context(), func(func(digest.Digest)) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Layers.Get(chain); !errs.NotFound.Is(err) {
		t.Errorf("the layer is still there: %v", err)
	}
}

func TestChmod(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		how  string
		mode uint32
		want uint32
	}{
		{"0644", layer.TypeFile | 0o777, 0o644}, {"755", layer.TypeDir | 0o700, 0o755}, {"u+x", layer.TypeFile | 0o644, 0o744}, {"a=rX", layer.TypeFile | 0o644, 0o444},
		{"a=rX", layer.TypeDir | 0o700, 0o555}, {"go-rwx", layer.TypeFile | 0o777, 0o700}, {"u=rwX,go=rX", layer.TypeFile | 0o711, 0o755}, {"+t", layer.TypeDir | 0o777, 0o1777},
		{"u+s", layer.TypeFile | 0o755, 0o4755}, {"g=u", layer.TypeFile | 0o640, 0o660},
	} {
		if got, err := chmod(c.how, c.mode); err != nil || got != c.want {
			t.Errorf("%s of %o is %o (%v), not %o", c.how, c.mode, got, err, c.want)
		}
	}
	for _, bad := range []string{"8", "u", "z+x", "u+q", "12345678"} {
		if got, err := chmod(bad, 0o644); err == nil {
			t.Errorf("%s is %o", bad, got)
		}
	}
}

// BenchmarkCopy copies 5,000 small files, names the layer and keeps it.
func BenchmarkCopy(b *testing.B) {
	needRoot(b)
	s := open(b, b.TempDir())
	files := map[string]string{}
	for i := range 5000 {
		files[fmt.Sprintf("src/d%d/f%d", i%50, i)] = strings.Repeat("x", 1000+i%13)
	}
	client := folders{trees: map[string]source.Tree{"context": tree(b, files)}}
	b.ResetTimer()
	for i := range b.N {
		r, err := s.solve(client, nil, copied(graph.Edge{}, local("context"), "/src", "/dst"+strconv.Itoa(i)))
		if err != nil {
			b.Fatal(err)
		}
		r.Release()
	}
}
