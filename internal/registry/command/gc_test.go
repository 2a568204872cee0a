package command

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// serveFile runs a registry with a configuration file until stop, and returns its address.
func serveFile(t *testing.T, file, addr string) (at string, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan net.Addr, 1), make(chan error, 1)
	go func() {
		ended <- Run(ctx, []string{"serve", "-c", file, "-l", addr}, io.Discard, io.Discard, func(a net.Addr) { ready <- a })
	}()
	select {
	case a := <-ready:
		at = a.String()
	case err := <-ended:
		t.Fatal(err)
	}
	return at, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// orphan uploads a blob that no manifest points to.
func orphan(t *testing.T, addr, text string) {
	t.Helper()
	q, err := http.NewRequest("POST", fmt.Sprintf("http://%s/v2/repo/blobs/uploads/?digest=sha256:%x", addr, sha256.Sum256([]byte(text))), strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	q.SetBasicAuth("alice", "secret")
	resp, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Fatal(resp.Status)
	}
}

// TestGC collects in a registry that runs, without and with a login, and in the folder of one that does not.
func TestGC(t *testing.T) {
	dir := t.TempDir()
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	users := filepath.Join(dir, "users")
	if err := os.WriteFile(users, fmt.Appendf(nil, "alice:%s\n", hash), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "r.yaml")
	write := func(more string) {
		t.Helper()
		if err := os.WriteFile(file, []byte("data: "+filepath.Join(dir, "data")+"\ngc: {every: never, grace: 1ns, untagged: 1ns}\n"+more), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	gc := func(addr, password string, args ...string) (string, error) {
		var out bytes.Buffer
		err := collect(t.Context(), append([]string{"-c", file, "-l", addr}, args...), strings.NewReader(password), &out)
		return out.String(), err
	}
	write("")
	addr, stop := serveFile(t, file, "127.0.0.1:0")
	orphan(t, addr, "one")
	if out, err := gc(addr, ""); err != nil || !strings.Contains(out, "blobs: 1,") || !strings.Contains(out, "Freed: 3B") {
		t.Errorf("of a running one: %q, %v", out, err)
	}
	orphan(t, addr, "four")
	stop()
	if out, err := gc(addr, ""); err != nil || !strings.Contains(out, "Freed: 4B") {
		t.Errorf("of a folder: %q, %v", out, err)
	}
	write("auth: {htpasswd: " + users + "}\n")
	addr, stop = serveFile(t, file, "127.0.0.1:0")
	defer stop()
	orphan(t, addr, "three")
	if _, err := gc(addr, ""); err == nil || !strings.Contains(err.Error(), "give --user") {
		t.Errorf("without a login: %v", err)
	}
	if out, err := gc(addr, "secret\n", "--user", "alice"); err != nil || !strings.Contains(out, "Freed: 5B") {
		t.Errorf("with a login: %q, %v", out, err)
	}
}

// TestHangup changes the configuration while the registry runs; a wrong one changes nothing.
func TestHangup(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "r.yaml")
	write := func(more string) {
		t.Helper()
		if err := os.WriteFile(file, []byte("data: "+filepath.Join(dir, "data")+"\n"+more), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	addr, stop := serveFile(t, file, "127.0.0.1:0")
	defer stop()
	// becomes asks until an upload is answered so: the signal's work is done beside everything else.
	becomes := func(want int) {
		t.Helper()
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			resp, err := http.Post("http://"+addr+"/v2/repo/blobs/uploads/", "", http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode == want {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("an upload is still answered with %s", resp.Status)
			}
		}
	}
	becomes(http.StatusAccepted)
	write("auth: {rules: [{users: [anonymous], repositories: [\"**\"], allow: [pull]}]}\n")
	becomes(http.StatusUnauthorized)
	write("auth: [what is this\n")
	becomes(http.StatusUnauthorized)
	write("")
	becomes(http.StatusAccepted)
}
