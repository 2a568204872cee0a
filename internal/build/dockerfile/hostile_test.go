package dockerfile_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"

	"gantry/internal/build/dockerfile"
	"gantry/internal/build/dockerfile/corpus"
	"gantry/internal/build/graph"
	"gantry/internal/errs"
)

// many is how many lines a hostile Dockerfile has; what costs more than it should with these costs too much.
const many = 4_000

// TestHostile converts, or refuses, what is meant to cost time or memory. That it returns at all is the test.
func TestHostile(t *testing.T) {
	t.Parallel()
	repeat := func(head string, line func(i int) string) string {
		var b strings.Builder
		b.WriteString(head)
		for i := range many {
			b.WriteString(line(i))
		}
		return b.String()
	}
	long := many
	if os.Getenv("GANTRY_SOAK") != "" {
		long = 100_000
	}
	const tooMuch = "too much of too little"
	for name, c := range map[string]struct{ file, want string }{
		"run":            {"FROM busybox\n" + strings.Repeat("RUN true\n", long), ""},
		"env":            {repeat("FROM busybox\n", func(i int) string { return fmt.Sprintf("ENV V%d=x\n", i) }), ""},
		"env and run":    {repeat("FROM busybox\n", func(i int) string { return fmt.Sprintf("ENV V%d=%s\nRUN true\n", i, strings.Repeat("x", 100)) }), tooMuch},
		"arg and run":    {repeat("FROM busybox\n", func(i int) string { return fmt.Sprintf("ARG V%d=x\nRUN true\n", i) }), tooMuch},
		"copy":           {repeat("FROM busybox\n", func(i int) string { return fmt.Sprintf("COPY f%d /\n", i) }), ""},
		"expose":         {repeat("FROM busybox\n", func(int) string { return "EXPOSE 1-65535\n" }), tooMuch},
		"stages":         {repeat("", func(int) string { return "FROM scratch\n" }), ""},
		"chain":          {repeat("FROM busybox AS s0\n", func(i int) string { return fmt.Sprintf("FROM s%d AS s%d\nLABEL l%d=1\n", i, i+1, i) }), tooMuch},
		"needs":          {repeat("FROM scratch AS s0\n", func(i int) string { return fmt.Sprintf("FROM scratch AS s%d\nCOPY --from=s%d / /\n", i+1, i) }), ""},
		"images":         {repeat("FROM scratch\n", func(i int) string { return fmt.Sprintf("COPY --from=busybox:%d / /\n", i) }), "not found"},
		"globals":        {repeat("", func(i int) string { return fmt.Sprintf("ARG A%d=x\n", i) }) + "FROM busybox", ""},
		"warnings":       {repeat("FROM busybox\n", func(i int) string { return fmt.Sprintf("ENV V%d=$NOPE%d\n", i, i) }), ""},
		"continued":      {repeat("FROM busybox\nRUN true", func(int) string { return "\\\n  && true" }), ""},
		"continued long": {"FROM busybox\nRUN true" + strings.Repeat("\\\n"+strings.Repeat("x", 100), 100_000), "too many lines"},
		"empty lines":    {repeat("FROM busybox\n", func(int) string { return "\n" }), ""},
		"comments":       {repeat("FROM busybox\n", func(int) string { return "# x\n" }), ""},
		"triggers":       {repeat("FROM busybox AS a\n", func(int) string { return "ONBUILD RUN true\n" }) + "FROM a\n", ""},
		"onbuild onbuild": {"FROM busybox\n" + strings.Repeat("ONBUILD \\\n", many) + "RUN true",
			"dockerfile parse error on line 2: Chaining ONBUILD"},
		"heredoc":          {"FROM busybox\nCOPY <<EOF /x\n" + repeat("", func(int) string { return "line\n" }) + "EOF\n", ""},
		"heredocs":         {repeat("FROM busybox\n", func(i int) string { return fmt.Sprintf("RUN <<E%d\nE%d\n", i, i) }), ""},
		"mounts":           {"FROM busybox\nRUN " + repeat("", func(int) string { return "--mount=type=tmpfs,target=/x \\\n" }) + "true", ""},
		"double":           {"FROM busybox\nENV A=aaaaaaaaaaaaaaaa\n" + strings.Repeat("ENV A=$A$A\n", 40), "make it too long"},
		"double arg":       {"ARG A=aaaaaaaaaaaaaaaa\n" + strings.Repeat("ARG A=$A$A\n", 40) + "FROM busybox\n", "make it too long"},
		"many references":  {"FROM busybox\nENV A=" + strings.Repeat("a", 60000) + "\nENV B=" + strings.Repeat("$A", 30000), "make it too long"},
		"replace":          {"FROM busybox\nENV A=" + strings.Repeat("a", 60000) + "\nENV B=${A//a/$A}\n", "make it too long"},
		"replace nested":   {"FROM busybox\nENV A=" + strings.Repeat("a", 2000) + "\nENV B=${A//a/${A//a/${A//a/$A}}}\n", "make it too long"},
		"nested":           {"FROM busybox\nENV A=" + strings.Repeat("${A:-", 10000) + strings.Repeat("}", 10000), "make it too long"},
		"nested lines":     {"FROM busybox\nENV A=" + strings.Repeat("${A:-\\\n", many) + "x", "make it too long"},
		"nested run":       {"FROM busybox\nRUN " + strings.Repeat("${A:-\\\n", many) + "x", ""},
		"from":             {"FROM " + strings.Repeat("${A:-", 10000), "make it too long"},
		"long line":        {"FROM busybox\nRUN " + strings.Repeat("x", 70000), "max allowed size"},
		"json":             {"FROM busybox\nRUN " + strings.Repeat("[", 60000), ""},
		"too large":        {strings.Repeat("# comment\n", 2<<20), "too large"},
		"labels on copies": {repeat("FROM busybox\n", func(i int) string { return fmt.Sprintf("LABEL l%d=%s\n", i, strings.Repeat("x", 50)) }), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := dockerfile.Convert(t.Context(), []byte(c.file), loadImages(t), options())
			switch {
			case c.want == "" && err != nil:
				t.Fatalf("error is %.200s", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Fatalf("error is %.200v, want %q", err, c.want)
			}
			if err == nil {
				checkSound(t, r)
			}
		})
	}
}

// TestHostileImage builds on an image that wants too much.
func TestHostileImage(t *testing.T) {
	t.Parallel()
	imgs := loadImages(t)
	deep := dockerspec.DockerOCIImage{}
	for range many {
		deep.Config.OnBuild = append(deep.Config.OnBuild, "RUN true")
	}
	deep.Config.Env = []string{"NOEQUALS", "=x", "A=1", "A=2"}
	imgs["docker.io/library/deep:latest"] = deep
	if _, err := dockerfile.Convert(t.Context(), []byte("FROM deep\nRUN true"), imgs, options()); err != nil {
		t.Error(err)
	}
	deep.Config.OnBuild = []string{strings.Repeat("ONBUILD \\\n", many) + "RUN true"}
	imgs["docker.io/library/deep:latest"] = deep
	if _, err := dockerfile.Convert(t.Context(), []byte("FROM deep\nRUN true"), imgs, options()); !errs.Invalid.Is(err) {
		t.Errorf("error is %v", err)
	}
}

func options() dockerfile.Options {
	return dockerfile.Options{BuildPlatform: graph.Platform{OS: "linux", Architecture: "amd64"}}
}

// FuzzConvert converts anything, twice: it must not crash, and not depend on anything else.
func FuzzConvert(f *testing.F) {
	cases, err := corpus.Read("testdata")
	if err != nil {
		f.Fatal(err)
	}
	for _, c := range cases {
		f.Add([]byte(c.Section("Dockerfile")), false)
	}
	f.Add([]byte("FROM base:onbuild\nCOPY --link <<A <<B /\nA\nB\nRUN --mount=from=busybox,target=x true"), true)
	imgs := loadImages(f)
	f.Fuzz(func(t *testing.T, data []byte, classic bool) {
		o := options()
		o.Classic = classic
		one, err := dockerfile.Convert(t.Context(), data, imgs, o)
		two, again := dockerfile.Convert(t.Context(), data, imgs, o)
		// The parser's guess at what was meant, among names that are equally far, is another each time.
		words := func(err error) string {
			s, _, _ := strings.Cut(fmt.Sprint(err), " (did you mean")
			return s
		}
		if words(err) != words(again) {
			t.Fatalf("two errors: %v, %v", err, again)
		}
		if err != nil {
			if err.Error() == "" {
				t.Fatal("an error without words")
			}
			return
		}
		checkSound(t, one)
		for i, v := range one.Graph.Vertices {
			if v.Digest() != two.Graph.Vertices[i].Digest() {
				t.Fatalf("vertex %d has two digests", i)
			}
		}
	})
}
