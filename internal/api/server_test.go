package api

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gantry/internal/errs"
	"gantry/internal/events"
	"gantry/test/swagger"
)

// serve runs a server without containers and images on a socket of its own.
func serve(t *testing.T) (*Server, string) {
	t.Helper()
	h := ReadHost()
	h.Version = "0.0.1"
	s := New(Deps{Events: events.New(), Host: h, Log: slog.New(slog.DiscardHandler)})
	sock := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return s, sock
}

func client(t *testing.T, sock string, h2 bool) *http.Client {
	t.Helper()
	tr := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", sock)
		},
		Protocols: new(http.Protocols),
	}
	tr.Protocols.SetHTTP1(!h2)
	tr.Protocols.SetUnencryptedHTTP2(h2)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func do(t *testing.T, c *http.Client, method, path, body string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://x"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func TestPing(t *testing.T) {
	t.Parallel()
	_, sock := serve(t)
	for _, h2 := range []bool{false, true} {
		c := client(t, sock, h2)
		for _, method := range []string{"GET", "HEAD"} {
			resp, body := do(t, c, method, "/_ping", "")
			if resp.StatusCode != 200 || (resp.ProtoMajor == 2) != h2 {
				t.Errorf("%s: %s %s", method, resp.Proto, resp.Status)
			}
			if want := map[string]string{"GET": "OK", "HEAD": ""}[method]; body != want {
				t.Errorf("%s: body %q", method, body)
			}
			for k, want := range map[string]string{
				"Api-Version": "1.56", "Ostype": "linux", "Docker-Experimental": "false", "Builder-Version": "1", "Swarm": "inactive",
				"Cache-Control": "no-cache, no-store, must-revalidate", "Pragma": "no-cache", "Content-Type": "text/plain; charset=utf-8",
				"Server": "Docker/1.56 Gantry/0.0.1 (linux)",
			} {
				if got := resp.Header.Get(k); got != want {
					t.Errorf("%s: %s is %q, want %q", method, k, got, want)
				}
			}
		}
	}
}

func TestVersions(t *testing.T) {
	t.Parallel()
	_, sock := serve(t)
	c := client(t, sock, false)
	for _, x := range []struct {
		path   string
		status int
		body   string
	}{
		{"/v1.24/_ping", 200, "OK"},
		{"/v1.56/_ping", 200, "OK"},
		{"/v1.12/_ping", 400, "client version 1.12 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version\n"},
		{"/v1.99/_ping", 400, `{"message":"client version 1.99 is too new. Maximum supported API version is 1.56"}` + "\n"},
		{"/v2.0/_ping", 400, `{"message":"client version 2.0 is too new. Maximum supported API version is 1.56"}` + "\n"},
		{"/v1.41/nosuch", 404, `{"message":"page not found"}` + "\n"},
		{"/nosuch", 404, `{"message":"page not found"}` + "\n"},
		{"/vx/_ping", 404, `{"message":"page not found"}` + "\n"},
		{"/v1.41", 404, `{"message":"page not found"}` + "\n"},
		{"/containers//json", 404, `{"message":"page not found"}` + "\n"},
		{"/containers/x/checkpoints", 501, `{"message":"checkpoint is not implemented yet in Gantry"}` + "\n"},
	} {
		resp, body := do(t, c, "GET", x.path, "")
		if resp.StatusCode != x.status || body != x.body {
			t.Errorf("%s: %d %q, want %d %q", x.path, resp.StatusCode, body, x.status, x.body)
		}
	}
	if resp, _ := do(t, c, "DELETE", "/_ping", ""); resp.StatusCode != 404 {
		t.Errorf("wrong method: %s", resp.Status)
	}
}

func TestShowVersion(t *testing.T) {
	t.Parallel()
	_, sock := serve(t)
	spec, err := swagger.Load("1.56")
	if err != nil {
		t.Fatal(err)
	}
	resp, body := do(t, client(t, sock, false), "GET", "/version", "")
	for _, p := range spec.Validate("GET", "/version", resp.StatusCode, []byte(body)) {
		t.Error(p)
	}
	var x map[string]any
	if err := json.Unmarshal([]byte(body), &x); err != nil {
		t.Fatal(err)
	}
	for k, want := range map[string]string{"Version": "0.0.1", "ApiVersion": "1.56", "MinAPIVersion": "1.24", "Os": "linux"} {
		if x[k] != want {
			t.Errorf("%s is %v", k, x[k])
		}
	}
}

// TestEvents follows the stream over both protocols: the header comes at once, messages as they happen.
func TestEvents(t *testing.T) {
	t.Parallel()
	s, sock := serve(t)
	for _, h2 := range []bool{false, true} {
		c := client(t, sock, h2)
		for path, want := range map[string][]string{
			`/events?filters={"type":{"container":true}}`:  {"application/jsonl", `"Action":"start"`},
			`/v1.43/events?filters={"type":["container"]}`: {"application/json", `"status":"start","id":"abc","from":"img"`},
		} {
			req, _ := http.NewRequestWithContext(t.Context(), "GET", "http://x"+path, nil)
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if got := resp.Header.Get("Content-Type"); got != want[0] {
				t.Errorf("%s: %s", path, got)
			}
			s.deps.Events.Image("pull", "x", "y", nil)
			s.deps.Events.Container("start", "abc", map[string]string{"image": "img"})
			line, err := bufio.NewReader(resp.Body).ReadString('\n')
			if err != nil || !strings.Contains(line, want[1]) {
				t.Errorf("%s: %q, %v", path, line, err)
			}
			if strings.HasPrefix(path, "/events") && strings.Contains(line, "status") {
				t.Errorf("%s: legacy fields: %s", path, line)
			}
			resp.Body.Close()
		}
	}
	c := client(t, sock, false)
	_, body := do(t, c, "GET", "/events?since=1&until=2", "")
	if body != "" {
		t.Errorf("from the past: %q", body)
	}
	for path, want := range map[string]string{
		"/events?since=abc":       `invalid value for \"since\": invalid timestamp \"abc\": invalid seconds \"abc\": invalid syntax`,
		"/events?since=2&until=1": "`since` time (2) cannot be after `until` time (1)",
		"/events?filters=x":       "invalid filter",
	} {
		if resp, body := do(t, c, "GET", path, ""); resp.StatusCode != 400 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
}

// TestShutdownEndsStreams: without, an engine with one `docker events` running would never stop.
func TestShutdownEndsStreams(t *testing.T) {
	t.Parallel()
	_, sock := serve(t) // its cleanup shuts down, and fails where that takes a minute
	resp, err := client(t, sock, false).Get("http://x/events")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
}

// TestPanicIsLoggedAndSurvived: containers.Get of no service at all panics.
func TestPanicIsLoggedAndSurvived(t *testing.T) {
	t.Parallel()
	s, sock := serve(t)
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	s.log = slog.New(slog.NewTextHandler(file, nil))
	c := client(t, sock, false)
	if resp, err := c.Get("http://x/containers/x/json"); err == nil {
		t.Errorf("answered %s", resp.Status)
	}
	if resp, _ := do(t, c, "GET", "/_ping", ""); resp.StatusCode != 200 {
		t.Error(resp.Status)
	}
	if logged, err := os.ReadFile(file.Name()); err != nil || !strings.Contains(string(logged), "request panicked") || !strings.Contains(string(logged), "containerInspect") {
		t.Errorf("log: %s, %v", logged, err)
	}
}

func TestStatusOfEveryKind(t *testing.T) {
	t.Parallel()
	for k, want := range map[errs.Kind]int{
		errs.Internal: 500, errs.Invalid: 400, errs.NotFound: 404, errs.Conflict: 409, errs.NotModified: 304, errs.Forbidden: 403,
		errs.Unauthorized: 401, errs.Unavailable: 503, errs.NotImplemented: 501, errs.Canceled: 500,
	} {
		if got := status(k); got != want {
			t.Errorf("%v: %d, want %d", k, got, want)
		}
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		method, path string
		have         version
		pattern      string
		name         string
	}{
		{"GET", "/containers/json", maxVersion, "/containers/json", ""},
		{"GET", "/containers/abc/json", maxVersion, "/containers/{name}/json", "abc"},
		{"GET", "/containers/json/json", maxVersion, "/containers/{name}/json", "json"},
		{"GET", "/images/docker.io/library/debian:12/json", maxVersion, "/images/{name}/json", "docker.io/library/debian:12"},
		{"DELETE", "/images/a/b@sha256:00", maxVersion, "/images/{name}", "a/b@sha256:00"},
		{"POST", "/images/a/b/tag", maxVersion, "/images/{name}/tag", "a/b"},
		{"POST", "/containers/prune", v(24), "", ""},
		{"POST", "/containers/prune", v(25), "/containers/prune", ""},
		{"GET", "/images/x/attestations", v(54), "", ""},
		{"GET", "/containers/", maxVersion, "", ""},
		{"GET", "", maxVersion, "", ""},
		{"PATCH", "/containers/json", maxVersion, "", ""},
	} {
		r, name := find(x.method, x.path, x.have)
		got := ""
		if r != nil {
			got = r.pattern
		}
		if got != x.pattern || name != x.name {
			t.Errorf("%s %s: %q with %q, want %q with %q", x.method, x.path, got, name, x.pattern, x.name)
		}
	}
}

// TestRoutesAreDockers: a route that moby does not describe is a typing error, and one that it describes and
// we lack should be a "missing" line, so that clients are told.
func TestRoutesAreDockers(t *testing.T) {
	t.Parallel()
	spec, err := swagger.Load("1.56")
	if err != nil {
		t.Fatal(err)
	}
	ours := func(method, path string) bool { r, _ := find(method, path, maxVersion); return r != nil }
	undescribed := map[string]bool{"GET /containers/{name}/checkpoints": true, "POST /containers/{name}/checkpoints": true, "POST /grpc": true, "POST /build/cancel": true, "DELETE /images/": true}
	for _, r := range routes {
		path := strings.ReplaceAll(r.pattern, "{name}", "init")
		if strings.HasPrefix(path, "/gantry/") { // our own
			continue
		}
		beyond := strings.HasPrefix(r.pattern, "/volumes/{name}/") // what Docker's volumes can't do
		if !spec.Describes(r.method, path) && !undescribed[r.method+" "+r.pattern] && !beyond {
			t.Errorf("%s %s is not Docker's", r.method, r.pattern)
		}
	}
	for _, op := range spec.Operations() {
		method, path, _ := strings.Cut(op, " ")
		if strings.HasPrefix(path, "/plugins/") || strings.Contains(path, "swarm") || strings.HasPrefix(path, "/nodes/") || strings.HasPrefix(path, "/services/") ||
			strings.HasPrefix(path, "/tasks/") || strings.HasPrefix(path, "/secrets/") || strings.HasPrefix(path, "/configs/") {
			continue // Gantry is no swarm and has no plugins
		}
		for strings.Contains(path, "{") {
			a, b := strings.IndexByte(path, '{'), strings.IndexByte(path, '}')
			path = path[:a] + "x" + path[b+1:]
		}
		if !ours(method, path) {
			t.Errorf("%s is not answered", op)
		}
	}
}

func FuzzRoute(f *testing.F) {
	for _, r := range routes {
		f.Add(r.method, "/v1.44"+r.pattern)
	}
	f.Add("GET", "/v")
	f.Add("GET", "/v1.")
	f.Add("GET", "/v.../x")
	f.Add("GET", "/v99999999999999999999.1/x")
	f.Fuzz(func(t *testing.T, method, path string) {
		text, rest := cutVersion(path)
		x, err := negotiate(text)
		if err == nil && (x < minVersion || x > maxVersion) {
			t.Errorf("%q became %v", text, x)
		}
		if r, name := find(method, rest, maxVersion); r != nil && strings.Contains(r.pattern, "{name}") {
			if name == "" || strings.Replace(r.pattern, "{name}", name, 1) != rest {
				t.Errorf("%q matched %q with %q", rest, r.pattern, name)
			}
		}
	})
}

// TestRefusedWhileSending: a client that is still sending gets the whole reason at once, with its length, and needs nothing of
// what comes when it is cut off.
func TestRefusedWhileSending(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := (&call{w: w, r: r}).refuseBody(errs.Invalid.Errorf("too much")); err != nil {
			t.Error(err)
		}
	}))
	defer s.Close()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if want := `{"message":"too much"}` + "\n"; err != nil || string(body) != want || resp.ContentLength != int64(len(want)) || resp.StatusCode != 400 {
		t.Errorf("%s, %d bytes: %q, %v", resp.Status, resp.ContentLength, body, err)
	}
}
