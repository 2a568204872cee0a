package remote

import (
	"context"
	"net"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestChallenges(t *testing.T) {
	for _, c := range []struct {
		in   string
		want []challenge
	}{
		{"", nil},
		{`Basic realm="Registry Realm"`, []challenge{{"basic", map[string]string{"realm": "Registry Realm"}}}},
		{`Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"`,
			[]challenge{{"bearer", map[string]string{"realm": "https://auth.docker.io/token", "service": "registry.docker.io", "scope": "repository:a/b:pull,push"}}}},
		{`BEARER Realm = "a\"b" , service=plain`, []challenge{{"bearer", map[string]string{"realm": `a"b`, "service": "plain"}}}},
		{`Bearer realm=https://x/token,error=invalid_token`, []challenge{{"bearer", map[string]string{"realm": "https://x/token", "error": "invalid_token"}}}},
		{`Negotiate, Basic realm="x", Bearer realm="y"`, []challenge{{"negotiate", map[string]string{}}, {"basic", map[string]string{"realm": "x"}}, {"bearer", map[string]string{"realm": "y"}}}},
		{`Bearer realm="unfinished`, []challenge{{"bearer", map[string]string{}}}},
		{`=`, nil},
	} {
		if got := parseChallenges([]string{c.in}); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v", c.in, got)
		}
	}
}

func FuzzChallenges(f *testing.F) {
	for _, s := range []string{`Basic realm="x"`, `Bearer realm="https://x/t",service="s",scope="a:b:c"`, `a b=c, d e="f\"g"`, `,,,=`, "Negotiate"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		all := parseChallenges([]string{s, s})
		if len(all) > maxChallenges+1 {
			t.Errorf("%d challenges", len(all))
		}
		for _, c := range all {
			if c.scheme == "" || c.scheme != strings.ToLower(c.scheme) || c.params == nil {
				t.Errorf("%q: %v", s, c)
			}
		}
	})
}

const hostsText = `# mirrors
server = "https://registry-1.docker.io"
ca = "/etc/ca.pem"

[host."https://mirror.example:5000/v2/"]
  capabilities = ["pull", "resolve"] # not push
  client = [["a.cert", "a.key"], ["/b.pem", ""]]
  skip_verify = true
  [host."https://mirror.example:5000/v2/".header]
    x-one = "1"
    x-many = ["2",
      '3',
    ]
[host.'http://plain']
  override_path = true
  ca = ["x.crt"]
`

func TestHostsFile(t *testing.T) {
	f, err := parseHosts([]byte(hostsText))
	if err != nil {
		t.Fatal(err)
	}
	if f.server.url.String() != "https://registry-1.docker.io" || len(f.hosts) != 2 {
		t.Fatalf("%+v", f)
	}
	m := f.hosts[0]
	if m.url.String() != "https://mirror.example:5000/v2" || !m.pull || !m.resolve || m.push || !m.skipVerify || !reflect.DeepEqual(m.header, http.Header{"X-One": {"1"}, "X-Many": {"2", "3"}}) {
		t.Errorf("%+v", m)
	}
	if files := m.tls("/d"); !reflect.DeepEqual(files.pairs, [][2]string{{"/d/a.cert", "/d/a.key"}, {"/b.pem", "/b.pem"}}) {
		t.Errorf("%+v", files)
	}
	if u := apiBase(m.url, false); u.String() != "https://mirror.example:5000/v2" {
		t.Error(u)
	}
	if u := apiBase(f.hosts[1].url, f.hosts[1].overridePath); u.String() != "http://plain" {
		t.Error(u)
	}
	for _, bad := range []string{
		"server = 5", "server = \"ftp://x\"", "[host.\"https://x\"]\ncapabilities = [\"fly\"]", "host = 1", "[[host]]", "a = \"\"\"x\"\"\"", "a = 'x", "a", "a = 1\na = 2", "[a]\n[a]",
		"skip_verify = 1", "a = [1 2]", "a = \"\\q\"", "a = 1 b = 2", strings.Repeat("a = ", 2) + strings.Repeat("[", 100), "\xff", "[host.\"https://x\".header]\nx = 1",
	} {
		if _, err := parseHosts([]byte(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func FuzzHostsFile(f *testing.F) {
	for _, s := range []string{hostsText, "", "a = {b = 1, c = [true]}", `a."b c".d = "\u00e9"`, "[a.b]\nc = '''x'''", "x = [[[[]]]]", "host = {\"https://x\" = {ca = 'y'}}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parseHosts([]byte(s))
		if err != nil {
			return
		}
		for _, x := range h.hosts {
			if x.url == nil || x.url.Host == "" || x.url.User != nil || x.url.Scheme != "http" && x.url.Scheme != "https" {
				t.Errorf("%q: %v", s, x.url)
			}
			x.tls("/d")
		}
	})
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	for in, want := range map[string]time.Duration{"": 0, "7": 7 * time.Second, "-1": 0, "x": 0, "Mon, 01 Jan 2024 00:01:00 GMT": time.Minute, "Sun, 31 Dec 2023 00:00:00 GMT": 0, "99999999999": 0} {
		if got := retryAfter(http.Header{"Retry-After": {in}}, now); got != want && !(in == "99999999999" && got > 0) {
			t.Errorf("%q: %v", in, got)
		}
	}
}

func TestUploaded(t *testing.T) {
	for in, want := range map[string]int64{"0-9": 10, "bytes=0-9": 10, "0-0": 0, "": 0, "5-9": 0, "0--1": 0, "0-x": 0} {
		if got := uploaded(in); got != want {
			t.Errorf("%q: %d", in, got)
		}
	}
}

func TestHostOf(t *testing.T) {
	for in, want := range map[string]string{
		"": "docker.io", "https://index.docker.io/v1/": "docker.io", "docker.io": "docker.io", "localhost:5000": "localhost:5000", "https://reg.example/": "reg.example", "http://reg.example:5000/v2/": "reg.example:5000",
	} {
		if got := hostOf(in); got != want {
			t.Errorf("%q: %s", in, got)
		}
	}
}

// TestListening: who else listens on a host is found out while the caller waits, and no longer.
func TestListening(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.83.12.5:5000")
	if err != nil {
		t.Skip(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(context.Background())
	if got := listening(ctx, "127.83.12.5:1"); got != "127.83.12.5:5000" {
		t.Errorf("found %q", got)
	}
	cancel()
	if got := listening(ctx, "127.83.12.5:1"); got != "" {
		t.Errorf("found %q for nobody", got)
	}
}
