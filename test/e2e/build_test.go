//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gantry/test/engine"
)

// classic is a build with the stock command line and the classic builder.
func classic(e *engine.Engine, args ...string) *exec.Cmd {
	cmd := e.StockCLI(append([]string{"build"}, args...)...)
	cmd.Env = append(cmd.Env, "DOCKER_BUILDKIT=0")
	return cmd
}

// contextDir writes a build's context.
func contextDir(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		mode := os.FileMode(0o644)
		if strings.HasSuffix(name, ".sh") {
			mode = 0o755
		}
		if to, ok := strings.CutPrefix(data, "-> "); ok {
			if err := os.Symlink(to, p); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(p, []byte(data), mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// differences are builds that Docker's legacy builder and Gantry must do alike.
var differentBuilds = []struct {
	name  string
	args  []string
	files map[string]string
}{
	{"every simple instruction", nil, map[string]string{"Dockerfile": `FROM busybox
MAINTAINER somebody
LABEL a=b "c d"=e
ENV X=1 Y=two
ARG Z=3
RUN echo $X $Y $Z > /made && mkdir /dir && chmod 700 /dir
WORKDIR /work
WORKDIR sub
COPY file .
COPY --chown=1:2 file /owned
ADD file /added/
USER 1000:1000
EXPOSE 80 81/udp
VOLUME /data
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s CMD true
SHELL ["/bin/sh", "-ec"]
ONBUILD RUN echo never
ENTRYPOINT ["echo"]
CMD ["hello", "world"]
`, "file": "data\n"}},
	{"output of a run", nil, map[string]string{"Dockerfile": "FROM busybox\nRUN echo out; printf 'no newline'\nRUN echo err >&2\n"}},
	{"copies", nil, map[string]string{"Dockerfile": `FROM busybox
COPY dir /one
COPY dir /two/
COPY dir/a dir/b /three/
COPY di* /four/
COPY dir/a /five/renamed
COPY script.sh /usr/bin/
ADD dir /six
COPY link /seven
COPY . /all
RUN echo changed > /one/a && rm /two/b && ln /three/a /three/hard && ln -s a /three/soft && rm -r /six
COPY dir/a /three/soft2
`, "dir/a": "a\n", "dir/b": "b\n", "dir/deep/er/c": "c\n", "script.sh": "#!/bin/sh\n", "link": "-> dir/a"}},
	{"stages", nil, map[string]string{"Dockerfile": `ARG BASE=busybox
FROM $BASE AS one
RUN mkdir -p /out/sub && echo built > /out/sub/file && chown 5:6 /out/sub/file
FROM one AS two
RUN echo more >> /out/sub/file
FROM scratch
COPY --from=two /out /result
COPY --from=0 /out/sub/file /first
COPY --from=busybox /bin/busybox /bin/busybox
CMD ["/bin/busybox"]
`}},
	{"target and arguments", []string{"--target", "one", "--build-arg", "WHO=you", "--label", "l=1"}, map[string]string{"Dockerfile": `FROM busybox AS one
ARG WHO=me
ARG WHY
RUN echo $WHO > /who
ENV FROM_ARG=$WHO
FROM one AS two
RUN exit 1
`}},
	{"a run that fails", nil, map[string]string{"Dockerfile": "FROM busybox\nRUN echo before; exit 7\nRUN echo never\n"}},
	{"a run in exec form that fails", nil, map[string]string{"Dockerfile": "FROM busybox\nRUN [\"sh\", \"-c\", \"exit 3\"]\n"}},
	{"a file that is not there", nil, map[string]string{"Dockerfile": "FROM busybox\nCOPY nosuch /\n"}},
	{"a wildcard that matches nothing", nil, map[string]string{"Dockerfile": "FROM busybox\nCOPY nosuch* /x/\n"}},
	{"an ignored file", nil, map[string]string{"Dockerfile": "FROM busybox\nCOPY . /ctx\nCOPY secret /\n", ".dockerignore": "secret\nDockerfile\n.dockerignore\n", "secret": "s", "open": "o"}},
	{"no Dockerfile", nil, map[string]string{"other": ""}},
	{"an empty Dockerfile", nil, map[string]string{"Dockerfile": ""}},
	{"deleted and made again", nil, map[string]string{"Dockerfile": `FROM busybox
RUN mkdir -p /d/e && echo 1 > /d/e/f && echo 1 > /d/g
RUN rm -r /d && mkdir /d && echo 2 > /d/h
RUN rm -rf /etc/passwd /d/h
COPY x /d/
`, "x": "x"}},
	{"a group by name and a missing user", nil, map[string]string{"Dockerfile": "FROM busybox\nCOPY --chown=nobody:nogroup f /f\nCOPY --chown=nosuch f /g\n", "f": "f"}},
}

var (
	reID     = regexp.MustCompile(`\b[0-9a-f]{12}\b`)
	reLongID = regexp.MustCompile(`sha256:[0-9a-f]{64}`)
	reSize   = regexp.MustCompile(`Sending build context to Docker daemon .*`)
)

// told is what a build said, without what differs from run to run.
func told(r engine.Result) string {
	s := reLongID.ReplaceAllString(r.Out+r.Err, "sha256:ID")
	s = reID.ReplaceAllString(s, "ID")
	return fmt.Sprintf("%s-> %d", reSize.ReplaceAllString(s, "Sending"), r.Code)
}

// TestBuildAsDocker builds on a real dockerd with its legacy builder and on Gantry: what is said, the image's configuration,
// its history and its files are alike.
func TestBuildAsDocker(t *testing.T) {
	docker := oracle(t)
	for i, b := range differentBuilds {
		t.Run(b.name, func(t *testing.T) {
			dir := contextDir(t, b.files)
			tag := fmt.Sprintf("differ%d", i)
			args := append([]string{"--network", "none", "-t", tag}, append(b.args, dir)...)
			ours, theirs := must(t, classic(gantry, args...)), must(t, classic(docker, args...))
			if got, want := told(ours), told(theirs); got != want {
				t.Errorf("Gantry says\n%s\nDocker says\n%s", got, want)
			}
			if ours.Code != 0 || theirs.Code != 0 {
				return
			}
			defer engine.Run(docker.StockCLI("rmi", "-f", tag))
			defer engine.Run(gantry.StockCLI("rmi", "-f", tag))
			if got, want := configOf(t, gantry, tag), configOf(t, docker, tag); got != want {
				t.Errorf("Gantry's configuration is\n%s\nDocker's is\n%s", got, want)
			}
			const history = "{{.CreatedBy}}"
			got, want := must(t, gantry.StockCLI("history", "--no-trunc", "--format", history, tag)), must(t, docker.StockCLI("history", "--no-trunc", "--format", history, tag))
			if historyOf(got.Out) != historyOf(want.Out) {
				t.Errorf("Gantry's history is\n%s\nDocker's is\n%s", got.Out, want.Out)
			}
			compareTrees(t, treeOf(t, gantry, tag), treeOf(t, docker, tag))
		})
	}
}

// reCopied is how Docker names what is copied: by a digest of its own, of a form that nothing else has. Health checks have one time
// more today.
var (
	reCopied = regexp.MustCompile(`(COPY|ADD) .* in `)
	reHealth = regexp.MustCompile(`HEALTHCHECK .*`)
)

func historyOf(s string) string {
	s = reHealth.ReplaceAllString(reCopied.ReplaceAllString(s, "$1 in "), "HEALTHCHECK")
	var b strings.Builder
	for line := range strings.Lines(s) {
		b.WriteString(strings.Join(strings.Fields(line), " ") + "\n")
	}
	return b.String()
}

func configOf(t *testing.T, e *engine.Engine, tag string) string {
	t.Helper()
	r := must(t, e.StockCLI("image", "inspect", "-f", "{{json .Config}}", tag))
	var c map[string]any
	if err := json.Unmarshal([]byte(r.Out), &c); err != nil {
		t.Fatalf("%v: %v", err, r)
	}
	for k, v := range c {
		switch x := v.(type) {
		case nil:
			delete(c, k)
		case string:
			if x == "" {
				delete(c, k)
			}
		case bool:
			if !x {
				delete(c, k)
			}
		case []any:
			if len(x) == 0 {
				delete(c, k)
			}
		case map[string]any:
			if len(x) == 0 {
				delete(c, k)
			}
		}
	}
	delete(c, "Image") // the step before, which is an image there
	if c["WorkingDir"] == "/" {
		delete(c, "WorkingDir") // of scratch: BuildKit says so, and the legacy builder nothing
	}
	out, _ := json.MarshalIndent(c, "", " ")
	return string(out)
}

// treeOf lists an image's files, with all that matters of each but times.
func treeOf(t *testing.T, e *engine.Engine, tag string) map[string]string {
	t.Helper()
	id := strings.TrimSpace(must(t, e.StockCLI("create", "--network", "none", tag, "x")).Out)
	defer engine.Run(e.StockCLI("rm", "-f", id))
	cmd := e.StockCLI("export", id)
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	return archiveTree(t, &out)
}

func archiveTree(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	tree := map[string]string{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return tree
		}
		if err != nil {
			t.Fatal(err)
		}
		name := strings.Trim(h.Name, "/")
		sum := ""
		if h.Typeflag == tar.TypeReg {
			s := sha256.New()
			io.Copy(s, tr)
			sum = hex.EncodeToString(s.Sum(nil)[:6])
		}
		tree[name] = fmt.Sprintf("%c %o %d:%d %d %s %s", h.Typeflag, h.Mode&0o7777, h.Uid, h.Gid, h.Size, h.Linkname, sum)
	}
}

func compareTrees(t *testing.T, got, want map[string]string) {
	t.Helper()
	all := maps.Clone(got)
	maps.Copy(all, want)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		switch name {
		case "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab", ".dockerenv", "dev/console", "dev", "dev/pts", "dev/shm", "etc", "proc", "sys":
			continue // the engine's own
		}
		if got[name] != want[name] {
			t.Errorf("%s is %q, Docker's %q", name, got[name], want[name])
		}
	}
}
