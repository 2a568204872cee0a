package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
)

// server answers on a unix socket with a real HTTP server.
func server(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	s.Start()
	t.Cleanup(s.Close)
	c, err := New("unix://"+path, "", "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestKeepsConnections(t *testing.T) {
	t.Parallel()
	var conns atomic.Int32
	seen := map[string]bool{}
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		if !seen[r.RemoteAddr] {
			conns.Add(1)
		}
		http.SetCookie(w, &http.Cookie{})
		switch r.URL.Path {
		case "/v" + Version + "/containers/a/start":
			w.WriteHeader(http.StatusNoContent)
		case "/v" + Version + "/containers/json":
			for range 3 {
				io.WriteString(w, " ")
				w.(http.Flusher).Flush() // chunked
			}
			io.WriteString(w, "[]")
		default:
			w.WriteHeader(http.StatusNotFound)
			io.WriteString(w, `no`)
		}
	})
	ctx := context.Background()
	for range 3 {
		if err := c.ContainerStart(ctx, "a", ""); err != nil {
			t.Fatal(err)
		}
		if _, err := c.ContainerList(ctx, ListOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.ContainerInspect(ctx, "nope"); !IsNotFound(err) {
			t.Fatal(err)
		}
	}
	if len(c.idle) != 1 {
		t.Errorf("%d connections are kept; one at a time needs one", len(c.idle))
	}
}

func TestFallsBackToOlderEngines(t *testing.T) {
	t.Parallel()
	var asked []string
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.Path)
		w.Header().Set("Api-Version", "1.41")
		if strings.HasPrefix(r.URL.Path, "/v"+Version+"/") {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"message":"client version %s is too new. Maximum supported API version is 1.41"}`, Version)
			return
		}
		if r.URL.Path != "/_ping" {
			io.WriteString(w, "[]")
		}
	})
	for range 2 {
		if _, err := c.ContainerList(context.Background(), ListOptions{All: true}); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"GET /v" + Version + "/containers/json", "HEAD /_ping", "GET /v1.41/containers/json", "GET /v1.41/containers/json"}
	if fmt.Sprint(asked) != fmt.Sprint(want) {
		t.Errorf("asked %q, want %q", asked, want)
	}
}

func TestPinnedVersionStays(t *testing.T) {
	t.Parallel()
	var n atomic.Int32
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		w.WriteHeader(http.StatusBadRequest)
		io.WriteString(w, "client version 1.99 is too new. Maximum supported API version is 1.41")
	})
	c.version, c.pinned = "1.99", true
	_, err := c.ContainerList(context.Background(), ListOptions{})
	if err == nil || n.Load() != 1 || err.Error() != "Error response from daemon: client version 1.99 is too new. Maximum supported API version is 1.41" {
		t.Errorf("%d requests, error %v", n.Load(), err)
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.Contains(r.URL.Path, "json-error"):
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusConflict)
			io.WriteString(w, `{"message":"no way\n"}`)
		case strings.Contains(r.URL.Path, "empty"):
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	err := c.ContainerStart(context.Background(), "json-error", "")
	if err == nil || err.Error() != "Error response from daemon: no way" || !IsStatus(err, 409) {
		t.Error(err)
	}
	err = c.ContainerStart(context.Background(), "empty", "")
	if err == nil || !strings.HasPrefix(err.Error(), "request returned 500 Internal Server Error for API route and version ") || !IsStatus(err, 500) {
		t.Error(err)
	}
	gone, err := New("unix:///nonexistent/socket", "", "")
	if err != nil {
		t.Fatal(err)
	}
	_, err = gone.ContainerList(context.Background(), ListOptions{})
	if !IsConnection(err) || err.Error() != "Cannot connect to the Docker daemon at unix:///nonexistent/socket. Is the docker daemon running?" {
		t.Error(err)
	}
	revived := 0
	gone.Revive = func(context.Context) error { revived++; return errors.New("no engine") }
	if _, err = gone.ContainerList(context.Background(), ListOptions{}); err == nil || err.Error() != "no engine" || revived != 1 {
		t.Error(err, revived)
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	got := make(chan struct{})
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		close(got)
		<-release
	})
	defer close(release)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-got; cancel() }()
	if _, err := c.ContainerWait(ctx, "a", ""); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if len(c.idle) != 0 {
		t.Error("a connection with an answer under way was kept")
	}
}

func TestUpgradeHalfCloses(t *testing.T) {
	t.Parallel()
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "tcp" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		nc, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		defer nc.Close()
		// The first bytes come with the head, as an engine that is fast may send them.
		io.WriteString(nc, "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nfirst ")
		b, _ := io.ReadAll(rw)
		nc.Write(b)
	})
	s, err := c.ContainerAttach(context.Background(), "a", AttachOptions{Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	big := strings.Repeat("x", 1<<20)
	go func() { io.Copy(s, strings.NewReader(big)); s.CloseWrite() }()
	b, err := io.ReadAll(s)
	if err != nil || string(b) != "first "+big {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

func TestStreamedBody(t *testing.T) {
	t.Parallel()
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n, err)
	})
	resp, err := c.ImageLoad(context.Background(), io.LimitReader(zeros{}, 10<<20+7), true, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); string(b) != "10485767 <nil>" {
		t.Errorf("%s", b)
	}
	// A refusal comes through though the body is far from its end.
	c = server(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusTeapot) })
	if _, err := c.ImageLoad(context.Background(), zeros{}, true, nil); !IsStatus(err, http.StatusTeapot) {
		t.Error(err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestCreateBody(t *testing.T) {
	t.Parallel()
	var body string
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		body = string(b)
		w.WriteHeader(http.StatusCreated)
		io.WriteString(w, `{"Id":"x","Warnings":["w"]}`)
	})
	out, err := c.ContainerCreate(context.Background(), "n", "", container.CreateRequest{Config: &container.Config{Image: "<&>"}})
	if err != nil || out.ID != "x" || len(out.Warnings) != 1 || !strings.Contains(body, `"Image":"<&>"`) {
		t.Error(out, err, body)
	}
}

func frame(kind byte, s string) string {
	h := make([]byte, 8)
	h[0] = kind
	binary.BigEndian.PutUint32(h[4:], uint32(len(s)))
	return string(h) + s
}

// pieces gives out a few bytes at a time.
type pieces struct {
	r   *bytes.Reader
	rnd *rand.Rand
}

func (p pieces) Read(b []byte) (int, error) { return p.r.Read(b[:min(len(b), 1+p.rnd.Intn(20))]) }

func TestDemux(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("0123456789", 20000)
	in := frame(1, "a") + frame(2, "e") + frame(1, "") + frame(1, big) + frame(0, "z") + frame(2, big)
	for seed := range int64(20) {
		var out, errs bytes.Buffer
		if err := Demux(&out, &errs, pieces{bytes.NewReader([]byte(in)), rand.New(rand.NewSource(seed))}); err != nil {
			t.Fatal(err)
		}
		if out.String() != "a"+big+"z" || errs.String() != "e"+big {
			t.Fatalf("seed %d: %d and %d bytes", seed, out.Len(), errs.Len())
		}
	}
	if err := Demux(io.Discard, nil, strings.NewReader(frame(1, "a")+frame(3, "bad"))); err == nil || err.Error() != "error from daemon in stream: bad" {
		t.Error(err)
	}
	if err := Demux(io.Discard, nil, strings.NewReader(frame(9, "a"))); err == nil || err.Error() != "unrecognized stream: 9" {
		t.Error(err)
	}
}

func FuzzDemux(f *testing.F) {
	f.Add([]byte(frame(1, "a") + frame(2, "b")))
	f.Add([]byte("\x01\x00\x00\x00\xff\xff\xff\xffabc"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var n countWriter
		Demux(&n, &n, bytes.NewReader(b))
		if int(n) > len(b) {
			t.Errorf("%d bytes of %d", n, len(b))
		}
	})
}

type countWriter int

func (c *countWriter) Write(p []byte) (int, error) { *c += countWriter(len(p)); return len(p), nil }

// FuzzResponse holds our reader against net/http's: what both take, both read alike.
func FuzzResponse(f *testing.F) {
	f.Add("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
	f.Add("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
	f.Add("HTTP/1.1 204 No Content\r\n\r\n")
	f.Add("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nX: y\r\n\r\nbody")
	f.Add("HTTP/1.0 200 OK\r\n\r\nall")
	f.Fuzz(func(t *testing.T, s string) {
		a, b := net.Pipe()
		defer a.Close()
		go func() { io.WriteString(b, s); b.Close() }()
		a.SetDeadline(time.Now().Add(10 * time.Second))
		resp, err := newConn(a).readResponse("GET")
		if err != nil || resp.Status == 101 {
			return
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		if err != nil {
			return
		}
		r := bufio.NewReader(strings.NewReader(s))
		for {
			std, err := http.ReadResponse(r, &http.Request{Method: "GET"})
			if err != nil {
				return // stricter than we need to be
			}
			if std.StatusCode < 200 {
				continue
			}
			want, err := io.ReadAll(std.Body)
			if err != nil {
				return
			}
			if std.StatusCode != resp.Status || string(want) != string(body) {
				t.Errorf("%q: %d %q, net/http reads %d %q", s, resp.Status, body, std.StatusCode, want)
			}
			return
		}
	})
}

func TestVersionLess(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		less bool
	}{{"1.9", "1.41", true}, {"1.41", "1.9", false}, {"1.41", "1.41", false}, {"1.41", "2.0", true}, {"", "1.0", true}} {
		if VersionLess(c.a, c.b) != c.less {
			t.Errorf("VersionLess(%q, %q) = %t", c.a, c.b, !c.less)
		}
	}
}

func TestHosts(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]string{
		"unix:///a/b": "unix /a/b", "tcp://h:1": "tcp h:1", "tcp://[::1]:5": "tcp [::1]:5", "tcp://h:1/p/": "tcp h:1", "tcp://h": "tcp h:2375",
	} {
		c, err := New(host, "", "")
		if err != nil || c.proto+" "+c.addr != want {
			t.Errorf("%s: %v, %v", host, c, err)
		}
	}
	for _, host := range []string{"", "x", "foo://x", "ssh://h"} {
		if _, err := New(host, "", ""); err == nil {
			t.Errorf("%q was taken", host)
		}
	}
}
