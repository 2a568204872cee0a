package parse

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
)

func lookup(name string) (string, bool) {
	if name == "HAVE" {
		return "it", true
	}
	return "", false
}

func TestEnvFile(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"A=b\n":                         "[A=b]",
		"\xef\xbb\xbfA=b":               "[A=b]",
		"# c\n\n  \n\tA=b c \nB=":       "[A=b c  B=]",
		"HAVE\nLACK\nX=#1\n":            "[HAVE=it X=#1]",
		"A=b\r\n":                       "[A=b]",
		"A=1\nA=2":                      "[A=1 A=2]",
		"A B=1":                         "variable 'A B' contains whitespaces",
		"=x":                            "no variable name on line '=x'",
		"A=\xff":                        "invalid utf8 bytes at line 1: [65 61 255]",
		strings.Repeat("x", 2<<20) + "": "bufio.Scanner: token too long",
	} {
		got, err := EnvFile(strings.NewReader(in), lookup)
		s := fmt.Sprint(got)
		if err != nil {
			s = err.Error()
		}
		if s != want {
			t.Errorf("%.40q: %s, want %s", in, s, want)
		}
	}
}

func TestEnv(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"A=b": "A=b", "A=": "A=", "HAVE": "HAVE=it", "LACK": "LACK", "A=b=c": "A=b=c"} {
		if got, err := Env(in, lookup); got != want || err != nil {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "=x"} {
		if _, err := Env(in, lookup); err == nil || err.Error() != "invalid environment variable: "+in {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func FuzzEnvFile(f *testing.F) {
	f.Add("A=b\n# c\nHAVE")
	f.Add("\xef\xbb\xbf=\n")
	f.Fuzz(func(t *testing.T, s string) {
		out, err := EnvFile(strings.NewReader(s), lookup)
		if err != nil {
			return
		}
		for _, kv := range out {
			name, _, ok := strings.Cut(kv, "=")
			if !ok || name == "" || strings.ContainsAny(name, " \t\n#") && strings.HasPrefix(name, "#") || strings.ContainsAny(kv, "\n") {
				t.Errorf("%q gives %q", s, kv)
			}
		}
	})
}

func TestDetachKeys(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][]byte{
		"": {16, 17}, "ctrl-p,ctrl-q": {16, 17}, "a": {'a'}, "ctrl-@": {0}, "ctrl-[,ctrl-_": {27, 31}, "ctrl-z,x,ctrl-\\": {26, 'x', 28},
	} {
		if got, err := DetachKeys(in); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for in, bad := range map[string]string{"foo": "foo", "ctrl-": "ctrl-", "ctrl-A": "ctrl-A", "a,,b": "", "ctrl-aa": "ctrl-aa", "é": "é"} {
		want := fmt.Sprintf("invalid detach keys (%s): Unknown character: '%s'", in, bad)
		if _, err := DetachKeys(in); err == nil || err.Error() != want {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestEscape(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		keys, in, out string
		detached      bool
	}{
		{"\x10\x11", "abc", "abc", false},
		{"\x10\x11", "ab\x10\x11cd", "ab", true},
		{"\x10\x11", "\x10a\x10\x10\x11", "\x10a\x10", true},
		{"\x10\x11", "abc\x10", "abc\x10", false},
		{"aab", "aaab", "a", true},
		{"aab", "aaaac", "aaaac", false},
		{"aa", "baab", "b", true},
		{"a", "xay", "x", true},
		{"abab", "abaabab", "aba", true},
	} {
		for _, r := range []io.Reader{strings.NewReader(c.in), iotest.OneByteReader(strings.NewReader(c.in)), iotest.DataErrReader(strings.NewReader(c.in))} {
			out, err := io.ReadAll(Escape(r, []byte(c.keys)))
			if string(out) != c.out || errors.Is(err, ErrDetached) != c.detached || err != nil && !c.detached {
				t.Errorf("keys %q in %q: %q, %v", c.keys, c.in, out, err)
			}
		}
	}
}

// FuzzEscape: what comes out is what went in, up to the first sequence, however it is cut into reads.
func FuzzEscape(f *testing.F) {
	f.Add([]byte("ab"), []byte("aab"), int64(1))
	f.Add([]byte("aab"), []byte("aaaab"), int64(2))
	f.Fuzz(func(t *testing.T, keys, in []byte, seed int64) {
		if len(keys) > 8 {
			keys = keys[:8]
		}
		rnd := rand.New(rand.NewSource(seed))
		out, err := io.ReadAll(Escape(cutter{bytes.NewReader(in), rnd}, keys))
		want, hit := in, false
		if i := bytes.Index(in, keys); len(keys) > 0 && i >= 0 {
			want, hit = in[:i], true
		}
		if !bytes.Equal(out, want) || errors.Is(err, ErrDetached) != hit {
			t.Errorf("keys %q in %q: %q, %v", keys, in, out, err)
		}
	})
}

type cutter struct {
	r   io.Reader
	rnd *rand.Rand
}

func (c cutter) Read(p []byte) (int, error) { return c.r.Read(p[:min(len(p), 1+c.rnd.Intn(3))]) }

func FuzzDetachKeys(f *testing.F) {
	f.Add("ctrl-p,ctrl-q")
	f.Add("a,b,ctrl-@")
	f.Fuzz(func(t *testing.T, s string) {
		keys, err := DetachKeys(s)
		if err == nil && s != "" && len(keys) != strings.Count(s, ",")+1 {
			t.Errorf("%q gives %d keys", s, len(keys))
		}
	})
}

func TestMount(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]mount.Mount{
		"type=bind,src=/a,dst=/b": {Type: "bind", Source: "/a", Target: "/b"},
		"type=bind,source=/a,destination=/b,ro,bind-propagation=rshared,bind-nonrecursive": {Type: "bind", Source: "/a", Target: "/b", ReadOnly: true,
			BindOptions: &mount.BindOptions{Propagation: "rshared", NonRecursive: true}},
		`type=bind,"src=/a,b",target=/c`: {Type: "bind", Source: "/a,b", Target: "/c"},
		"type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1770": {Type: "tmpfs", Target: "/t",
			TmpfsOptions: &mount.TmpfsOptions{SizeBytes: 1 << 20, Mode: 0o1770}},
		"dst=/v,src=vol,volume-nocopy,volume-label=a=b,volume-opt=c=d,volume-driver=e": {Type: "volume", Source: "vol", Target: "/v",
			VolumeOptions: &mount.VolumeOptions{NoCopy: true, Labels: map[string]string{"a": "b"}, DriverConfig: &mount.Driver{Name: "e", Options: map[string]string{"c": "d"}}}},
		"TYPE=Bind,SRC=/A,dst=/b,readonly=false":         {Type: "bind", Source: "/A", Target: "/b"},
		"type=bind,src=/a,dst=/b,bind-recursive=enabled": {Type: "bind", Source: "/a", Target: "/b"},
	} {
		if got, err := Mount(in); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", in, got, err)
		}
	}
}

func FuzzMount(f *testing.F) {
	f.Add("type=bind,src=/a,dst=/b,ro")
	f.Add(`type=tmpfs,"dst=/a,b",tmpfs-size=1g,tmpfs-mode=0777`)
	f.Add("dst=/v,volume-opt==,volume-label=")
	f.Fuzz(func(t *testing.T, s string) {
		if m, err := Mount(s); err == nil && (m.Target == "" || m.Type == "") {
			t.Errorf("%q gives %+v", s, m)
		}
	})
}

func TestVolume(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"/a:/b:ro": "/a:/b:ro true", "/a": "/a false", "vol:/b": "vol:/b true", "/a:/b": "/a:/b true"} {
		spec, bind, err := Volume(in)
		if got := fmt.Sprint(spec, " ", bind); got != want || err != nil {
			t.Errorf("%q: %s, %v", in, got, err)
		}
	}
	if spec, _, _ := Volume("./x:/b"); !strings.HasPrefix(spec, "/") || !strings.HasSuffix(spec, "/parse/x:/b") {
		t.Errorf("./x:/b gives %s", spec)
	}
}

func publish(s string) (string, error) {
	ports := network.PortMap{}
	if err := Publish(s, ports); err != nil {
		return "", err
	}
	var out []string
	for p := range ports {
		for _, b := range ports[p] {
			ip := ""
			if b.HostIP.IsValid() {
				ip = b.HostIP.String()
			}
			out = append(out, fmt.Sprintf("%s|%s->%s", ip, b.HostPort, p))
		}
	}
	if len(out) > 4 {
		return fmt.Sprint(len(out)), nil
	}
	// A map's order is no order.
	for i := range out {
		for j := i + 1; j < len(out); j++ {
			if out[j] < out[i] {
				out[i], out[j] = out[j], out[i]
			}
		}
	}
	return strings.Join(out, " "), nil
}

func TestPublish(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"80": "|->80/tcp", "8080:80": "|8080->80/tcp", "127.0.0.1:8080:80/udp": "127.0.0.1|8080->80/udp", "127.0.0.1::80": "127.0.0.1|->80/tcp",
		"[::1]:8080:80": "::1|8080->80/tcp", "8080-8081:80-81": "|8080->80/tcp |8081->81/tcp", "8000-9000:80": "|8000-9000->80/tcp",
		"80-81/UDP": "|->80/udp |->81/udp", "target=80,published=8080": "|8080->80/tcp", "target=80,published=8080,protocol=sctp": "|8080->80/sctp",
		"1-65535:1-65535": "65535", "8080:80:tcp": "|8080->80/tcp", "127.0.0.1:53:53:udp": "127.0.0.1|53->53/udp", "80:sctp": "|->80/sctp",
	} {
		if got, err := publish(in); got != want || err != nil {
			t.Errorf("%s: %s, %v; want %s", in, got, err, want)
		}
	}
}

func FuzzPublish(f *testing.F) {
	f.Add("127.0.0.1:8080-8081:80-81/udp")
	f.Add("[::1]::80")
	f.Add("target=80,published=1-2")
	f.Fuzz(func(t *testing.T, s string) {
		ports := network.PortMap{}
		if Publish(s, ports) == nil && len(ports) == 0 {
			t.Errorf("%q gives nothing", s)
		}
	})
}

func FuzzFilter(f *testing.F) {
	f.Add("status=exited")
	f.Add(" Label = a=b ")
	f.Fuzz(func(t *testing.T, s string) {
		n := 0
		err := Filter(s, func(k, v string) {
			n++
			if k != strings.ToLower(k) || strings.TrimSpace(v) != v || strings.Contains(k, "=") {
				t.Errorf("%q gives %q %q", s, k, v)
			}
		})
		if err == nil && s != "" && n != 1 {
			t.Errorf("%q gives %d pairs", s, n)
		}
	})
}

func TestRestart(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]container.RestartPolicy{
		"": {}, "no": {Name: "no"}, "always": {Name: "always"}, "on-failure:3": {Name: "on-failure", MaximumRetryCount: 3}, "on-failure:": {Name: "on-failure"}, "foo": {Name: "foo"},
	} {
		if got, err := Restart(in); err != nil || got != want {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for in, want := range map[string]string{":3": "no policy provided before colon", "on-failure:x": "must be an integer"} {
		if _, err := Restart(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestDevice(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"/dev/null": "/dev/null /dev/null rwm", "/dev/null:/dev/x": "/dev/null /dev/x rwm", "/dev/null:r": "/dev/null /dev/null r",
		"/dev/null:/dev/x:rw": "/dev/null /dev/x rw", "/dev/../dev/null": "/dev/null /dev/null rwm",
	} {
		d, err := Device(in)
		if got := d.PathOnHost + " " + d.PathInContainer + " " + d.CgroupPermissions; got != want || err != nil {
			t.Errorf("%s: %s, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "x", "/a:/b:c:d", "/a:/b:rr", ":/b", "/a:b"} {
		if d, err := Device(in); err == nil {
			t.Errorf("%q: %v", in, d)
		}
	}
	for in, ok := range map[string]bool{"c 1:3 rwm": true, "a *:* r": true, "b 1:* m": true, "c 1:3": false, "d 1:3 r": false, "c 1-3 r": false, "c x:1 r": false, "c 1:3 rwmr": false, "": false} {
		if err := DeviceRule(in); (err == nil) != ok {
			t.Errorf("%q: %v", in, err)
		}
	}
	for in, is := range map[string]bool{"nvidia.com/gpu=0": true, "/dev/a=b": false, "/dev/null": false, "./a=b": false, "x/y=z": true} {
		if CDIName(in) != is {
			t.Errorf("CDIName(%q) = %t", in, !is)
		}
	}
}

func TestReference(t *testing.T) {
	t.Parallel()
	sum := "sha256:" + strings.Repeat("0", 64)
	for in, want := range map[string]string{
		"busybox": "busybox latest", "busybox:1": "busybox 1", "a/b": "a/b latest", "h:5000/a": "h:5000/a latest", "h:5000/a:t": "h:5000/a t", "localhost/a": "localhost/a latest",
		"docker.io/library/busybox": "busybox latest", "docker.io/a/b": "a/b latest", "a@" + sum: "a " + sum, "a:t@" + sum: "a " + sum, "a__b/c-d.e": "a__b/c-d.e latest",
	} {
		repo, tag, err := Reference(in)
		if got := repo + " " + tag; got != want || err != nil {
			t.Errorf("%s: %s, %v", in, got, err)
		}
	}
	for in, want := range map[string]string{
		"": "invalid reference format", "a b": "invalid reference format", "A": "invalid reference format: repository name (library/A) must be lowercase",
		"a:": "invalid reference format", "a:.t": "invalid reference format", "-a": "invalid reference format", "a//b": "invalid reference format", "a@b": "invalid reference format",
		"h.io/A/b": "invalid reference format: repository name (A/b) must be lowercase", ":t": "invalid reference format",
		"https://h.io/a:1": "invalid reference format\nleave out https://, and write h.io/a:1",
	} {
		if _, _, err := Reference(in); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", in, err, want)
		}
	}
}

func FuzzReference(f *testing.F) {
	f.Add("localhost:5000/a/b:tag")
	f.Add("docker.io/library/a@sha256:0123456789012345678901234567890123456789012345678901234567890123")
	f.Fuzz(func(t *testing.T, s string) {
		repo, tag, err := Reference(s)
		if err == nil && (repo == "" || tag == "") {
			t.Errorf("%q gives %q %q", s, repo, tag)
		}
	})
}

func TestTime(t *testing.T) {
	t.Parallel()
	zone := time.FixedZone("x", 3600)
	now := time.Date(2026, 1, 2, 3, 4, 5, 6, zone)
	for in, want := range map[string]string{
		"": "", "0": "0", "1700000000": "1700000000", "1700000000.5": "1700000000.5", "1h": fmt.Sprint(now.Unix() - 3600),
		"2026-01-02T03:04:05Z": "1767323045.000000000", "2026-01-02T03:04:05+01:00": "1767319445.000000000", "2026-01-02T03:04:05": "1767319445.000000000",
		"2026-01-02T03:04:05.123456789Z": "1767323045.123456789", "2026-01-02": "1767308400.000000000", "2026-01-02T03:04": "1767319440.000000000", "2026-01-02T03": "1767319200.000000000",
		"2026-01-02T03:04-01:00": "1767326640.000000000",
	} {
		if got, err := Time(in, now); got != want || err != nil {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"x", "1.x", "2026-13-01", "yesterday", "1-2"} {
		if got, err := Time(in, now); err == nil {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func FuzzTime(f *testing.F) {
	f.Add("2026-01-02T03:04:05.5+01:00")
	f.Add("1.5")
	now := time.Unix(1700000000, 0).UTC()
	f.Fuzz(func(t *testing.T, s string) {
		if got, err := Time(s, now); err == nil && strings.ContainsAny(got, " \n&=") {
			t.Errorf("%q gives %q", s, got)
		}
	})
}
