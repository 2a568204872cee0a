//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"gantry/test/engine"
	"gantry/test/swagger"
)

// call sends one request at Docker's 2022 API version, which both engines speak.
func call(t *testing.T, e *engine.Engine, method, path, body string) (int, string) {
	t.Helper()
	return callVersion(t, e, "1.41", method, path, body)
}

func callVersion(t *testing.T, e *engine.Engine, version, method, path, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, "http://engine/v"+version+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	c := e.Client()
	c.Timeout = 5 * time.Minute // no request here waits for anything that does not come
	defer c.CloseIdleConnections()
	resp, err := c.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp.StatusCode, string(b)
}

// today holds what a Docker of today answers where it differs from the oracle's, a Docker of 2022: bad
// parameters have become 400, and some words are new. Each was looked up in Docker's sources.
var today = map[string]struct {
	status  int
	message string
}{
	`POST /containers/create {"Image":"busybox","HostConfig":{"NetworkMode":"none","RestartPolicy":{"Name":"nosuch"}}}`:                       {400, "invalid restart policy: unknown policy 'nosuch'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"},
	`POST /containers/create {"Image":"busybox","HostConfig":{"NetworkMode":"none","RestartPolicy":{"Name":"always","MaximumRetryCount":3}}}`: {400, "invalid restart policy: maximum retry count can only be used with 'on-failure'"},
	`POST /containers/create {"Image":"busybox","HostConfig":{"NetworkMode":"none","Binds":["/a:b"]}}`:                                        {400, `invalid volume specification: '/a:b': invalid mount config for type "bind": invalid mount path: 'b' mount path must be absolute`},
	`POST /containers/create {"Image":"busybox","HostConfig":{"NetworkMode":"none","Binds":["/no-such-dir-a:/a:zz"]}}`:                        {400, "invalid mode: zz"},
	`GET /containers/api-x/logs?stdout=1&since=abc `:                                                                                          {400, `invalid value for "since": invalid timestamp "abc": invalid seconds "abc": invalid syntax`},
	`GET /events?since=abc&until=1 `:        {400, `invalid value for "since": invalid timestamp "abc": invalid seconds "abc": invalid syntax`},
	`GET /containers/json?filters=notjson `: {400, "invalid filter"},
	`GET /events?filters=notjson `:          {400, "invalid filter"},
	`GET /containers/json?limit=x `:         {400, `strconv.Atoi: parsing "x": invalid syntax`},
	`GET /images/nosuch/json `:              {404, "No such image: nosuch:latest"},
	`POST /images/busybox/tag?repo=5555555555555555555555555555555555555555555555555555555555555555 `: {400, "invalid repository name (5555555555555555555555555555555555555555555555555555555555555555), cannot specify 64-byte hexadecimal strings"},
	`POST /containers/create {"Image":"busybox","HostConfig":{"NetworkMode":"none","CpuShares":-1}}`:  {400, "invalid CPU shares (-1): value must be a positive integer"},
	`POST /images/busybox/tag?repo=Bad&tag=b `:                                                        {400, `invalid reference format: repository name (library/Bad) must be lowercase`},
	`GET /images/json?filters={"nosuch":["x"]} `:                                                      {400, "invalid filter 'nosuch'"},
}

// TestAPIDifferential sends the same requests to both engines and compares statuses and error messages.
func TestAPIDifferential(t *testing.T) {
	docker := oracle(t)
	for _, r := range []struct{ method, path, body string }{
		{"GET", "/_ping", ""},
		{"GET", "/nosuch", ""},
		{"GET", "/containers/nosuch/json", ""},
		{"POST", "/containers/nosuch/start", ""},
		{"POST", "/containers/nosuch/stop", ""},
		{"POST", "/containers/nosuch/restart", ""},
		{"POST", "/containers/nosuch/kill", ""},
		{"POST", "/containers/nosuch/wait", ""},
		{"POST", "/containers/nosuch/resize?h=1&w=1", ""},
		{"POST", "/containers/nosuch/attach", ""},
		{"POST", "/containers/nosuch/exec", `{"Cmd":["true"]}`},
		{"GET", "/containers/nosuch/logs?stdout=1", ""},
		{"DELETE", "/containers/nosuch", ""},
		{"POST", "/containers/create", `{}`},
		{"POST", "/containers/create", `{"Image":"nosuch"}`},
		{"POST", "/containers/create", `{"Image":"busybox","Cmd":["true"],"HostConfig":{"NetworkMode":"none"}}`},
		{"POST", "/containers/create?name=api-x", `{"Image":"busybox","Cmd":["sleep","1000"],"HostConfig":{"NetworkMode":"none"},"Labels":{"a":"b"}}`},
		{"POST", "/containers/create?name=api-x", `{"Image":"busybox","HostConfig":{"NetworkMode":"none"}}`},
		{"POST", "/containers/create?name=%2Fapi-y", `{"Image":"busybox","HostConfig":{"NetworkMode":"none"}}`},
		{"POST", "/containers/create?name=-bad", `{"Image":"busybox","HostConfig":{"NetworkMode":"none"}}`},
		{"POST", "/containers/create", `{"Image":"busybox","HostConfig":{"NetworkMode":"none","RestartPolicy":{"Name":"nosuch"}}}`},
		{"POST", "/containers/create", `{"Image":"busybox","HostConfig":{"NetworkMode":"none","RestartPolicy":{"Name":"always","MaximumRetryCount":3}}}`},
		{"POST", "/containers/create", `{"Image":"busybox","HostConfig":{"NetworkMode":"none","AutoRemove":true,"RestartPolicy":{"Name":"always"}}}`},
		{"POST", "/containers/create", `{"Image":"busybox","HostConfig":{"NetworkMode":"none","Memory":1}}`},
		{"POST", "/containers/create", `{"Image":"busybox","HostConfig":{"NetworkMode":"none","CpuShares":-1}}`},
		{"POST", "/containers/create", `{"Image":"busybox","HostConfig":{"NetworkMode":"none","Binds":["/a:b"]}}`},
		{"POST", "/containers/create", `{"Image":"busybox","HostConfig":{"NetworkMode":"none","Binds":["/no-such-dir-a:/a:zz"]}}`},
		{"POST", "/containers/create", `{"Image":"busybox","HostConfig":{"NetworkMode":"none","Mounts":[{"Type":"bind","Source":"/no/such/dir","Target":"/a"}]}}`},
		{"POST", "/containers/create", `{"Image":"busybox","HostConfig":{"NetworkMode":"none","Mounts":[{"Type":"nosuch","Target":"/a"}]}}`},
		{"POST", "/containers/create", `{"Image":"busybox","HostConfig":{"NetworkMode":"none","OomScoreAdj":5000}}`},
		{"POST", "/containers/create", `{"Image":"busybox","HostConfig":{"NetworkMode":"none","ShmSize":-1}}`},
		{"POST", "/containers/api-x/resize?h=10&w=10", ""},
		{"POST", "/containers/api-x/exec", `{"Cmd":["true"]}`},
		{"POST", "/containers/api-x/kill", ""},
		{"POST", "/containers/api-x/start", ""},
		{"POST", "/containers/api-x/start", ""},
		{"POST", "/containers/api-x/exec", `{"Cmd":[]}`},
		{"POST", "/containers/api-x/exec", `{"Cmd":["true"],"AttachStdout":true}`},
		{"POST", "/containers/api-x/kill?signal=NOSUCH", ""},
		{"POST", "/containers/api-x/resize?h=x&w=10", ""},
		{"GET", "/containers/api-x/logs", ""},
		{"GET", "/containers/api-x/logs?stdout=1&since=abc", ""},
		{"DELETE", "/containers/api-x", ""},
		{"POST", "/containers/api-x/stop?t=0", ""},
		{"POST", "/containers/api-x/stop?t=0", ""},
		{"POST", "/containers/api-x/wait", ""},
		{"DELETE", "/containers/api-x?v=1", ""},
		{"DELETE", "/containers/api-y?force=1", ""},
		{"GET", "/containers/json?filters=notjson", ""},
		{"GET", `/containers/json?filters={"nosuch":["x"]}`, ""},
		{"GET", `/containers/json?filters={"status":["nosuch"]}`, ""},
		{"GET", "/containers/json?limit=x", ""},
		{"GET", "/exec/nosuch/json", ""},
		{"POST", "/exec/nosuch/start", `{"Detach":false}`},
		{"POST", "/exec/nosuch/resize?h=1&w=1", ""},
		{"GET", "/images/nosuch/json", ""},
		{"DELETE", "/images/nosuch", ""},
		{"POST", "/images/nosuch/tag?repo=a&tag=b", ""},
		{"POST", "/images/busybox/tag?repo=Bad&tag=b", ""},
		{"POST", "/images/busybox/tag?repo=api-z&tag=b", ""},
		{"POST", "/images/busybox/tag?repo=5555555555555555555555555555555555555555555555555555555555555555", ""},
		{"GET", "/nodes/nosuch", ""}, {"GET", "/services/nosuch", ""}, {"GET", "/tasks/nosuch", ""}, {"GET", "/secrets/nosuch", ""}, {"GET", "/configs/nosuch", ""},
		{"GET", "/plugins", ""},
		{"DELETE", "/images/api-z:b", ""},
		{"GET", `/images/json?filters={"nosuch":["x"]}`, ""},
		{"GET", `/events?filters=notjson`, ""},
		{"GET", `/events?since=abc&until=1`, ""},
	} {
		gotStatus, gotBody := call(t, gantry, r.method, r.path, r.body)
		wantStatus, wantBody := call(t, docker, r.method, r.path, r.body)
		got, want := message(gotBody), message(wantBody)
		if now, ok := today[r.method+" "+r.path+" "+r.body]; ok {
			wantStatus, want = now.status, now.message
		}
		if gotStatus != wantStatus || gotStatus >= 400 && mask(got) != mask(want) {
			t.Errorf("%s %s %s\n  gantry: %d %q\n  docker: %d %q", r.method, r.path, r.body, gotStatus, got, wantStatus, want)
		}
	}
	for _, e := range []*engine.Engine{gantry, docker} {
		ids := strings.Fields(must(t, e.StockCLI("ps", "-aq", "--filter", "status=created")).Out)
		must(t, e.StockCLI(append([]string{"rm"}, ids...)...))
	}
}

func message(body string) string {
	var m struct{ Message string }
	if json.Unmarshal([]byte(body), &m) == nil && m.Message != "" {
		return m.Message
	}
	return strings.TrimSpace(body)
}

// TestAnswersAreAsDescribed holds the answers of a container's whole life against moby's published description
// of several API versions.
func TestAnswersAreAsDescribed(t *testing.T) {
	for _, version := range []string{"1.40", "1.41", "1.44", "1.47", "1.51", "1.56"} {
		t.Run(version, func(t *testing.T) {
			described, err := swagger.Load(version)
			if err != nil {
				t.Fatal(err)
			}
			name := "described-" + version
			var exec string
			for _, r := range []struct{ method, path, body string }{
				{"GET", "/version", ""},
				{"GET", "/info", ""},
				{"POST", "/containers/create?name=" + name, `{"Image":"busybox","Cmd":["sleep","1000"],"Labels":{"l":"v"},"HostConfig":{"NetworkMode":"none","Binds":["/tmp:/t:ro"]}}`},
				{"GET", "/containers/" + name + "/json", ""},
				{"POST", "/containers/" + name + "/start", ""},
				{"POST", "/containers/" + name + "/start", ""},
				{"GET", "/containers/" + name + "/json?size=1", ""},
				{"GET", "/containers/json?all=1&size=1", ""},
				{"POST", "/containers/" + name + "/exec", `{"Cmd":["echo","hi"],"AttachStdout":true}`},
				{"GET", "/exec/EXEC/json", ""},
				{"GET", "/containers/" + name + "/logs?stdout=1", ""},
				{"POST", "/containers/" + name + "/resize?h=1&w=1", ""},
				{"DELETE", "/containers/" + name, ""},
				{"POST", "/containers/" + name + "/kill", ""},
				{"POST", "/containers/" + name + "/wait", ""},
				{"POST", "/containers/" + name + "/stop", ""},
				{"POST", "/containers/" + name + "/restart?t=0", ""},
				{"DELETE", "/containers/" + name + "?force=1", ""},
				{"GET", "/containers/" + name + "/json", ""},
				{"GET", "/images/json", ""},
				{"GET", "/images/busybox/json", ""},
				{"POST", "/images/busybox/tag?repo=described&tag=v", ""},
				{"DELETE", "/images/described:v", ""},
				{"GET", "/images/nosuch/json", ""},
				{"POST", "/containers/create", `{"Image":"nosuch"}`},
			} {
				path := strings.Replace(r.path, "EXEC", exec, 1)
				status, body := callVersion(t, gantry, version, r.method, path, r.body)
				if status >= 500 {
					t.Errorf("%s %s: %d %s", r.method, path, status, body)
				}
				if strings.HasSuffix(path, "/exec") {
					var created struct{ Id string }
					json.Unmarshal([]byte(body), &created)
					exec = created.Id
				}
				bare, _, _ := strings.Cut(path, "?")
				for _, p := range described.Validate(r.method, bare, status, []byte(body)) {
					t.Errorf("%s %s: %s\n%.300s", r.method, path, p, body)
				}
			}
		})
	}
}

// TestFieldsDifferential compares the shapes of answers: which fields there are, and of what kind.
func TestFieldsDifferential(t *testing.T) {
	docker := oracle(t)
	for _, e := range []*engine.Engine{gantry, docker} {
		r := must(t, e.StockCLI("run", "-d", "--name", "fields", "--network", "none", "-m", "64m", "-v", "/tmp:/t:ro", "--label", "l=v", "-e", "E=1", "busybox", "sleep", "1000"))
		if r.Code != 0 {
			t.Fatal(r)
		}
		defer must(t, e.StockCLI("rm", "-f", "fields"))
	}
	// What a Docker of 2022 has and Gantry leaves out, or the other way round, with the reason.
	known := map[string]string{
		"GraphDriver.Data": "the overlay is not mounted on the host, and there is no path to tell",
		"ContainerConfig":  "Docker itself has dropped it: it described the container an image was built in",
		"RegistryConfig.AllowNondistributableArtifactsCIDRs":     "Docker itself has dropped it",
		"RegistryConfig.AllowNondistributableArtifactsHostnames": "Docker itself has dropped it",
		"Warnings[]": "what Docker misses on a machine, Gantry may not need",
	}
	for _, path := range []string{
		"/containers/fields/json", "/containers/json?all=1&filters={\"name\":[\"^/fields$\"]}", "/images/busybox/json",
		"/images/json", "/version", "/info", "/containers/fields/json?size=1",
	} {
		_, ours := call(t, gantry, "GET", path, "")
		_, theirs := call(t, docker, "GET", path, "")
		got, want := shape(t, ours), shape(t, theirs)
		for field, kind := range want {
			if !explained(known, field) && got[field] != kind && !(got[field] != "" && (kind == "null" || got[field] == "null")) {
				t.Errorf("%s: %s is %q, Docker's is %q", path, field, got[field], kind)
			}
		}
	}
}

func explained(known map[string]string, field string) bool {
	for k := range known {
		if field == k || strings.HasPrefix(field, k+".") {
			return true
		}
	}
	return false
}

// shape flattens JSON into field → kind. The elements of a list count as one; the keys of free-form maps
// (labels, options) are not fields.
func shape(t *testing.T, text string) map[string]string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	out := map[string]string{}
	freeForm := []string{"Labels", "Options", "Runtimes", "Details", "Networks", "Annotations", "Config.Volumes"}
	var walk func(prefix string, v any)
	walk = func(prefix string, v any) {
		switch v := v.(type) {
		case map[string]any:
			out[prefix] = "object"
			if slices.ContainsFunc(freeForm, func(f string) bool { return strings.HasSuffix(prefix, f) }) {
				return
			}
			for k, e := range v {
				walk(strings.TrimPrefix(prefix+"."+k, "."), e)
			}
		case []any:
			out[prefix] = "list"
			if len(v) > 0 {
				walk(prefix+"[]", v[0])
			}
		case nil:
			out[prefix] = "null"
		default:
			out[prefix] = fmt.Sprintf("%T", v)
		}
	}
	walk("", v)
	return out
}
