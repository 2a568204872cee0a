//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gantry/internal/build/dockerfile/corpus"
	"gantry/test/engine"
)

// The corpus of Dockerfiles (internal/build/dockerfile/testdata/README.md) is built for real here: what a case
// expects must be in the image, its configuration must be what the conversion said, and Docker's classic builder must
// come to the same.

type buildCase struct {
	corpus.Case
	stream string // what the last build printed
}

func buildCases(t *testing.T) []buildCase {
	t.Helper()
	read, err := corpus.Read(filepath.Join(engine.Repo(), "internal/build/dockerfile/testdata"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []buildCase
	for _, c := range read {
		cases = append(cases, buildCase{Case: c})
	}
	return cases
}

// context is the archive that POST /build gets.
func (c *buildCase) context(t *testing.T) []byte {
	t.Helper()
	modes := map[string]int64{}
	for _, v := range c.Options["ctx-mode"] {
		mode, name, _ := strings.Cut(v, " ")
		n, err := strconv.ParseInt(mode, 8, 64)
		if err != nil {
			t.Fatal(err)
		}
		modes[name] = n
	}
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	dirs := map[string]bool{".": true}
	put := func(tw *tar.Writer, h *tar.Header, data []byte) {
		h.ModTime = time.Unix(1700000000, 0)
		h.Size = int64(len(data))
		for dir := path.Dir(h.Name); tw != nil && !dirs[dir]; dir = path.Dir(dir) {
			dirs[dir] = true
			if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: h.ModTime}); err != nil {
				t.Fatal(err)
			}
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	put(tw, &tar.Header{Name: ".Dockerfile", Mode: 0o644}, c.Dockerfile())
	for _, f := range c.Files {
		if name, ok := strings.CutPrefix(f.Name, "context/"); ok {
			mode := int64(0o644)
			if m, ok := modes[name]; ok {
				mode = m
			}
			put(tw, &tar.Header{Name: name, Mode: mode}, f.Data)
		}
	}
	for _, v := range c.Options["ctx-link"] {
		name, target, _ := strings.Cut(v, " ")
		put(tw, &tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, nil)
	}
	for _, v := range c.Options["ctx-tar"] {
		name, dir, _ := strings.Cut(v, " ")
		put(tw, &tar.Header{Name: name, Mode: 0o644}, c.inner(t, name, dir))
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// inner packs what the context has below dir.
func (c *buildCase) inner(t *testing.T, name, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, f := range c.Files {
		rel, ok := strings.CutPrefix(f.Name, "context/"+dir+"/")
		if !ok {
			continue
		}
		if err := tw.WriteHeader(&tar.Header{Name: rel, Mode: 0o644, Size: int64(len(f.Data)), ModTime: time.Unix(1700000000, 0)}); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(f.Data); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	switch {
	case strings.HasSuffix(name, ".tgz"):
		var z bytes.Buffer
		zw := gzip.NewWriter(&z)
		if _, err := zw.Write(b.Bytes()); err != nil {
			t.Fatal(err)
		}
		if err := zw.Close(); err != nil {
			t.Fatal(err)
		}
		return z.Bytes()
	case strings.HasSuffix(name, ".xz"):
		cmd := exec.Command("xz", "-c")
		cmd.Stdin = &b
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("xz: %v", err)
		}
		return out
	}
	return b.Bytes()
}

// unpacked writes the context to a folder, with the Dockerfile beside it.
func (c *buildCase) unpacked(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	tr := tar.NewReader(bytes.NewReader(c.context(t)))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, "context", h.Name)
		if h.Name == ".Dockerfile" {
			name = filepath.Join(dir, "Dockerfile")
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, "context", h.Name)), 0o755); err != nil {
			t.Fatal(err)
		}
		switch h.Typeflag {
		case tar.TypeSymlink:
			err = os.Symlink(h.Linkname, name)
		case tar.TypeReg:
			var data []byte
			if data, err = io.ReadAll(tr); err == nil {
				err = os.WriteFile(name, data, h.FileInfo().Mode().Perm())
			}
			if err == nil {
				err = os.Chmod(name, h.FileInfo().Mode().Perm())
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// cli has Gantry's own command line build the case, and returns an image's ID, or what is printed of an error.
func (c *buildCase) cli(t *testing.T) (id, failure string) {
	t.Helper()
	dir := c.unpacked(t)
	args := []string{"build", "-q", "--network", "none", "-f", filepath.Join(dir, "Dockerfile")}
	for option, flag := range map[string]string{"arg": "--build-arg", "label": "--label", "target": "--target", "context": "--build-context"} {
		for _, v := range c.Options[option] {
			args = append(args, flag, v)
		}
	}
	r := must(t, gantry.CLI(append(args, filepath.Join(dir, "context"))...))
	if r.Code != 0 {
		return "", r.Err
	}
	return strings.TrimSpace(r.Out), ""
}

// build has e build the case, and returns what the stream's end says: an image's ID, or an error.
func (c *buildCase) build(t *testing.T, e *engine.Engine, data []byte) (id, failure string) {
	t.Helper()
	q := url.Values{"dockerfile": {".Dockerfile"}, "networkmode": {"none"}, "rm": {"1"}, "forcerm": {"1"}}
	args, labels := map[string]*string{}, map[string]string{}
	for _, v := range c.Options["arg"] {
		name, value, _ := strings.Cut(v, "=")
		args[name] = &value
	}
	for _, v := range c.Options["label"] {
		name, value, _ := strings.Cut(v, "=")
		labels[name] = value
	}
	for key, value := range map[string]any{"buildargs": args, "labels": labels} {
		b, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		q.Set(key, string(b))
	}
	if v := c.Options["target"]; v != nil {
		q.Set("target", v[0])
	}
	req, err := http.NewRequestWithContext(t.Context(), "POST", "http://engine/v1.41/build?"+q.Encode(), bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-tar")
	client := e.Client()
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		t.Fatalf("build on %s: %v", e.Name, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		var m struct{ Message string }
		if err := json.NewDecoder(resp.Body).Decode(&m); err != nil {
			t.Fatal(err)
		}
		return "", m.Message
	}
	c.stream = ""
	for dec := json.NewDecoder(resp.Body); ; {
		var m struct {
			Error, Stream string
			Aux           *struct{ ID string }
		}
		switch err := dec.Decode(&m); {
		case err == io.EOF:
			return id, failure
		case err != nil:
			t.Fatalf("build on %s: %v", e.Name, err)
		case m.Error != "":
			failure = m.Error
		case m.Stream != "":
			c.stream += m.Stream
		case m.Aux != nil && m.Aux.ID != "":
			id = m.Aux.ID
		}
	}
}

// built is what is compared of an image.
type built struct {
	config  []string
	history []string
	tree    map[string]string // path → type, mode, owner, content
	content map[string]string
}

// lookAt takes an image apart.
func lookAt(t *testing.T, e *engine.Engine, id string) built {
	t.Helper()
	b := built{tree: map[string]string{}, content: map[string]string{}}
	var img struct {
		Author string
		Config struct {
			User, WorkingDir, StopSignal         string
			Env, Entrypoint, Cmd, Shell, OnBuild []string
			ExposedPorts, Volumes                map[string]struct{}
			Labels                               map[string]string
			Healthcheck                          *struct {
				Test                                          []string
				Interval, Timeout, StartPeriod, StartInterval int64
				Retries                                       int
			}
		}
	}
	decode(t, e, "GET", "/images/"+id+"/json", "", &img)
	line := func(name string, value any) { b.config = append(b.config, fmt.Sprintf("%s: %v", name, value)) }
	c := img.Config
	for _, s := range []struct{ name, value string }{{"author", img.Author}, {"user", c.User}, {"workdir", c.WorkingDir}, {"stopsignal", c.StopSignal}} {
		// WORKDIR / and none are the same.
		if s.value != "" && !(s.name == "workdir" && s.value == "/") {
			line(s.name, s.value)
		}
	}
	for _, v := range c.Env {
		line("env", strconv.Quote(v))
	}
	for _, s := range []struct {
		name  string
		value []string
	}{{"entrypoint", c.Entrypoint}, {"cmd", c.Cmd}, {"shell", c.Shell}, {"onbuild", c.OnBuild}} {
		if len(s.value) > 0 {
			line(s.name, fmt.Sprintf("%q", s.value))
		}
	}
	for _, p := range slices.Sorted(maps.Keys(c.ExposedPorts)) {
		line("expose", p)
	}
	for _, p := range slices.Sorted(maps.Keys(c.Volumes)) {
		line("volume", p)
	}
	for _, k := range slices.Sorted(maps.Keys(c.Labels)) {
		line("label", strconv.Quote(k+"="+c.Labels[k]))
	}
	if h := c.Healthcheck; h != nil {
		line("healthcheck", fmt.Sprintf("{Test:%v Interval:%v Timeout:%v StartPeriod:%v StartInterval:%v Retries:%d}", h.Test,
			time.Duration(h.Interval), time.Duration(h.Timeout), time.Duration(h.StartPeriod), time.Duration(h.StartInterval), h.Retries))
	}
	slices.Sort(b.config)
	var history []struct{ CreatedBy string }
	decode(t, e, "GET", "/images/"+id+"/history", "", &history)
	for _, h := range history {
		b.history = append(b.history, h.CreatedBy)
	}
	slices.Reverse(b.history)
	b.export(t, e, id)
	return b
}

// decode makes a request that must succeed.
func decode(t *testing.T, e *engine.Engine, method, path, body string, out any) {
	t.Helper()
	status, answer := call(t, e, method, path, body)
	if status >= 300 {
		t.Fatalf("%s %s on %s: %d %s", method, path, e.Name, status, answer)
	}
	if out != nil {
		if err := json.Unmarshal([]byte(answer), out); err != nil {
			t.Fatal(err)
		}
	}
}

// export reads the files through a container that never starts.
func (b *built) export(t *testing.T, e *engine.Engine, id string) {
	t.Helper()
	var made struct{ ID string }
	decode(t, e, "POST", "/containers/create", `{"Image":"`+id+`","Cmd":["x"],"HostConfig":{"NetworkMode":"none"}}`, &made)
	defer decode(t, e, "DELETE", "/containers/"+made.ID+"?v=1", "", nil)
	_, archive := call(t, e, "GET", "/containers/"+made.ID+"/export", "")
	tr := tar.NewReader(strings.NewReader(archive))
	links := map[string]string{}
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("read the export of %s: %v", e.Name, err)
		}
		name := path.Join("/", h.Name)
		// What the engines put there themselves.
		if name == "/" || name == "/.dockerenv" || slices.ContainsFunc([]string{"/dev", "/proc", "/sys", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/mtab"}, func(p string) bool {
			return name == p || strings.HasPrefix(name, p+"/")
		}) {
			continue
		}
		owner := fmt.Sprintf("%04o %d:%d", h.Mode&0o7777, h.Uid, h.Gid)
		switch h.Typeflag {
		case tar.TypeReg:
			data, err := io.ReadAll(tr)
			if err != nil {
				t.Fatal(err)
			}
			if len(data) < 4096 {
				b.content[name] = string(data)
			}
			b.tree[name] = fmt.Sprintf("f %s %x", owner, sha256.Sum256(data))
		case tar.TypeDir:
			b.tree[name] = "d " + owner
		case tar.TypeSymlink:
			b.tree[name] = "l " + h.Linkname
		case tar.TypeLink:
			links[name] = path.Join("/", h.Linkname)
		case tar.TypeFifo:
			b.tree[name] = "p " + owner
		default:
			b.tree[name] = fmt.Sprintf("%c %s", h.Typeflag, owner)
		}
	}
	// Which of two names of a file comes first is no matter.
	for name, target := range links {
		b.tree[name] = b.tree[target]
		if content, ok := b.content[target]; ok {
			b.content[name] = content
		}
	}
	// /etc comes by itself, with the files that engines put there.
	if _, ok := b.tree["/etc"]; ok && !slices.ContainsFunc(slices.Collect(maps.Keys(b.tree)), func(p string) bool { return strings.HasPrefix(p, "/etc/") }) {
		delete(b.tree, "/etc")
	}
}

// expected checks the lines of a case's expect section.
func (c *buildCase) expected(t *testing.T, b built) {
	t.Helper()
	for line := range strings.Lines(c.Section("expect")) {
		kind, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		var owner string
		if kind == "f" || kind == "d" || kind == "p" {
			words := strings.SplitN(rest, " ", 3)
			owner, rest = words[0]+" "+words[1], words[2]
		}
		name, rest := word(t, rest)
		have, there := b.tree[name]
		switch kind {
		case "-":
			if there {
				t.Errorf("%s is there: %s", name, have)
			}
		case "l":
			if have != "l "+rest {
				t.Errorf("%s is %q, want a link to %s", name, have, rest)
			}
		case "f", "d", "p":
			if !strings.HasPrefix(have, kind+" "+owner) {
				t.Errorf("%s is %q, want %s %s", name, have, kind, owner)
			}
			if rest != "" {
				want, err := strconv.Unquote(rest)
				if err != nil {
					t.Fatalf("%s: %v", line, err)
				}
				if b.content[name] != want {
					t.Errorf("%s has %q, want %q", name, b.content[name], want)
				}
			}
		default:
			t.Fatalf("no such expectation: %s", line)
		}
	}
}

// word takes a name off s, which stands in quotes if it has spaces.
func word(t *testing.T, s string) (name, rest string) {
	t.Helper()
	if !strings.HasPrefix(s, `"`) {
		name, rest, _ = strings.Cut(s, " ")
		return name, rest
	}
	q, err := strconv.QuotedPrefix(s)
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	name, err = strconv.Unquote(q)
	if err != nil {
		t.Fatal(err)
	}
	return name, strings.TrimSpace(s[len(q):])
}

// converted are the lines of configuration that the conversion promises, and this build's lines of history.
func (c *buildCase) converted() (config, history []string) {
	for line := range strings.Lines(c.Section("result")) {
		line = strings.TrimSuffix(line, "\n")
		key, value, _ := strings.Cut(line, ": ")
		switch key {
		case "history", "history (empty)":
			if value != "ADD busybox" && value != `CMD ["sh"]` {
				history = append(history, strings.ReplaceAll(value, `\n`, "\n"))
			}
		case "platform", "warning", "unused":
		default:
			// A list without items isn't told by the API.
			if value != "[]" && line != "workdir: /" {
				config = append(config, line)
			}
		}
	}
	slices.Sort(config)
	return config, history
}

// TestBuildCorpus builds the cases that say what must come of it: every second one, or soaking, all.
func TestBuildCorpus(t *testing.T) {
	soak := os.Getenv("GANTRY_SOAK") != ""
	for i, c := range buildCases(t) {
		if c.Section("expect") == "" || c.Options["session"] != nil || !soak && i%2 == 1 {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			id, failure := c.cli(t)
			if want, ok := strings.CutPrefix(c.Section("expect"), "error: "); ok {
				if !strings.Contains(failure, strings.TrimSpace(want)) {
					t.Errorf("the error is %q, want %s", failure, want)
				}
				return
			}
			if failure != "" || id == "" {
				t.Fatalf("image %q, error %q", id, failure)
			}
			defer ok(t, "rmi", "-f", id)
			b := lookAt(t, gantry, id)
			c.expected(t, b)
			config, history := c.converted()
			if !slices.Equal(b.config, config) {
				t.Errorf("the configuration is\n%s\nwant\n%s", strings.Join(b.config, "\n"), strings.Join(config, "\n"))
			}
			// The base image's own entries are not those of images.json.
			if n := len(b.history) - len(history); n < 0 || !slices.Equal(b.history[n:], history) {
				t.Errorf("the history is\n%s\nwant\n%s", strings.Join(b.history, "\n"), strings.Join(history, "\n"))
			}
		})
	}
}

// What the classic builder of 2022 doesn't know, besides what a case says of itself.
var buildkitOnly = regexp.MustCompile(`<<|--mount|--link|--parents|--exclude|--chmod|--network|--security|--device|--unpack|--checksum|--keep-git-dir|--start-interval|https?://|git@|git://|\bbase:|FROM (nosuch|IMAGE|--platform)`)

// classic says whether the classic builder can be asked about the case.
func (c *buildCase) classic() bool {
	for _, o := range []string{"session", "context", "remote", "platform", "check", "ignore", "network", "host", "ulimit", "shm-size", "cgroup-parent", "no-cache", "pull"} {
		if c.Options[o] != nil {
			return false
		}
	}
	for _, v := range c.Options["legacy"] {
		if strings.HasPrefix(v, "no") {
			return false
		}
	}
	return !strings.HasPrefix(c.Section("result"), "error: ") && !buildkitOnly.MatchString(c.Section("Dockerfile"))
}

// buildSample are the cases that are compared in every run; soaking, all are.
var buildSample = []string{
	"add-tar", "arg-scope", "cmd-shell", "copy-chown-number", "copy-directory-merge", "copy-link-in-context", "copy-wildcard", "entrypoint-cmd",
	"env-forms", "expose-forms", "from-scratch", "healthcheck-exec", "label-option", "multi-parallel", "onbuild-stage", "run-links", "run-remove",
	"user-name", "volume-forms", "workdir-relative",
}

// TestBuildCorpusBesideDocker builds cases with Gantry and with dockerd's classic builder: configuration, length of the
// history and files agree.
func TestBuildCorpusBesideDocker(t *testing.T) {
	soak := os.Getenv("GANTRY_SOAK") != ""
	compared := 0
	for _, c := range buildCases(t) {
		if !c.classic() || !soak && !slices.Contains(buildSample, c.Name) {
			continue
		}
		compared++
		t.Run(c.Name, func(t *testing.T) {
			data := c.context(t)
			theirs, theirError := c.build(t, oracle(t), data)
			ours, ourError := c.build(t, gantry, data)
			if (theirError == "") != (ourError == "") {
				t.Fatalf("Docker's error is %q, ours %q", theirError, ourError)
			}
			if ourError != "" {
				return
			}
			defer must(t, oracle(t).StockCLI("rmi", "-f", theirs))
			defer ok(t, "rmi", "-f", ours)
			want, have := lookAt(t, oracle(t), theirs), lookAt(t, gantry, ours)
			if !slices.Equal(want.config, have.config) {
				t.Errorf("the configuration is\n%s\nDocker's\n%s", strings.Join(have.config, "\n"), strings.Join(want.config, "\n"))
			}
			if len(want.history) != len(have.history) {
				t.Errorf("the history has %d entries, Docker's %d:\n%s\nDocker's\n%s", len(have.history), len(want.history), strings.Join(have.history, "\n"), strings.Join(want.history, "\n"))
			}
			names := map[string]bool{}
			for _, tree := range []map[string]string{want.tree, have.tree} {
				for name := range tree {
					names[name] = true
				}
			}
			for _, name := range slices.Sorted(maps.Keys(names)) {
				if want.tree[name] != have.tree[name] {
					t.Errorf("%s is %q, Docker's %q", name, have.tree[name], want.tree[name])
				}
			}
		})
	}
	if !soak && compared != len(buildSample) {
		t.Errorf("%d of the %d cases of the sample can be compared", compared, len(buildSample))
	}
}

// TestBuildCheckIgnored has --check find a COPY of what .dockerignore leaves out, which only the client can read.
func TestBuildCheckIgnored(t *testing.T) {
	dir := t.TempDir()
	files(t, dir, map[string]string{"Dockerfile": "FROM busybox\nCOPY app.log /\n", ".dockerignore": "*.log\n", "app.log": ""})
	r := must(t, gantry.CLI("build", "--check", dir))
	if !strings.Contains(r.Out+r.Err, `CopyIgnoredFile`) || !strings.Contains(r.Out+r.Err, "Dockerfile:2") {
		t.Errorf("--check says %v", r)
	}
}

// TestBuildClassicStream holds lines of the classic builder's stream that people know: triggers are not counted, and arguments that
// nobody asked for are named.
func TestBuildClassicStream(t *testing.T) {
	c := buildCase{Case: corpus.Parse("inherited", []byte("arg: NOBODY=1\n-- Dockerfile --\nFROM busybox AS a\nONBUILD ENV X=1\nONBUILD LABEL l=$X\nFROM a\nCMD [\"x\"]\n"))}
	for _, e := range []*engine.Engine{gantry, oracle(t)} {
		id, failure := c.build(t, e, c.context(t))
		if failure != "" {
			t.Fatalf("%s: %s", e.Name, failure)
		}
		defer must(t, e.StockCLI("rmi", "-f", id))
		for _, want := range []string{"Step 1/5 : FROM busybox AS a\n", "Step 4/5 : FROM a\n", "# Executing 2 build triggers\n", "Step 5/5 : CMD [\"x\"]\n", "[Warning] One or more build-args [NOBODY] were not consumed\n"} {
			if !strings.Contains(c.stream, want) {
				t.Errorf("%s says\n%s\nwithout %q", e.Name, c.stream, want)
			}
		}
	}
}
