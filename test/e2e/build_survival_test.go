//go:build e2e

package e2e

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gantry/test/engine"
)

// TestBuildCacheOutlivesTheEngine: what was built is known after a restart, after a crash and to another builder's request; and is
// gone after a prune.
func TestBuildCacheOutlivesTheEngine(t *testing.T) {
	e := ownEngine(t, "busybox")
	dir := contextDir(t, map[string]string{"Dockerfile": "FROM busybox\nRUN head -c 8 /dev/urandom | md5sum > /random\nCOPY f /f\nRUN cat /random /f > /both\n", "f": "1"})
	build := func(want int) string {
		t.Helper()
		r := must(t, classic(e, "-t", "kept", dir))
		if r.Code != 0 {
			t.Fatal(r)
		}
		if n := strings.Count(r.Out, "Using cache"); n != want {
			t.Errorf("%d steps came from the cache, not %d: %s", n, want, r.Out)
		}
		return okOn(t, e, "image", "inspect", "-f", "{{.Id}}", "kept")
	}
	first := build(0)
	if err := e.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	if again := build(3); again != first {
		t.Errorf("the same build is %s now, was %s", again, first)
	}
	e.Kill()
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	build(3)
	// Times do not count, contents do.
	if err := os.Chtimes(filepath.Join(dir, "f"), time.Unix(1e9, 0), time.Unix(1e9, 0)); err != nil {
		t.Fatal(err)
	}
	build(3)
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("2"), 0o644); err != nil {
		t.Fatal(err)
	}
	build(1)
	if err := os.Chmod(filepath.Join(dir, "f"), 0o600); err != nil {
		t.Fatal(err)
	}
	build(1)
	// The image's layers are the cache's, too: without the image they stay, without both they go.
	okOn(t, e, "rmi", "-f", "kept")
	build(3)
	must(t, e.StockCLI("builder", "prune", "-af"))
	build(0)
}

// TestBuildersShare: two that want the same step at the same time have it done once.
func TestBuildersShare(t *testing.T) {
	e := ownEngine(t, "busybox")
	dir := contextDir(t, map[string]string{"Dockerfile": "FROM busybox\nRUN head -c 8 /dev/urandom | md5sum > /random; sleep 2\n"})
	var wg sync.WaitGroup
	ids := make([]string, 3)
	for i := range ids {
		wg.Go(func() {
			if r := engine.Run(classic(e, "-q", dir)); r.Code == 0 {
				ids[i] = strings.TrimSpace(r.Out)
			} else {
				t.Error(r)
			}
		})
	}
	wg.Wait()
	if ids[0] == "" || ids[0] != ids[1] || ids[1] != ids[2] {
		t.Errorf("three builds of the same made %q", ids)
	}
}

// postBuild sends a build and returns the reply's lines as they come.
func postBuild(t *testing.T, ctx context.Context, e *engine.Engine, body io.Reader, query string) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, "POST", "http://engine/v1.41/build?"+query, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-tar")
	return e.Client().Do(req)
}

// tarOf makes an archive of headers with their contents.
func tarOf(t *testing.T, entries ...any) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(entries); i += 2 {
		h, data := entries[i].(*tar.Header), entries[i+1].(string)
		h.Size = int64(len(data))
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, data)
	}
	w.Close()
	return &b
}

// TestBuildIsKilled: the engine dies in the middle of a step; nothing of the step is left, and the next engine builds on from the step
// before.
func TestBuildIsKilled(t *testing.T) {
	e := ownEngine(t, "busybox")
	dir := contextDir(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo one > /one\nRUN echo un''der way; sleep 1000\n"})
	cmd := classic(e, dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	readUntil(t, bufio.NewReader(out), "under way")
	e.Kill()
	cmd.Wait()
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	// Ended processes are reaped behind the start.
	waitFor(t, func() bool { return len(runsOf(e)) == 0 })
	dir2 := contextDir(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo one > /one\nRUN echo two > /two\n"})
	if r := must(t, classic(e, dir2)); r.Code != 0 {
		t.Error(r)
	}
}

// runsOf names what is there of steps of builds: folders, cgroups and processes.
func runsOf(e *engine.Engine) (found []string) {
	entries, _ := os.ReadDir(filepath.Join(e.Root, "exec/build"))
	for _, x := range entries {
		found = append(found, "folder "+x.Name())
	}
	if err := leaks(e); err != nil {
		for line := range strings.Lines(err.Error()) {
			if strings.HasPrefix(line, "cgroup:") || strings.HasPrefix(line, "mount:") {
				found = append(found, line)
			}
		}
	}
	return found
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); {
		if time.Now().After(deadline) {
			t.Fatal("it does not come about within a minute")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestBuildClientGoes: a client that goes while it sends, or while a step runs, ends its build.
func TestBuildClientGoes(t *testing.T) {
	e := ownEngine(t, "busybox")
	conn, err := net.Dial("unix", e.Socket)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST /v1.41/build HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-tar\r\nContent-Length: 1000000\r\n\r\n")
	conn.Write(tarOf(t, &tar.Header{Name: "Dockerfile"}, "FROM busybox\n").Bytes()[:700])
	conn.Close()

	ctx, cancel := context.WithCancel(context.Background())
	resp, err := postBuild(t, ctx, e, tarOf(t, &tar.Header{Name: "Dockerfile"}, "FROM busybox\nRUN echo un''der way; sleep 1000\n"), "")
	if err != nil {
		t.Fatal(err)
	}
	readUntil(t, bufio.NewReader(resp.Body), "under way")
	cancel()
	resp.Body.Close()
	waitFor(t, func() bool { return len(runsOf(e)) == 0 })
}

// TestHostileBuilds: archives and Dockerfiles that mean harm get an error that says what is wrong, and the engine goes on.
func TestHostileBuilds(t *testing.T) {
	e := gantry
	bomb := func() io.Reader {
		r, w := io.Pipe()
		go func() {
			z := gzip.NewWriter(w)
			tw := tar.NewWriter(z)
			tw.WriteHeader(&tar.Header{Name: "Dockerfile", Mode: 0o644, Size: 1 << 40, Typeflag: tar.TypeReg})
			zeros := make([]byte, 1<<20)
			for {
				if _, err := tw.Write(zeros); err != nil {
					w.CloseWithError(err)
					return
				}
			}
		}()
		return r
	}
	file := func(dockerfile string, more ...any) io.Reader {
		return tarOf(t, append([]any{&tar.Header{Name: "Dockerfile"}, dockerfile}, more...)...)
	}
	for _, c := range []struct {
		name string
		body io.Reader
		want string
	}{
		{"a name that leads out", file("FROM busybox\n", &tar.Header{Name: "../../etc/evil"}, "x"), "leads out of the context"},
		{"a device", file("FROM busybox\nCOPY . /\n", &tar.Header{Name: "dev", Typeflag: tar.TypeBlock, Devmajor: 8}, ""), "is a device"},
		{"below a link", file("FROM busybox\n", &tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, "", &tar.Header{Name: "l/passwd"}, "x"), "which is no directory"},
		{"a hard link to nothing", file("FROM busybox\n", &tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "/etc/shadow"}, ""), "which is not there"},
		{"not an archive", strings.NewReader(strings.Repeat("this is not an archive", 1000)), "read context"},
		{"cut short", bytes.NewReader(tarOf(t, &tar.Header{Name: "Dockerfile"}, strings.Repeat("# FROM busybox\n", 1000)).Bytes()[:2000]), "read context"},
		{"a bomb", bomb(), "larger than"},
		{"an endless loop of links", file("FROM busybox\nCOPY a /a\n", &tar.Header{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "b"}, "", &tar.Header{Name: "b", Typeflag: tar.TypeSymlink, Linkname: "a"}, ""), "too many symbolic links"},
		{"a Dockerfile that is a directory", tarOf(t, &tar.Header{Name: "Dockerfile/x"}, ""), "Dockerfile"},
		{"the host's network, insecure", file("FROM busybox\nRUN --security=insecure id\n"), "security.insecure is not allowed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, err := postBuild(t, t.Context(), e, c.body, "networkmode=none")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			out, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(out), c.want) || strings.Contains(string(out), "Successfully built") {
				t.Errorf("%s: %s, want %q", resp.Status, out, c.want)
			}
		})
	}
	// A link of the context that leads out of it is followed inside the context; one in the image inside the image.
	dir := contextDir(t, map[string]string{"Dockerfile": "FROM busybox\nRUN ln -s /etc /escape && ln -s ../../../../../../tmp /up\nCOPY f /escape/made\nCOPY f /up/made\nCOPY out /out\n",
		"f": "x", "out": "-> ../../../../../etc/passwd", "etc/passwd": "the context's"})
	r := must(t, classic(e, "-t", "hostile", "--network", "none", dir))
	if r.Code != 0 {
		t.Fatal(r)
	}
	defer engine.Run(e.StockCLI("rmi", "-f", "hostile"))
	tree := treeOf(t, e, "hostile")
	if tree["etc/made"] == "" || tree["tmp/made"] == "" || !strings.HasPrefix(tree["out"], "0 644 0:0 13 ") {
		t.Errorf("/etc/made is %q, /tmp/made %q, /out %q", tree["etc/made"], tree["tmp/made"], tree["out"])
	}
}
