package registry_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"gantry/internal/registry"
	"gantry/internal/registry/disk"
)

// TestTheTrustOfAPortIsItsOwners: who can't have the port leaves the authority of who has it; who serves again after its certificates were
// deleted is trusted again.
func TestTheTrustOfAPortIsItsOwners(t *testing.T) {
	t.Parallel()
	trust, data := t.TempDir(), t.TempDir()
	serve := func(data, listen string) (addr string, stop func(), err error) {
		t.Helper()
		st, err := disk.Open(data)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ready, ended := make(chan net.Addr, 1), make(chan error, 1)
		go func() {
			ended <- registry.Serve(ctx, registry.Config{Listen: listen, Data: data, TLS: registry.TLS{Mode: "auto", Trust: trust}}, st, slog.New(slog.NewTextHandler(io.Discard, nil)), func(a net.Addr) { ready <- a }, nil)
		}()
		select {
		case a := <-ready:
			return a.String(), func() {
				cancel()
				<-ended
				st.Close()
			}, nil
		case err := <-ended:
			cancel()
			st.Close()
			return "", nil, err
		}
	}
	trusted := func(addr, data string) bool {
		t.Helper()
		_, port, _ := net.SplitHostPort(addr)
		there, err := os.ReadFile(filepath.Join(trust, "localhost:"+port, "ca.crt"))
		own, oerr := os.ReadFile(registry.CAFile(data))
		if err := errors.Join(err, oerr); err != nil {
			t.Fatal(err)
		}
		return string(there) == string(own)
	}
	addr, stop, err := serve(data, "127.77.3.9:0") // whose ports nobody else takes before the second start
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := serve(t.TempDir(), addr); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second one at %s: %v", addr, err)
	}
	if !trusted(addr, data) {
		t.Error("the second one took the trust that is the first one's")
	}
	stop()
	if err := os.RemoveAll(filepath.Join(data, "tls")); err != nil {
		t.Fatal(err)
	}
	again, stop, err := serve(data, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if !trusted(again, data) {
		t.Error("the new authority is not trusted")
	}
}
