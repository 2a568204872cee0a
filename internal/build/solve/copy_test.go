package solve

import (
	"fmt"
	"strings"
	"testing"

	"gantry/internal/build/graph"
	"gantry/internal/build/source"
)

// TestCopyManyFiles: files that are written side by side are all there; of two matches that come to the same name the later one stays, whole.
func TestCopyManyFiles(t *testing.T) {
	needRoot(t)
	b := open(t, t.TempDir())
	files := map[string]string{}
	for i := range 1000 {
		files[fmt.Sprintf("a0/d%d/f%d", i%7, i)] = strings.Repeat(fmt.Sprintln(i), i%50)
		if i%3 == 0 {
			files[fmt.Sprintf("a1/d%d/f%d", i%7, i)] = fmt.Sprintln("later", i)
		}
	}
	v := copied(graph.Edge{}, local("context"), "/a*", "/all/")
	v.Op.(*graph.File).Actions[0].Copy.Wildcard = true
	r, err := b.solve(folders{trees: map[string]source.Tree{"context": tree(t, files)}}, nil, v)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Release()
	for i := range 1000 {
		name := fmt.Sprintf("d%d/f%d", i%7, i)
		want := files["a0/"+name]
		if later, ok := files["a1/"+name]; ok {
			want = later
		}
		if got := b.read(r, "/all/"+name); got != want {
			t.Fatalf("%s: %q, want %q", name, got, want)
		}
	}
}
