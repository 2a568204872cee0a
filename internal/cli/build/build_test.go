package build

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/pflag"

	"gantry/internal/build/graph"
	"gantry/internal/build/session/wire"
	"gantry/internal/cli/command"
	"gantry/internal/cli/iostreams"
)

// describe parses a command line and makes its plan, as if stdin had in.
func describe(t *testing.T, in string, args ...string) (*plan, string, error) {
	t.Helper()
	var out, errOut bytes.Buffer
	env := &command.Env{IO: iostreams.Test(strings.NewReader(in), &out, &errOut), Prog: "gantry", Path: "build", Getenv: func(string) string { return "" }}
	o := &options{}
	fs := pflag.NewFlagSet("build", pflag.ContinueOnError)
	o.register(fs)
	if err := fs.Parse(args); err != nil {
		return nil, "", err
	}
	if fs.NArg() != 1 {
		t.Fatalf("%q: %d arguments", args, fs.NArg())
	}
	p, err := o.plan(t.Context(), env, fs.Arg(0))
	if p != nil {
		t.Cleanup(p.close)
	}
	return p, errOut.String(), err
}

func put(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFlags(t *testing.T) {
	for _, verb := range []command.Flags{Build, Prune, DiskUsage} {
		fs := pflag.NewFlagSet("", pflag.ContinueOnError)
		verb(fs, &command.Env{})
		fs.VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("--%s has no words", f.Name)
			}
		})
	}
	dir := t.TempDir()
	put(t, dir, map[string]string{"Dockerfile": "FROM scratch\n", "other": "FROM x\n", ".dockerignore": "# no\nskip\n!skip/me\n", "other.dockerignore": "all\n", "s": "secret"})
	t.Setenv("FROM_ENV", "value")
	p, _, err := describe(t, "", "-t", "a", "-t", "b:1", "--build-arg", "X=1", "--build-arg", "FROM_ENV", "--build-arg", "NOWHERE", "--label", "l=v=w", "--secret", "id=t,src="+filepath.Join(dir, "s"),
		"--secret", "id=e,env=FROM_ENV", "--add-host", "db:10.0.0.1", "--add-host", "six=[::1]", "--ulimit", "nofile=10:20", "--shm-size", "1m", "-m", "2m", "--memory-swap", "-1", "--network", "none",
		"--target", "t", "--no-cache", "--no-cache-filter", "a,b", "--pull", "--platform", "linux/arm64/v8", "--build-context", "Base=docker-image://x", "--build-context", "more="+dir, "--rm", "--provenance=false", "--sbom", dir)
	if err != nil {
		t.Fatal(err)
	}
	r := p.request
	if string(r.Dockerfile) != "FROM scratch\n" || r.File != "Dockerfile" || r.Target != "t" || !r.NoCache || !r.Pull || r.Network != "none" || r.ShmSize != 1<<20 || r.Resources.Memory != 2<<20 || r.Resources.MemorySwap != -1 {
		t.Errorf("request: %+v", r)
	}
	if *r.Args["X"] != "1" || *r.Args["FROM_ENV"] != "value" || r.Args["NOWHERE"] != nil || r.Labels["l"] != "v=w" || !slices.Equal(r.NoCacheFilter, []string{"a", "b"}) {
		t.Errorf("request: %+v", r)
	}
	if r.Platforms[0].Variant != "v8" || !slices.Equal(r.ExtraHosts, []string{"db:10.0.0.1", "six:::1"}) || r.Ulimits[0] != (graph.Ulimit{Name: "nofile", Soft: 10, Hard: 20}) {
		t.Errorf("request: %+v", r)
	}
	if r.Contexts["base"] != "docker-image://x" || r.Contexts["more"] != "local:more" || p.offer.Folders["more"].Path != dir || !slices.Equal(p.offer.Folders["context"].Exclude, []string{"skip", "!skip/me"}) {
		t.Errorf("contexts: %+v, %+v", r.Contexts, p.offer.Folders)
	}
	if len(r.Outputs) != 1 || r.Outputs[0].Type != "image" || !slices.Equal(r.Outputs[0].Names, []string{"a", "b:1"}) {
		t.Errorf("outputs: %+v", r.Outputs)
	}
	for id, want := range map[string]string{"t": "secret", "e": "value"} {
		if data, err := p.offer.Secrets[id](); err != nil || string(data) != want {
			t.Errorf("secret %s: %q, %v", id, data, err)
		}
	}
	if p, _, err = describe(t, "", "-f", filepath.Join(dir, "other"), dir); err != nil || !slices.Equal(p.offer.Folders["context"].Exclude, []string{"all"}) || string(p.request.Dockerfile) != "FROM x\n" {
		t.Errorf("-f with a .dockerignore of its own: %v", err)
	}
	if p, _, err = describe(t, "FROM stdin\n", "-f", "-", dir); err != nil || string(p.request.Dockerfile) != "FROM stdin\n" || p.offer.Folders["context"].Path != dir {
		t.Errorf("-f -: %v", err)
	}
	if p, _, err = describe(t, "FROM stdin\n", "-"); err != nil || string(p.request.Dockerfile) != "FROM stdin\n" {
		t.Errorf("a Dockerfile alone: %v", err)
	}
	if p, _, err = describe(t, "", "https://example.org/repo.git#main"); err != nil || p.request.Remote != "https://example.org/repo.git#main" || p.request.Dockerfile != nil {
		t.Errorf("an address: %v", err)
	}
	out := filepath.Join(dir, "out")
	if p, _, err = describe(t, "", "-t", "n", "-o", out, "-o", "type=oci,dest="+out+".tar", "-o", "type=registry", "--load", dir); err != nil || len(p.request.Outputs) != 4 || p.offer.Outputs[0] == nil || p.offer.Outputs[1] == nil || !slices.Equal(p.push, []string{"n"}) {
		t.Errorf("outputs: %+v, %v", p, err)
	}
}

func TestBadFlags(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, map[string]string{"Dockerfile": "FROM scratch\n", "file": ""})
	t.Setenv("SSH_AUTH_SOCK", "")
	for _, c := range []struct {
		want string
		args []string
	}{
		{`path "/no/such" not found`, []string{"/no/such"}},
		{"is not a folder", []string{filepath.Join(dir, "file")}},
		{"failed to read dockerfile", []string{"-f", "/no/such", dir}},
		{"can't use stdin for both", []string{"-f", "-", "-"}},
		{"invalid reference format", []string{"-t", "Bad Name", dir}},
		{"no id", []string{"--secret", "type=file", dir}},
		{"unexpected key", []string{"--secret", "id=a,mode=1", dir}},
		{"no such file", []string{"--secret", "id=a,src=/no/such", dir}},
		{"key=value", []string{"--secret", "nonsense", dir}},
		{"SSH_AUTH_SOCK is not set", []string{"--ssh", "default", dir}},
		{"not an agent's socket", []string{"--ssh", "a=" + filepath.Join(dir, "file"), dir}},
		{"should be name=source", []string{"--build-context", "x", dir}},
		{"the name is taken", []string{"--build-context", "context=.", dir}},
		{"unknown type", []string{"-o", "type=floppy,dest=x", dir}},
		{"needs a folder", []string{"-o", "type=local", dir}},
		{"unknown key", []string{"-o", "type=local,dset=x", dir}},
		{"needs a name", []string{"-o", "type=registry", dir}},
		{"needs a name", []string{"--push", dir}},
		{"should be like linux/amd64", []string{"--platform", "amd64", dir}},
		{"bad format for add-host", []string{"--add-host", "x", dir}},
		{"can be allowed", []string{"--allow", "everything", dir}},
		{"invalid progress", []string{"--progress", "loud", dir}},
		{"not a console", []string{"--progress", "tty", dir}},
		{"--squash is not supported", []string{"--squash", dir}},
		{"unknown cache exporter", []string{"--cache-to", "type=gha", dir}},
		{"--annotation is not supported", []string{"--annotation", "a=b", dir}},
		{"should be seconds", []string{"--build-arg", "SOURCE_DATE_EPOCH=tomorrow", dir}},
		{"it has no name", []string{"--build-arg", "=x", dir}},
	} {
		if _, _, err := describe(t, "", c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("build %q: %v, want %q", c.args, err, c.want)
		}
	}
}

// play gives a display the events of a build that fails in its third step.
func play(d display, b []byte) {
	at := time.Unix(1000, 0)
	tick := func(ms int) time.Time { return at.Add(time.Duration(ms) * time.Millisecond) }
	a, r, f := digest.FromString("a"), digest.FromString("r"), digest.FromString("f")
	d.event(wire.Event{Kind: "planned", Time: at, Vertices: []wire.Vertex{{Digest: a, Name: "[1/3] FROM busybox"}, {Digest: r, Name: "[2/3] RUN echo hi", Source: []graph.Range{{Start: 2, End: 2}}},
		{Digest: f, Name: "[3/3] RUN false", Source: []graph.Range{{Start: 3, End: 3}}}},
		Warnings: []graph.Warning{{Rule: "StageNameCasing", Message: "Stage name 'A' should be lowercase", Description: "Stage names should be lowercase", Source: []graph.Range{{Start: 1, End: 1}}}}})
	d.event(wire.Event{Kind: "cached", Time: tick(10), Vertex: a})
	d.event(wire.Event{Kind: "started", Time: tick(20), Vertex: r, Why: "no such step before"})
	d.event(wire.Event{Kind: "logged", Time: tick(120), Vertex: r, Data: []byte("hi\nhal"), Stream: 1})
	d.event(wire.Event{Kind: "logged", Time: tick(140), Vertex: r, Data: []byte("f\n"), Stream: 1})
	d.event(wire.Event{Kind: "completed", Time: tick(320), Vertex: r})
	d.event(wire.Event{Kind: "started", Time: tick(330), Vertex: f})
	d.event(wire.Event{Kind: "logged", Time: tick(340), Vertex: f, Data: []byte("oh no"), Stream: 2})
	d.event(wire.Event{Kind: "failed", Time: tick(350), Vertex: f, Error: "exit code: 1"})
	d.event(wire.Event{Kind: wire.Ended, Time: tick(360), Error: "process failed"})
	d.close()
	d.report("", b)
}

const dockerfile = "FROM busybox AS A\nRUN echo hi\nRUN false\nCMD x\n"

func TestPlain(t *testing.T) {
	var out, errOut bytes.Buffer
	env := &command.Env{IO: iostreams.Test(nil, &out, &errOut)}
	d, err := newDisplay(env, &options{progress: "auto", why: true})
	if err != nil {
		t.Fatal(err)
	}
	play(d, []byte(dockerfile))
	want := `#1 [1/3] FROM busybox
#1 CACHED

#2 [2/3] RUN echo hi
#2 not cached: no such step before
#2 0.100 hi
#2 0.120 half
#2 DONE 0.3s

#3 [3/3] RUN false
#3 0.020 oh no
#3 ERROR: exit code: 1
------
 > [3/3] RUN false:
oh no
------
Dockerfile:3
--------------------
   1 |     FROM busybox AS A
   2 |     RUN echo hi
   3 | >>> RUN false
   4 |     CMD x
--------------------

 1 warning found (use --check to see them with their lines):
 - StageNameCasing: Stage name 'A' should be lowercase (line 1)
`
	if errOut.String() != want {
		t.Errorf("got\n%s\nwant\n%s", errOut.String(), want)
	}
}

// TestWhereItIsWrong: a Dockerfile that can't be understood has no step that failed, and shows its lines all the same.
func TestWhereItIsWrong(t *testing.T) {
	for _, progress := range []string{"plain", "quiet"} {
		var out, errOut bytes.Buffer
		d, err := newDisplay(&command.Env{IO: iostreams.Test(nil, &out, &errOut)}, &options{progress: progress})
		if err != nil {
			t.Fatal(err)
		}
		d.event(wire.Event{Kind: wire.Ended, Error: "no", Source: []graph.Range{{Start: 3, End: 3}}})
		d.close()
		d.report("", []byte(dockerfile))
		want := "Dockerfile:3\n--------------------\n   1 |     FROM busybox AS A\n   2 |     RUN echo hi\n   3 | >>> RUN false\n   4 |     CMD x\n--------------------\n"
		if errOut.String() != want {
			t.Errorf("%s: got\n%s\nwant\n%s", progress, errOut.String(), want)
		}
	}
}

func TestTerminal(t *testing.T) {
	var b bytes.Buffer
	d := newTerminal(book{w: &b, at: map[digest.Digest]*step{}})
	d.mu.Lock() // it draws already
	d.width = func() (int, int) { return 60, 20 }
	d.clock = func() time.Time { return time.Unix(1001, 0) }
	d.mu.Unlock()
	play(d, []byte(dockerfile))
	shown := b.String()[strings.LastIndex(b.String(), "[+]"):]
	for _, want := range []string{"[+] Building 1.0s (2/3)", " => CACHED [1/3] FROM busybox                          0.0s", " => [2/3] RUN echo hi                                  0.3s", " => ERROR [3/3] RUN false", ">>> RUN false"} {
		if !strings.Contains(shown, want) {
			t.Errorf("no %q in\n%s", want, shown)
		}
	}
	if got := visible("a\x1b[31mb\x1b[0m\tc\x07\xff"); got != "ab    c\ufffd" {
		t.Errorf("visible: %q", got)
	}
}

// TestTerminalWide: a line with wide characters that were counted as narrow ones would run over the terminal's edge, and the
// picture be drawn over at the wrong place from then on.
func TestTerminalWide(t *testing.T) {
	const width = 40
	d := &terminal{clock: func() time.Time { return time.Unix(1001, 0) }, book: book{begun: time.Unix(1000, 0), steps: []*step{
		{Vertex: wire.Vertex{Name: "[2/3] RUN echo 正在安装中文软件包，请稍候"}, began: time.Unix(1000, 0), tail: []string{"正在安装中文软件包，请稍候；正在安装中文软件包，请稍候"}},
		{Vertex: wire.Vertex{Name: "[3/3] COPY 你好.txt /"}, began: time.Unix(1000, 0)},
	}}}
	got := strings.Join(d.lines(width), "\n")
	want := `[+] Building 1.0s (0/2)
 => [2/3] RUN echo 正在安装中文... 1.0s\x1b[0m
\x1b[2m => => # 正在安装中文软件包，请稍候；...\x1b[0m
 => [3/3] COPY 你好.txt /          1.0s\x1b[0m`
	if want = strings.ReplaceAll(want, `\x1b`, "\x1b"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestCheckAndQuiet(t *testing.T) {
	var out, errOut bytes.Buffer
	env := &command.Env{IO: iostreams.Test(nil, &out, &errOut)}
	d, err := newDisplay(env, &options{progress: "plain", check: true})
	if err != nil {
		t.Fatal(err)
	}
	d.event(wire.Event{Kind: "planned", Warnings: []graph.Warning{{Rule: "R", URL: "https://example.org/r", Message: "m", Description: "d", Source: []graph.Range{{Start: 2, End: 2}}}}})
	d.close()
	d.report("sub/Dockerfile", []byte(dockerfile))
	want := "Check complete, 1 warning has been found!\n\nWARNING: R - https://example.org/r\nd\nm\nsub/Dockerfile:2\n--------------------\n   1 |     FROM busybox AS A\n   2 | >>> RUN echo hi\n   3 |     RUN false\n   4 |     CMD x\n--------------------\n"
	if out.String() != want || errOut.Len() > 0 || d.warned() != 1 {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
	if d, err = newDisplay(env, &options{quiet: true, progress: "plain"}); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	d.event(wire.Event{Kind: "planned"})
	d.close()
	if out.Len()+errOut.Len() > 0 {
		t.Errorf("quiet said %q", out.String()+errOut.String())
	}
	if d, err = newDisplay(env, &options{progress: "rawjson"}); err != nil {
		t.Fatal(err)
	}
	play(d, nil)
	for _, want := range []string{`"vertexes":[{"digest":"sha256:`, `"logs":[{"vertex":"sha256:`, `"cached":true`, `"error":"exit code: 1"`, `"warnings":[{"level":1`} {
		if !strings.Contains(errOut.String(), want) {
			t.Errorf("no %s in %s", want, errOut.String())
		}
	}
}
