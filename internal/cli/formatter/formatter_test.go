package formatter

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
)

func TestContainersTable(t *testing.T) {
	t.Parallel()
	list := []container.Summary{
		{ID: strings.Repeat("a", 64), Image: "busybox", Command: "sleep 1000", Created: time.Now().Add(-90 * time.Second).Unix(), Status: "Up About a minute", Names: []string{"/one", "/other/link"}},
		{ID: strings.Repeat("b", 64), Image: "sha256:" + strings.Repeat("c", 64), ImageID: "sha256:" + strings.Repeat("c", 64), Command: "a command that is long", Created: time.Now().Add(-49 * time.Hour).Unix(), Status: "Exited (0) 2 days ago", Names: []string{"/two"},
			Ports: []container.PortSummary{{PrivatePort: 80, PublicPort: 8080, Type: "tcp", IP: netip.MustParseAddr("0.0.0.0")}}},
	}
	want := `CONTAINER ID   IMAGE          COMMAND                  CREATED              STATUS                  PORTS                  NAMES
aaaaaaaaaaaa   busybox        "sleep 1000"             About a minute ago   Up About a minute                              one
bbbbbbbbbbbb   cccccccccccc   "a command that is l…"   2 days ago           Exited (0) 2 days ago   0.0.0.0:8080->80/tcp   two
`
	var b bytes.Buffer
	if err := Containers(&b, "", false, false, list); err != nil || b.String() != want {
		t.Errorf("%v\n%s", err, b.String())
	}
	b.Reset()
	if err := Containers(&b, `table {{.Names}}\t{{json .ID}}`, false, false, list); err != nil || b.String() != "NAMES     CONTAINER ID\none       \"aaaaaaaaaaaa\"\ntwo       \"bbbbbbbbbbbb\"\n" {
		t.Errorf("%v\n%q", err, b.String())
	}
	b.Reset()
	// What stands after wide characters is in line, too.
	list[0].Labels, list[0].Command = map[string]string{"作者": "张三"}, "echo 你好"
	if err := Containers(&b, `table {{.Names}}\t{{.Labels}}\t{{.Command}}\t{{.Image}}`, false, false, list); err != nil || b.String() != "NAMES     LABELS      COMMAND                  IMAGE\none       作者=张三   \"echo 你好\"              busybox\ntwo                   \"a command that is l…\"   cccccccccccc\n" {
		t.Errorf("%v\n%s", err, b.String())
	}
	b.Reset()
	if Table(&b, [][]string{{"REPOSITORY", "TAG"}, {"仓库/我的项目", "1"}, {"x", "2"}}); b.String() != "REPOSITORY      TAG\n仓库/我的项目   1\nx               2\n" {
		t.Errorf("%s", b.String())
	}
	b.Reset()
	if err := Containers(&b, "{{.Nope}}", false, false, list); err == nil || b.Len() > 0 {
		t.Errorf("%v\n%q", err, b.String())
	}
}

func TestPorts(t *testing.T) {
	t.Parallel()
	p := func(ip string, public, private uint16, proto string) container.PortSummary {
		s := container.PortSummary{PublicPort: public, PrivatePort: private, Type: proto}
		if ip != "" {
			s.IP = netip.MustParseAddr(ip)
		}
		return s
	}
	for want, in := range map[string][]container.PortSummary{
		"":                         nil,
		"80/tcp":                   {p("", 0, 80, "tcp")},
		"80-82/tcp":                {p("", 0, 82, "tcp"), p("", 0, 80, "tcp"), p("", 0, 81, "tcp")},
		"80/tcp, 80/udp":           {p("", 0, 80, "tcp"), p("", 0, 80, "udp")},
		"0.0.0.0:80->80/tcp":       {p("0.0.0.0", 80, 80, "tcp")},
		"1.2.3.4:80-81->80-81/tcp": {p("1.2.3.4", 80, 80, "tcp"), p("1.2.3.4", 81, 81, "tcp")},
		"0.0.0.0:8080->80/tcp, [::]:8080->80/tcp": {p("0.0.0.0", 8080, 80, "tcp"), p("::", 8080, 80, "tcp")},
	} {
		if got := Ports(in); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestTruncate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   string
		n    int
		want string
	}{{"abc", 3, "abc"}, {"abcd", 3, "ab…"}, {"", 3, ""}, {"abc", 1, "a"}, {"abc", 0, ""}, {"日本語", 5, "日本…"}, {"日本語", 6, "日本語"}} {
		if got := Truncate(c.in, c.n); got != c.want {
			t.Errorf("Truncate(%q, %d) = %q, want %q", c.in, c.n, got, c.want)
		}
	}
}

func TestImageRows(t *testing.T) {
	t.Parallel()
	d := "sha256:" + strings.Repeat("d", 64)
	s := image.Summary{ID: "sha256:" + strings.Repeat("e", 64), RepoTags: []string{"h:5000/a:1", "h:5000/a:2"}, RepoDigests: []string{"h:5000/a@" + d, "only/digest@" + d}}
	show := func(f Format, digests bool, s image.Summary) string {
		var b bytes.Buffer
		if err := Images(&b, f, digests, false, []image.Summary{s}); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	if got, want := show("{{.Repository}} {{.Tag}}", false, s), "h:5000/a 1\nh:5000/a 2\nonly/digest <none>\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := show("{{.Repository}} {{.Tag}} {{.Digest}}", false, s), "h:5000/a 1 "+d+"\nh:5000/a 2 "+d+"\nonly/digest <none> "+d+"\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := show("{{.Repository}}:{{.Tag}} {{.CreatedSince}}", false, image.Summary{RepoTags: []string{"<none>:<none>"}}), "<none>:<none> N/A\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestInspect(t *testing.T) {
	t.Parallel()
	get := func(name string) (any, []byte, error) {
		if name == "nope" {
			return nil, nil, errors.New("Error: No such object: nope")
		}
		return &Container{}, []byte(`{"Id":"x","Z":1,"A":{"b":[1.50,"<"]},"HostConfig":{"PortBindings":{"80/tcp":[{"HostIp":"","HostPort":"8"}]}},"NetworkSettings":{"IPAddress":"1.2.3.4","Networks":{"n":{"IPAddress":""}}}}` + "\n"), nil
	}
	for _, c := range []struct {
		format string
		names  []string
		want   string
		err    string
	}{
		{"{{.Id}} {{.Z}} {{.A.b}}", []string{"x"}, "x 1 [1.50 <]\n", ""},
		{"{{.NetworkSettings.IPAddress}} {{.HostConfig.PortBindings}} [{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}]", []string{"x"}, "1.2.3.4 map[80/tcp:[{ 8}]] []\n", ""},
		{`{{(index (index .HostConfig.PortBindings "80/tcp") 0).HostPort}}`, []string{"x", "nope"}, "8\n", "Error: No such object: nope"},
		{"{{json .A}}", []string{"x"}, `{"b":[1.50,"<"]}` + "\n", ""},
		{"", []string{"nope"}, "[]\n", "Error: No such object: nope"},
		{"json", []string{"nope"}, "[]\n", "Error: No such object: nope"},
		{"{{.Q}}", []string{"x"}, "\n", `template parsing error: template: :1:2: executing "" at <.Q>: map has no entry for key "Q"`},
	} {
		var b bytes.Buffer
		err := Inspect(&b, c.format, c.names, get)
		text := ""
		if err != nil {
			text = err.Error()
		}
		if b.String() != c.want || text != c.err {
			t.Errorf("%q: %q, %q; want %q, %q", c.format, b.String(), text, c.want, c.err)
		}
	}
	var b bytes.Buffer
	// The engine's JSON comes through as it is: order, numbers, escapes.
	if err := Inspect(&b, "", []string{"x"}, get); err != nil || !strings.HasPrefix(b.String(), "[\n    {\n        \"Id\": \"x\",\n        \"Z\": 1,\n        \"A\": {\n            \"b\": [\n                1.50,\n                \"<\"\n") {
		t.Errorf("%v\n%s", err, b.String())
	}
}
