//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/cgi"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gantry/test/engine"
)

// repository makes a git repository with one commit of files, tagged v1.
func repository(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := contextDir(t, files)
	for _, args := range []string{"init -q -b main", "add -A", "-c user.name=n -c user.email=n@example.com commit -q -m one", "tag v1"} {
		cmd := exec.Command("git", append([]string{"-C", dir}, strings.Fields(args)...)...)
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "GIT_CONFIG_NOSYSTEM=1")
		if r := must(t, cmd); r.Code != 0 {
			t.Fatal(r)
		}
	}
	return dir
}

// webServer serves, on the engine's loopback, repositories by git's own program at /git/, and files elsewhere.
func webServer(t *testing.T, e *engine.Engine, repositories string, files map[string][]byte) string {
	t.Helper()
	path, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/git/", &cgi.Handler{Path: filepath.Join(strings.TrimSpace(string(path)), "git-http-backend"), Root: "/git", Stderr: io.Discard,
		Env: []string{"GIT_PROJECT_ROOT=" + repositories, "GIT_HTTP_EXPORT_ALL=1", "HOME=" + t.TempDir(), "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"}})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		data, ok := files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Write(data)
	})
	l := listen(t, e)
	s := &http.Server{Handler: mux}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return "http://" + l.Addr().String()
}

// TestBuildRemoteContexts: POST /build?remote= and an address instead of a folder: an archive, a Dockerfile, a git repository with its
// references and folders. And the same as named contexts.
func TestBuildRemoteContexts(t *testing.T) {
	top := t.TempDir()
	repo := repository(t, map[string]string{"Dockerfile": "FROM busybox\nCOPY file /file\n", "file": "of the repository", "sub/Dockerfile": "FROM busybox\nCOPY . /sub\n", "sub/deep": "deep"})
	if r := must(t, exec.Command("git", "clone", "-q", "--bare", repo, filepath.Join(top, "app.git"))); r.Code != 0 {
		t.Fatal(r)
	}
	archive, err := exec.Command("tar", "cz", "-C", contextDir(t, map[string]string{"Dockerfile": "FROM busybox\nCOPY file /file\n", "Other": "FROM busybox\nCOPY file /other\n", "file": "of the archive"}), ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	web := webServer(t, gantry, top, map[string][]byte{"/context.tar.gz": archive, "/Dockerfile": []byte("FROM busybox\nRUN echo alone > /file\n"), "/nonsense": []byte("\x00\x01")})
	git := web + "/git/app.git"
	for i, c := range []struct{ remote, dockerfile, file, want string }{
		{web + "/context.tar.gz", "", "/file", "of the archive"},
		{web + "/context.tar.gz", "Other", "/other", "of the archive"},
		{web + "/Dockerfile", "", "/file", "alone"},
		{git, "", "/file", "of the repository"},
		{git + "#main", "", "/file", "of the repository"},
		{git + "#v1:sub", "", "/sub/deep", "deep"},
	} {
		tag := fmt.Sprintf("remote%d", i)
		q := url.Values{"remote": {c.remote}, "t": {tag}, "networkmode": {"none"}}
		args := []string{"build", "-q", "--network", "none", "-t", tag + "-cli"}
		if c.dockerfile != "" {
			q.Set("dockerfile", c.dockerfile)
			args = append(args, "-f", c.dockerfile)
		}
		resp, err := postBuild(t, t.Context(), gantry, bytes.NewReader(nil), q.Encode())
		if err != nil {
			t.Fatal(err)
		}
		out, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.Contains(string(out), "Successfully tagged "+tag+":latest") {
			t.Errorf("remote=%s: %s %s, %v", c.remote, resp.Status, out, err)
			continue
		}
		ok(t, append(args, c.remote)...)
		for _, name := range []string{tag, tag + "-cli"} {
			if got := ok(t, "run", "--rm", "--network", "none", name, "cat", c.file); got != c.want {
				t.Errorf("%s: %s has %q, not %q", name, c.file, got, c.want)
			}
			ok(t, "rmi", "-f", name)
		}
	}
	for remote, want := range map[string]string{
		web + "/nosuch":    "invalid response status 404",
		git + "#nosuch":    "failed to fetch remote",
		git + "#main:no":   "not found",
		"ftp://x/y":        "ftp://x/y",
		web + "/nonsense":  "",
		git + "x.git#main": "failed to fetch remote",
	} {
		resp, err := postBuild(t, t.Context(), gantry, bytes.NewReader(nil), url.Values{"remote": {remote}}.Encode())
		if err != nil {
			t.Fatal(err)
		}
		out, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if !strings.Contains(string(out), want) || strings.Contains(string(out), "Successfully") {
			t.Errorf("remote=%s: %s %s, want %q", remote, resp.Status, out, want)
		}
	}
	dir := contextDir(t, map[string]string{"Dockerfile": "FROM busybox\nCOPY --from=repo sub/deep /1\nCOPY --from=web context.tar.gz /2\nADD " + git + "#v1:sub /3\n"})
	r := buildIn(t, gantry, dir, "", "--network", "none", "-t", "remotes", "--build-context", "repo="+git+"#v1", "--build-context", "web="+web+"/context.tar.gz", ".")
	if r.Code != 0 && strings.Contains(r.Err, "context.tar.gz") { // what an address brings that is no repository is called context
		change(t, filepath.Join(dir, "Dockerfile"), "--from=web context.tar.gz", "--from=web context")
		r = buildIn(t, gantry, dir, "", "--network", "none", "-t", "remotes", "--build-context", "repo="+git+"#v1", "--build-context", "web="+web+"/context.tar.gz", ".")
	}
	if r.Code != 0 {
		t.Fatal(r)
	}
	if got := ok(t, "run", "--rm", "--network", "none", "remotes", "sh", "-c", "cat /1 /3/deep; ls -d /2"); got != "deepdeep/2" {
		t.Errorf("named contexts: %q", got)
	}
	ok(t, "rmi", "-f", "remotes")
}

// TestBuildOCILayout: an image of an OCI layout that skopeo wrote, by tag and by digest, on an engine that has no images.
func TestBuildOCILayout(t *testing.T) {
	e := ownEngine(t)
	layout := filepath.Join(t.TempDir(), "layout")
	for _, tag := range []string{"one", "latest"} {
		if r := must(t, exec.Command("skopeo", "copy", "-q", "docker-archive:"+imagePath("busybox"), "oci:"+layout+":"+tag)); r.Code != 0 {
			t.Fatal(r)
		}
	}
	r := must(t, exec.Command("skopeo", "inspect", "--format", "{{.Digest}}", "oci:"+layout+":one"))
	digest := strings.TrimSpace(r.Out)
	dir := contextDir(t, map[string]string{"Dockerfile": "FROM base\nRUN echo made > /made\nCOPY --from=base /bin/busybox /again\n"})
	for i, at := range []string{layout, layout + ":one", layout + "@" + digest} {
		r := buildIn(t, e, dir, "", "--progress", "plain", "--network", "none", "-t", "layout", "--build-context", "base=oci-layout://"+at, ".")
		if r.Code != 0 {
			t.Fatal(r)
		}
		if i > 0 && cachedSteps(r) != 2 {
			t.Errorf("%s: the same image by another name: %v", at, r)
		}
	}
	if got := okOn(t, e, "run", "--rm", "--network", "none", "layout", "sh", "-c", "cat /made; cmp /bin/busybox /again"); got != "made" {
		t.Errorf("in the image: %q", got)
	}
	for at, want := range map[string]string{
		layout + ":nosuch": `has no image "nosuch": it has "one", "latest"`,
		layout + "@sha256:" + strings.Repeat("0", 64): "the OCI layout has no sha256:000",
		layout + "@x": `digest "x"`,
		dir:           "is no OCI layout",
	} {
		if r := buildIn(t, e, dir, "", "--network", "none", "--build-context", "base=oci-layout://"+at, "."); r.Code != 1 || !strings.Contains(r.Err, want) {
			t.Errorf("%s: want %q: %v", at, want, r)
		}
	}
	if err := os.WriteFile(filepath.Join(layout, "blobs/sha256", strings.TrimPrefix(digest, "sha256:")), []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	okOn(t, e, "rmi", "-f", "layout")
	okOn(t, e, "builder", "prune", "-af")
	if r := buildIn(t, e, dir, "", "--network", "none", "--build-context", "base=oci-layout://"+layout, "."); r.Code != 1 {
		t.Errorf("a layout whose manifest was changed: %v", r)
	}
}

// TestBuildGitOverSSH: a repository that only who has a key may read, by an agent that --ssh offers.
func TestBuildGitOverSSH(t *testing.T) {
	e := ownEngine(t, "busybox")
	repo := repository(t, map[string]string{"Dockerfile": "FROM busybox\nCOPY file /file\n", "file": "secret source"})
	dir := t.TempDir()
	for _, name := range []string{"host", "user"} {
		if r := must(t, exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, name))); r.Code != 0 {
			t.Fatal(r)
		}
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // where sshd has nobody's processes
		t.Fatal(err)
	}
	config := fmt.Sprintf("ListenAddress 127.0.0.1:22\nHostKey %s/host\nAuthorizedKeysFile %s/user.pub\nStrictModes no\nPidFile none\nUsePAM no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n", dir, dir)
	startRegistry(t, e, "127.0.0.1:22", config, func(path string) *exec.Cmd { return exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", path) })

	socket := filepath.Join(dir, "agent")
	agent := exec.Command("ssh-agent", "-D", "-a", socket)
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { agent.Process.Kill(); agent.Wait() })
	add := func() bool {
		cmd := exec.Command("ssh-add", "-q", filepath.Join(dir, "user"))
		cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
		return cmd.Run() == nil
	}
	waitFor(t, add)

	project := contextDir(t, map[string]string{"Dockerfile": "FROM busybox\nADD root@127.0.0.1:" + repo + "/.git /scp\nADD --keep-git-dir=true ssh://root@127.0.0.1" + repo + "/.git#v1 /url\n"})
	r := buildIn(t, e, project, "", "--network", "none", "-t", "ssh", "--ssh", "default="+socket, ".")
	if r.Code != 0 {
		t.Fatal(r)
	}
	if got := okOn(t, e, "run", "--rm", "--network", "none", "ssh", "sh", "-c", "cat /scp/file /url/file; ls -d /scp/.git /url/.git 2>&1 | grep -v No"); got != "secret sourcesecret source/url/.git" {
		t.Errorf("in the image: %q", got)
	}
	r = buildIn(t, e, dir, "", "--network", "none", "-t", "ssh2", "--ssh", "default="+socket, "ssh://root@127.0.0.1"+repo+"/.git")
	if r.Code != 0 || okOn(t, e, "run", "--rm", "--network", "none", "ssh2", "cat", "/file") != "secret source" {
		t.Errorf("as the context: %v", r)
	}
	r = buildIn(t, e, project, "", "--network", "none", "--no-cache", ".")
	if r.Code != 1 || !strings.Contains(r.Err, "Permission denied") || !strings.Contains(r.Err, "no SSH agent was offered: --ssh default does") {
		t.Errorf("without an agent: %v", r)
	}
}
