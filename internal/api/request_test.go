package api

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"gantry/internal/errs"
)

func TestFlag(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]bool{
		"": false, "0": false, "no": false, "False": false, "none": false, " 0 ": false,
		"1": true, "true": true, "yes": true, "anything": true,
	} {
		c := &call{query: url.Values{"f": {in}}}
		if got := c.flag("f"); got != want {
			t.Errorf("%q: %v", in, got)
		}
	}
	if c := (&call{}); c.flag("f") {
		t.Error("absent")
	}
}

func TestParseUnix(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]time.Time{
		"0": time.Unix(0, 0), "1136073845": time.Unix(1136073845, 0), "1136073845.000000001": time.Unix(1136073845, 1),
		"1.5": time.Unix(1, 500000000), "1.": time.Unix(1, 0), "1.1234567891": time.Unix(1, 123456789), "-1": time.Unix(-1, 0),
	} {
		if got, err := parseUnix(in); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "x", "1.x", "1.-5", "1.123456789012345678901", "99999999999999999999", "1.1x"} {
		if got, err := parseUnix(in); err == nil {
			t.Errorf("%q: %v", in, got)
		}
	}
}

func FuzzUnix(f *testing.F) {
	for _, s := range []string{"0", "1.5", "-1.000000001", "1.", ".1", "99999999999.999999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseUnix(s)
		if err == nil && (got.Nanosecond() < 0 || got.Nanosecond() > 999999999) {
			t.Errorf("%q: %v", s, got)
		}
	})
}

func TestFilters(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]map[string][]string{
		"":                                     nil,
		"{}":                                   {},
		`{"label":{"a=b":true,"c":true}}`:      {"label": {"a=b", "c"}},
		`{"label":{"a":true,"b":false}}`:       {"label": {"a"}},
		`{"label":["a=b","c"],"status":["x"]}`: {"label": {"a=b", "c"}, "status": {"x"}},
	} {
		got, err := parseFilters(in)
		for _, list := range got {
			slices.Sort(list)
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"x", "[]", `{"a":1}`, `{"a":{"b":[]}}`, `"x"`} {
		if _, err := parseFilters(in); err == nil || err.Error() != "invalid filter" || !errs.Invalid.Is(err) {
			t.Errorf("%s: %v", in, err)
		}
	}
}

func FuzzFilters(f *testing.F) {
	for _, s := range []string{`{"label":{"a":true}}`, `{"label":["a"]}`, `{}`, `null`, `[`, `{"a":null}`, `{"a":{"b":null}}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseFilters(s)
		if err != nil {
			return
		}
		b, err := json.Marshal(got) // what was read can be said again in the older encoding
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseFilters(string(b)); err != nil {
			t.Errorf("%q became %s: %v", s, b, err)
		}
	})
}

// request makes a call with a body, as a server would hand it out.
func request(contentType, body string) *call {
	r := httptest.NewRequest("POST", "/", strings.NewReader(body))
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	return &call{w: httptest.NewRecorder(), r: r, version: maxVersion}
}

func TestDecode(t *testing.T) {
	t.Parallel()
	for _, x := range []struct{ contentType, body, want string }{
		{"application/json", `{"A":1}`, ""},
		{"application/json; charset=utf-8", `{"A":1}`, ""},
		{"", ``, ""},
		{"application/json", ``, ""},
		{"", `{"A":1}`, "malformed Content-Type header (): mime: no media type"},
		{"text/plain", `{"A":1}`, "unsupported Content-Type header (text/plain): must be 'application/json'"},
		{"application/json", `{"A":`, "invalid JSON: unexpected EOF"},
		{"application/json", ` `, "invalid JSON: got EOF while reading request body"},
		{"application/json", `{"A":"x"}`, "invalid JSON: json: cannot unmarshal string into Go struct field .A of type int"},
		{"application/json", `{"A":1}{"A":2}`, "unexpected content after JSON"},
		{"application/json", `{"A":1}` + "\n \n", ""},
	} {
		var out struct{ A int }
		err := request(x.contentType, x.body).decode(&out)
		if got := text(err); got != x.want || err != nil && !errs.Invalid.Is(err) {
			t.Errorf("%s %s: %q, want %q", x.contentType, x.body, got, x.want)
		}
	}
	huge := `{"B":"` + strings.Repeat("x", maxBody) + `"}`
	if err := request("application/json", huge).decode(new(struct{})); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("huge: %v", err)
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestCreateTakesOldShapes(t *testing.T) {
	t.Parallel()
	decode := func(have version, body string) (*containerCreate, error) {
		x := &containerCreate{}
		c := request("application/json", body)
		if err := c.decode(x); err != nil {
			return x, err
		}
		_, _, err := x.request(have)
		return x, err
	}
	x, err := decode(maxVersion, `{"Image":"a","Cmd":"echo hi","Entrypoint":["sh","-c"],"Env":["A=b"],"Tty":true,
		"HostConfig":{"NetworkMode":"none","Memory":1048576,"PidsLimit":-1,"PortBindings":{"80/tcp":[{"HostPort":"8080"}]},"RestartPolicy":{}}}`)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(x.Config.Cmd, []string{"echo hi"}) || !slices.Equal(x.Config.Entrypoint, []string{"sh", "-c"}) || !x.Tty || x.Image != "a" {
		t.Errorf("config %+v", x.Config)
	}
	if h := x.HostConfig.HostConfig; h.NetworkMode != "none" || h.Memory != 1048576 || h.PidsLimit != nil || len(h.PortBindings) != 1 {
		t.Errorf("host config %+v", h)
	}
	for _, c := range []struct {
		have       version
		body, want string
	}{
		{maxVersion, `{}`, "Config cannot be empty in order to create a container"},
		{maxVersion, `{"Image":1}`, "invalid JSON"},
		{maxVersion, `{"Image":"a","Cmd":{}}`, "invalid JSON"},
		{maxVersion, `{"Image":"a","HostConfig":{"Mounts":[{"Type":"tmpfs","Target":"/a","BindOptions":{}}]}}`, `BindOptions must not be specified on mount type "tmpfs"`},
		{v(41), `{"Image":"a","HostConfig":{"Mounts":[{"Type":"bind","Source":"/b","Target":"/a","TmpfsOptions":{}}]}}`, ""},
		{v(43), `{"Image":"a","NetworkingConfig":{"EndpointsConfig":{"b":{},"a":{}}}}`, "Container cannot be created with multiple network endpoints: a, b"},
		{v(43), `{"Image":"a","MacAddress":"02:42:ac:11:00:02","HostConfig":{"NetworkMode":"bridge"}}`, ""},
		{v(43), `{"Image":"a","MacAddress":"zz","HostConfig":{"NetworkMode":"bridge"}}`, "invalid MAC address"},
		{v(40), `{"Image":"a","HostConfig":{"Capabilities":["CAP_CHOWN"]}}`, "the HostConfig.Capabilities field is not supported"},
		{v(47), `{"Image":"a","HostConfig":{"Mounts":[{"Type":"image","Source":"b","Target":"/a"}]}}`, "needs API v1.48"},
	} {
		_, err := decode(c.have, c.body)
		if got := text(err); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%v %s: %q, want %q", c.have, c.body, got, c.want)
		}
	}
	old, err := decode(v(24), `{"Image":"a","HostConfig":{"ConsoleSize":[1,2],"Annotations":{"a":"b"},"Mounts":[{"Type":"bind","Source":"/b","Target":"/a"}]}}`)
	if err != nil {
		t.Fatal(err)
	}
	if h := old.HostConfig.HostConfig; h.ConsoleSize != [2]uint{} || h.Annotations != nil || h.IpcMode != "shareable" || !h.Mounts[0].BindOptions.ReadOnlyNonRecursive {
		t.Errorf("1.24: %+v", h)
	}
}

func FuzzCreate(f *testing.F) {
	f.Add(`{"Image":"a","Cmd":"x","HostConfig":{"Mounts":[{"Type":"bind"}],"PidsLimit":0}}`, 24)
	f.Add(`{"Cmd":[],"NetworkingConfig":{"EndpointsConfig":{"a":null,"b":null}},"MacAddress":"02:42:ac:11:00:02"}`, 43)
	f.Add(`{"HostConfig":null,"NetworkingConfig":null,"Healthcheck":{}}`, 40)
	f.Add(`{"Image":"a","HostConfig":{"PortBindings":{"1-2/tcp":[]}}}`, 56)
	f.Fuzz(func(t *testing.T, body string, minor int) {
		x := &containerCreate{}
		if decodeJSON(strings.NewReader(body), x) != nil {
			return
		}
		r, _, err := x.request(v(24 + abs(minor)%33))
		if err == nil && (r.Config == nil || r.HostConfig == nil || r.Networking == nil) {
			t.Errorf("%s: %+v", body, r)
		}
	})
}

func abs(n int) int {
	if n < 0 {
		n = -(n + 1)
	}
	return n
}

func TestResizeAndSeconds(t *testing.T) {
	t.Parallel()
	c := &call{query: url.Values{"h": {"24"}, "w": {"x"}, "t": {"-1"}, "u": {"soon"}, "big": {"70000"}}}
	if n, err := c.size("h"); n != 24 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := c.size("w"); text(err) != `strconv.Atoi: parsing "x": invalid syntax` {
		t.Error(err)
	}
	if n, err := c.size("big"); n != 65535 || err != nil {
		t.Error(n, err)
	}
	if n, err := c.seconds("t"); err != nil || *n != -1 {
		t.Error(n, err)
	}
	if _, err := c.seconds("u"); text(err) != `strconv.Atoi: parsing "soon": invalid syntax` {
		t.Error(err)
	}
	if n, err := c.seconds("absent"); n != nil || err != nil {
		t.Error(n, err)
	}
}

func TestOSRelease(t *testing.T) {
	t.Parallel()
	name, ver := parseOSRelease([]byte("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nVERSION_ID=\"13\"\n"))
	if name != "Debian GNU/Linux 13 (trixie)" || ver != "13" {
		t.Errorf("%q %q", name, ver)
	}
	if name, _ := parseOSRelease(nil); name != "Linux" {
		t.Errorf("%q", name)
	}
	if n := parseMemTotal([]byte("MemTotal:       16384 kB\nMemFree: 1 kB\n")); n != 16384<<10 {
		t.Error(n)
	}
}

var _ http.Handler = (*Server)(nil)
