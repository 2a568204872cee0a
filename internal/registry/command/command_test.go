package command

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"gantry/internal/registry"
)

func TestParse(t *testing.T) {
	file := filepath.Join(t.TempDir(), "r.yaml")
	if err := os.WriteFile(file, []byte("listen: \":1\"\ndata: /x\ngc: {every: 2h}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg, _, err := Parse([]string{"-c", file, "--listen", ":2", "--tls", "auto", "--tls-name", "a,b", "--proxy", "docker.io", "--proxy", "x.test=http://127.0.0.1:1"}, none, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Listen != ":2" || cfg.Data != "/x" || time.Duration(cfg.GC.Every) != 2*time.Hour || cfg.TLS.Mode != "auto" || len(cfg.TLS.Names) != 2 ||
		cfg.Proxy.Upstreams["x.test"].URL != "http://127.0.0.1:1" || len(cfg.Proxy.Upstreams) != 2 {
		t.Errorf("%+v", cfg)
	}
	var out bytes.Buffer
	if _, _, err := Parse([]string{"--help"}, none, &out); err != pflag.ErrHelp || !strings.Contains(out.String(), "--htpasswd") {
		t.Error(err, out.String())
	}
	for _, bad := range [][]string{{"x"}, {"--x"}, {"--tls", "x"}, {"--log-level", "x"}, {"-c", "/none"}, {"--tls", "files"}, {"--proxy", "A/b"}} {
		if _, _, err := Parse(bad, none, io.Discard); err == nil {
			t.Errorf("%v: no error", bad)
		}
	}
}

func none(string) string { return "" }

func TestEnvironment(t *testing.T) {
	env := map[string]string{
		"REGISTRY_HTTP_ADDR": ":443", "REGISTRY_HTTP_TLS_CERTIFICATE": "/c", "REGISTRY_HTTP_TLS_KEY": "/k", "REGISTRY_AUTH": "htpasswd",
		"REGISTRY_AUTH_HTPASSWD_PATH": "/auth/htpasswd", "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": "/data", "REGISTRY_PROXY_REMOTEURL": "https://registry-1.docker.io",
		"REGISTRY_PROXY_USERNAME": "me", "REGISTRY_PROXY_PASSWORD": "secret",
	}
	cfg, _, err := Parse(nil, func(k string) string { return env[k] }, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Listen != ":443" || cfg.TLS.Mode != "files" || cfg.TLS.Cert != "/c" || cfg.TLS.Key != "/k" || cfg.Auth.Htpasswd != "/auth/htpasswd" || cfg.Auth.Mode != "basic" ||
		cfg.Data != "/data" || cfg.Proxy.Default != "docker.io" || cfg.Proxy.Upstreams["docker.io"] != (registry.Upstream{URL: "https://registry-1.docker.io", Username: "me", Password: "secret"}) {
		t.Errorf("%+v", cfg)
	}
	for k, v := range map[string]string{"REGISTRY_AUTH": "token", "REGISTRY_PROXY_REMOTEURL": "x"} {
		if _, _, err := Parse(nil, func(name string) string {
			if name == k {
				return v
			}
			return ""
		}, io.Discard); err == nil {
			t.Errorf("%s=%s: no error", k, v)
		}
	}
}

func TestRun(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	addr, ended := make(chan net.Addr, 1), make(chan error, 1)
	data := t.TempDir()
	go func() {
		ended <- Run(ctx, []string{"serve", "--listen", "127.0.0.1:0", "--data", data}, io.Discard, io.Discard, func(a net.Addr) { addr <- a })
	}()
	var at string
	select {
	case a := <-addr:
		at = a.String()
		resp, err := http.Get("http://" + a.String() + "/v2/")
		if err != nil || resp.StatusCode != 200 {
			t.Error(err, resp)
		}
		resp.Body.Close()
	case err := <-ended:
		t.Fatal(err)
	}
	// A second one over the same folder is refused.
	if err := Run(ctx, []string{"serve", "--listen", "127.0.0.1:0", "--data", data}, io.Discard, io.Discard, nil); err == nil || !strings.Contains(err.Error(), "another registry uses this folder: "+data+": stop that one, or give this one another folder (--data)") {
		t.Error(err)
	}
	// Nor at the same address, be it with a certificate or without.
	for _, more := range [][]string{{}, {"--tls", "auto", "--tls-trust", "none"}} {
		if err := Run(ctx, append([]string{"serve", "--listen", at, "--data", t.TempDir()}, more...), io.Discard, io.Discard, nil); err == nil ||
			!strings.Contains(err.Error(), at) || !strings.Contains(err.Error(), "stop who listens there, or give this one another address (--listen)") {
			t.Error(err)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	// A folder that can't be used is named, with the reason, and so are certificates.
	file := filepath.Join(data, "lock")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--data", file}, file + ": not a directory"},
		{[]string{"--data", t.TempDir(), "--tls-cert", file, "--tls-key", data + "/none.key"}, data + "/none.key: no such file or directory"},
		{[]string{"--data", t.TempDir(), "--tls-cert", file, "--tls-key", file}, file + " with " + file + ": tls: failed to find any PEM data"},
	} {
		if err := Run(t.Context(), append([]string{"serve", "--listen", "127.0.0.1:0"}, c.args...), io.Discard, io.Discard, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v", c.args, err)
		}
	}
	if err := Run(ctx, []string{"x"}, io.Discard, io.Discard, nil); err == nil {
		t.Error("no error")
	}
}
