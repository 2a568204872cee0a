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
)

func TestParse(t *testing.T) {
	file := filepath.Join(t.TempDir(), "r.yaml")
	if err := os.WriteFile(file, []byte("listen: \":1\"\ndata: /x\ngc: {every: 2h}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg, _, err := Parse([]string{"-c", file, "--listen", ":2", "--tls", "auto", "--tls-name", "a,b", "--proxy", "docker.io", "--proxy", "x.test=http://127.0.0.1:1"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Listen != ":2" || cfg.Data != "/x" || time.Duration(cfg.GC.Every) != 2*time.Hour || cfg.TLS.Mode != "auto" || len(cfg.TLS.Names) != 2 ||
		cfg.Proxy.Upstreams["x.test"].URL != "http://127.0.0.1:1" || len(cfg.Proxy.Upstreams) != 2 {
		t.Errorf("%+v", cfg)
	}
	var out bytes.Buffer
	if _, _, err := Parse([]string{"--help"}, &out); err != pflag.ErrHelp || !strings.Contains(out.String(), "--htpasswd") {
		t.Error(err, out.String())
	}
	for _, bad := range [][]string{{"x"}, {"--x"}, {"--tls", "x"}, {"--log-level", "x"}, {"-c", "/none"}, {"--tls", "files"}, {"--proxy", "A/b"}} {
		if _, _, err := Parse(bad, io.Discard); err == nil {
			t.Errorf("%v: no error", bad)
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
	select {
	case a := <-addr:
		resp, err := http.Get("http://" + a.String() + "/v2/")
		if err != nil || resp.StatusCode != 200 {
			t.Error(err, resp)
		}
		resp.Body.Close()
	case err := <-ended:
		t.Fatal(err)
	}
	// A second one over the same folder is refused.
	if err := Run(ctx, []string{"serve", "--listen", "127.0.0.1:0", "--data", data}, io.Discard, io.Discard, nil); err == nil || !strings.Contains(err.Error(), "another registry") {
		t.Error(err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := Run(ctx, []string{"x"}, io.Discard, io.Discard, nil); err == nil {
		t.Error("no error")
	}
}
