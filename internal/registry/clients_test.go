package registry_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gantry/internal/registry"
	"gantry/internal/registry/disk"
)

// needs skips where a program is not installed; in CI that is a failure.
func needs(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return path
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, &errs)
	}
	return out.String()
}

// layout makes an OCI image layout with an index of two platforms, tagged v1, and returns the index's digest.
func layout(t *testing.T, dir string) string {
	t.Helper()
	write := func(b []byte) {
		path := filepath.Join(dir, "blobs", "sha256", strings.TrimPrefix(digest(b), "sha256:"))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var children []map[string]any
	for _, arch := range []string{"amd64", "arm64"} {
		layer := append(make([]byte, 1024), make([]byte, 9216)...) // an empty tar is zeros
		copy(layer, fmt.Sprintf("%s-file", arch))
		copy(layer[100:], "0000644\x000000000\x000000000\x0000000000000\x0000000000000\x00")
		copy(layer[257:], "ustar\x0000")
		sum := 8 * int(' ')
		for i, c := range layer[:512] {
			if i < 148 || i >= 156 {
				sum += int(c)
			}
		}
		copy(layer[148:], fmt.Sprintf("%06o\x00 ", sum))
		config, err := json.Marshal(map[string]any{"architecture": arch, "os": "linux",
			"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digest(layer)}}, "config": map[string]any{}})
		if err != nil {
			t.Fatal(err)
		}
		m := image(config, [][]byte{layer}, nil)
		for _, b := range [][]byte{layer, config, m} {
			write(b)
		}
		children = append(children, map[string]any{"mediaType": ociManifest, "digest": digest(m), "size": len(m),
			"platform": map[string]string{"architecture": arch, "os": "linux"}})
	}
	idx, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ociIndex, "manifests": children})
	if err != nil {
		t.Fatal(err)
	}
	write(idx)
	top, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []map[string]any{{"mediaType": ociIndex, "digest": digest(idx), "size": len(idx),
		"annotations": map[string]string{"org.opencontainers.image.ref.name": "v1"}}}})
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"index.json": top, "oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return digest(idx)
}

func policy(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "policy.json")
	if err := os.WriteFile(path, []byte(`{"default":[{"type":"insecureAcceptAnything"}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSkopeo(t *testing.T) {
	t.Parallel()
	skopeo := needs(t, "skopeo")
	src := t.TempDir()
	want := layout(t, src)
	pol := policy(t)
	r := start(t, registry.Config{Auth: registry.Auth{Htpasswd: htpasswdFile(t, "alice"), Rules: []registry.Rule{
		{Users: []string{"anonymous"}, Repositories: []string{"**"}, Allow: []string{"pull"}},
		{Users: []string{"alice"}, Repositories: []string{"**"}, Allow: []string{"push", "delete"}},
	}}})
	host := strings.TrimPrefix(r.url, "http://")
	copyAll := func(from, to string, more ...string) {
		t.Helper()
		run(t, skopeo, append([]string{"--policy", pol, "copy", "--all", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false", from, to}, more...)...)
	}
	copyAll("oci:"+src+":v1", "docker://"+host+"/team/app:v1", "--dest-creds=alice:secret-alice")
	if got := run(t, skopeo, "inspect", "--tls-verify=false", "--no-tags", "--format", "{{.Digest}}", "docker://"+host+"/team/app:v1"); strings.TrimSpace(got) != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := run(t, skopeo, "list-tags", "--tls-verify=false", "docker://"+host+"/team/app"); !strings.Contains(got, `"v1"`) {
		t.Error(got)
	}
	// Within the registry (mounts), and back.
	copyAll("docker://"+host+"/team/app:v1", "docker://"+host+"/other:v2", "--dest-creds=alice:secret-alice")
	back := t.TempDir()
	copyAll("docker://"+host+"/other@"+want, "oci:"+back+":v1")
	b, err := os.ReadFile(filepath.Join(back, "index.json"))
	if err != nil || !bytes.Contains(b, []byte(want)) {
		t.Errorf("%v: %s", err, b)
	}
	run(t, skopeo, "delete", "--tls-verify=false", "--creds=alice:secret-alice", "docker://"+host+"/other:v2")
	r.auth = basic("alice")
	r.do("GET", "/v2/other/manifests/v2", nil).want(t, 404)
	r.auth = ""
	// Without a password nobody pushes.
	cmd := exec.Command(skopeo, "--policy", pol, "copy", "--dest-tls-verify=false", "oci:"+src+":v1", "docker://"+host+"/team/app:v2")
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Errorf("pushed without a password: %s", out)
	}
}

// TestSkopeoTrustsTheCertificate pushes over HTTPS with the automatic certificate.
func TestSkopeoTrustsTheCertificate(t *testing.T) {
	t.Parallel()
	skopeo := needs(t, "skopeo")
	data, certs := t.TempDir(), t.TempDir()
	st, err := disk.Open(data)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	addr := make(chan net.Addr, 1)
	ended := make(chan error, 1)
	ctx := t.Context()
	go func() {
		ended <- registry.Serve(ctx, registry.Config{Listen: "127.0.0.1:0", Data: data, TLS: registry.TLS{Mode: "auto", Trust: certs}}, st, slog.New(slog.DiscardHandler), func(a net.Addr) { addr <- a }, nil)
	}()
	var host string
	select {
	case a := <-addr:
		host = a.String()
	case err := <-ended:
		t.Fatal(err)
	}
	src := t.TempDir()
	layout(t, src)
	run(t, skopeo, "--policy", policy(t), "copy", "--all", "--dest-cert-dir="+filepath.Join(certs, host), "oci:"+src+":v1", "docker://"+host+"/x:v1")
}

// TestDebiansRegistry copies between Debian's registry and ours, both ways, and through us as a cache of it.
func TestDebiansRegistry(t *testing.T) {
	t.Parallel()
	skopeo, peer := needs(t, "skopeo"), needs(t, "docker-registry")
	dir := t.TempDir()
	// A port of an address of its own: of 127.0.0.1 somebody else could have taken it when the program comes to it.
	l, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.%d:0", 1+os.Getpid()>>16&0x7f, os.Getpid()>>8&0xff, os.Getpid()&0xff))
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	conf := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(conf, []byte("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: "+dir+"/data}, delete: {enabled: true}}\nhttp: {addr: \""+addr+"\"}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(peer, "serve", conf)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	for limit := time.Now().Add(60 * time.Second); ; {
		if resp, err := http.Get("http://" + addr + "/v2/"); err == nil {
			resp.Body.Close()
			break
		} else if time.Now().After(limit) {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	r := start(t, registry.Config{Proxy: registry.Proxy{Upstreams: map[string]registry.Upstream{"debian.test": {URL: "http://" + addr}}}})
	ours := strings.TrimPrefix(r.url, "http://")
	src := t.TempDir()
	want := layout(t, src)
	pol := policy(t)
	for _, pair := range [][2]string{
		{"oci:" + src + ":v1", "docker://" + addr + "/app:v1"},
		{"docker://" + addr + "/app:v1", "docker://" + ours + "/app:v1"},
		{"docker://" + ours + "/app:v1", "docker://" + addr + "/back:v1"},
	} {
		run(t, skopeo, "--policy", pol, "copy", "--all", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false", pair[0], pair[1])
	}
	for _, name := range []string{addr + "/app", ours + "/app", addr + "/back", ours + "/debian.test/back"} {
		if got := run(t, skopeo, "inspect", "--tls-verify=false", "--no-tags", "--format", "{{.Digest}}", "docker://"+name+":v1"); strings.TrimSpace(got) != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	r.whole("debian.test/back", "v1")
}
