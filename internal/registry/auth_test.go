package registry_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"gantry/internal/registry"
)

func htpasswdFile(t *testing.T, users ...string) string {
	t.Helper()
	var text strings.Builder
	for _, u := range users {
		h, err := bcrypt.GenerateFromPassword([]byte("secret-"+u), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		// htpasswd(1) writes 2y where Go writes 2a.
		text.WriteString(u + ":" + strings.Replace(string(h), "$2a$", "$2y$", 1) + "\n")
	}
	path := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func basic(user string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":secret-"+user))
}

// login does what a client does with a challenge, and returns the Authorization header.
func (r *reg) login(user string, a answer) string {
	r.t.Helper()
	scheme, rest, _ := strings.Cut(a.Header.Get("WWW-Authenticate"), " ")
	if scheme != "Bearer" {
		r.t.Fatalf("challenge %q", a.Header.Get("WWW-Authenticate"))
	}
	p := map[string]string{}
	for part := range strings.SplitSeq(rest, `",`) {
		k, v, _ := strings.Cut(part, `="`)
		p[k] = strings.TrimSuffix(v, `"`)
	}
	q := url.Values{"service": {p["service"]}}
	if p["scope"] != "" {
		q.Set("scope", p["scope"])
	}
	req, err := http.NewRequest("GET", p["realm"]+"?"+q.Encode(), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	if user != "" {
		req.SetBasicAuth(user, "secret-"+user)
	}
	resp, err := r.srv.Client().Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	var t struct{ Token string }
	if err := json.NewDecoder(resp.Body).Decode(&t); err != nil || t.Token == "" {
		r.t.Fatalf("%v: %s", err, resp.Status)
	}
	return "Bearer " + t.Token
}

var rules = []registry.Rule{
	{Users: []string{"anonymous"}, Repositories: []string{"public/**"}, Allow: []string{"pull"}},
	{Users: []string{"*"}, Repositories: []string{"team/**"}, Allow: []string{"pull"}},
	{Users: []string{"alice"}, Repositories: []string{"**"}, Allow: []string{"pull", "push", "delete", "admin"}},
	{Users: []string{"bob"}, Repositories: []string{"bob/*"}, Allow: []string{"pull", "push"}},
}

func TestRulesByPassword(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"basic", "token"} {
		r := start(t, registry.Config{Auth: registry.Auth{Htpasswd: htpasswdFile(t, "alice", "bob"), Mode: mode, Rules: rules}})
		r.do("GET", "/v2/", nil).wantCode(t, 401, "UNAUTHORIZED")
		r.auth = basic("alice")
		r.do("GET", "/v2/", nil).want(t, 200)
		for _, repo := range []string{"public/x", "team/x", "bob/x", "bob/x/y", "other"} {
			r.pushImage(repo, "v1", 1, nil)
		}
		for user, may := range map[string]map[string]bool{
			"":    {"public/x": true},
			"bob": {"public/x": true, "team/x": true, "bob/x": true},
		} {
			r.auth = basic(user)
			denied := 403
			if user == "" {
				r.auth, denied = "", 401
			}
			for _, repo := range []string{"public/x", "team/x", "bob/x", "bob/x/y", "other"} {
				want := denied
				if may[repo] {
					want = 200
				}
				r.do("GET", "/v2/"+repo+"/manifests/v1", nil).want(t, want)
				r.do("GET", "/v2/"+repo+"/tags/list", nil).want(t, want)
				if user != "" || mode == "basic" {
					r.do("GET", "/v2/"+repo+"/referrers/"+digest(nil), nil).want(t, want)
				}
				want = denied
				if user == "bob" && repo == "bob/x" {
					want = 202
				}
				r.do("POST", "/v2/"+repo+"/blobs/uploads/", nil).want(t, want)
				r.do("DELETE", "/v2/"+repo+"/manifests/v1", nil).want(t, denied)
			}
			var c struct{ Repositories []string }
			if err := json.Unmarshal(r.do("GET", "/v2/_catalog", nil).want(t, 200).body, &c); err != nil || len(c.Repositories) != len(may) {
				t.Errorf("%s sees %v in the catalog", user, c.Repositories)
			}
			var found struct{ Results []struct{ Name string } }
			if err := json.Unmarshal(r.do("GET", "/v1/search?q=x", nil).want(t, 200).body, &found); err != nil || len(found.Results) != len(may) {
				t.Errorf("%s finds %v", user, found.Results)
			}
			r.do("POST", "/_gantry/collect", nil).want(t, denied)
		}
		r.auth = basic("alice")
		r.do("POST", "/_gantry/collect", nil).want(t, 200)
		// Nobody mounts what they can't read.
		r.auth = basic("alice")
		d := r.pushBlob("other", []byte("hidden"))
		r.auth = basic("bob")
		r.do("POST", "/v2/bob/x/blobs/uploads/?from=other&mount="+d, nil).want(t, 202)
		r.do("POST", "/v2/bob/x/blobs/uploads/?mount="+d, nil).want(t, 202)
		if mode == "token" {
			// A token is good for what it was asked for, whoever asked: not to mount what else its user may read, not to collect.
			r.auth = ""
			pushOnly := r.do("POST", "/v2/alice/x/blobs/uploads/", nil).want(t, 401)
			r.auth = r.login("alice", pushOnly)
			r.do("POST", "/v2/alice/x/blobs/uploads/", nil).want(t, 202)
			r.do("POST", "/v2/alice/x/blobs/uploads/?mount="+d, nil).want(t, 202)
			r.do("POST", "/_gantry/collect", nil).want(t, 403)
			r.auth = r.login("alice", r.do("POST", "/v2/alice/x/blobs/uploads/?from=other&mount="+d, nil).want(t, 401))
			r.do("POST", "/v2/alice/x/blobs/uploads/?from=other&mount="+d, nil).want(t, 201)
		}
		for _, wrong := range []string{"Basic " + base64.StdEncoding.EncodeToString([]byte("alice:wrong")), "Basic " + base64.StdEncoding.EncodeToString([]byte("eve:x")), "Basic x", "Bearer x.y.z", "Digest x"} {
			r.auth = wrong
			r.do("GET", "/v2/public/x/manifests/v1", nil).wantCode(t, 401, "UNAUTHORIZED")
		}
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Config{Auth: registry.Auth{Htpasswd: htpasswdFile(t, "alice", "bob"), Rules: rules}})
	r.auth = basic("alice")
	r.pushImage("public/x", "v1", 1, nil)
	r.pushImage("other", "v1", 1, nil)
	as := func(user, method, path string) answer {
		t.Helper()
		r.auth = ""
		a := r.do(method, path, nil)
		if a.StatusCode == 401 {
			r.auth = r.login(user, a)
			a = r.do(method, path, nil)
		}
		return a
	}
	as("alice", "GET", "/v2/").want(t, 200)
	as("", "GET", "/v2/").want(t, 200) // logged in as nobody: there are rules for them
	as("", "GET", "/v2/public/x/manifests/v1").want(t, 200)
	as("", "GET", "/v2/other/manifests/v1").want(t, 401)
	as("alice", "GET", "/v2/other/manifests/v1").want(t, 200)
	as("bob", "GET", "/v2/other/manifests/v1").wantCode(t, 403, "DENIED")
	as("bob", "POST", "/v2/bob/new/blobs/uploads/").want(t, 202)

	// A token for one repository tells nothing of the others; one for the names tells what its user may read.
	for user, want := range map[string]string{"bob": "public/x", "alice": "other public/x"} {
		as(user, "POST", "/v2/"+user+"/new/blobs/uploads/").want(t, 202)
		r.do("GET", "/v1/search?q=x", nil).want(t, 401)
		a := r.do("GET", "/v2/_catalog", nil).want(t, 401)
		if !strings.Contains(a.Header.Get("WWW-Authenticate"), `scope="registry:catalog:*"`) {
			t.Error(a.Header)
		}
		r.auth = r.login(user, a)
		var c struct{ Repositories []string }
		if err := json.Unmarshal(r.do("GET", "/v2/_catalog", nil).want(t, 200).body, &c); err != nil || strings.Join(c.Repositories, " ") != want {
			t.Errorf("%s sees %v: %v", user, c.Repositories, err)
		}
		r.do("GET", "/v2/other/manifests/v1", nil).want(t, map[string]int{"bob": 403, "alice": 401}[user])
	}

	// A token is for what it was asked for.
	as("alice", "GET", "/v2/other/manifests/v1").want(t, 200)
	if a := r.do("POST", "/v2/other/blobs/uploads/", nil).want(t, 401); !strings.Contains(a.Header.Get("WWW-Authenticate"), `scope="repository:other:pull,push",error="insufficient_scope"`) {
		t.Error(a.Header)
	}
	good := r.auth
	// A changed one is none.
	for i := range 200 {
		b := []byte(strings.TrimPrefix(good, "Bearer "))
		at := i * len(b) / 200
		if b[at] ^= 1; b[at] == '.' || strings.TrimPrefix(good, "Bearer ")[at] == '.' {
			continue
		}
		r.auth = "Bearer " + string(b)
		if a := r.do("GET", "/v2/other/manifests/v1", nil); a.StatusCode == 200 {
			// The last character of a part has bits that mean nothing.
			if dec := base64.RawURLEncoding.Strict(); at != len(b)-1 {
				_, err := dec.DecodeString(string(b[strings.LastIndexByte(string(b), '.')+1:]))
				t.Fatalf("a token changed at %d of %d was taken (%v)", at, len(b), err)
			}
		}
	}

	// By OAuth 2's form.
	post := func(form url.Values) answer {
		return r.do("POST", "/token", []byte(form.Encode()), "Content-Type", "application/x-www-form-urlencoded")
	}
	r.auth = ""
	form := url.Values{"grant_type": {"password"}, "username": {"alice"}, "password": {"secret-alice"}, "service": {"x"}, "scope": {"repository:other:pull repository:a:push"}}
	var tok struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(post(form).want(t, 200).body, &tok); err != nil {
		t.Fatal(err)
	}
	r.auth = "Bearer " + tok.AccessToken
	r.do("GET", "/v2/other/manifests/v1", nil).want(t, 200)
	r.auth = ""
	form.Set("password", "wrong")
	post(form).wantCode(t, 401, "UNAUTHORIZED")
	form.Set("grant_type", "refresh_token")
	post(form).want(t, 405)
}

// TestNamesAreNotForEveryone asks without a password where there is nothing for anybody: it is asked for, since some
// clients send none unasked.
func TestNamesAreNotForEveryone(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"basic", "token"} {
		r := start(t, registry.Config{Auth: registry.Auth{Htpasswd: htpasswdFile(t, "alice"), Mode: mode}})
		r.auth = basic("alice")
		r.pushImage("x", "v1", 1, nil)
		r.do("GET", "/v2/_catalog", nil).want(t, 200)
		r.auth = ""
		r.do("GET", "/v2/_catalog", nil).wantCode(t, 401, "UNAUTHORIZED")
		r.do("GET", "/v1/search?q=x", nil).wantCode(t, 401, "UNAUTHORIZED")
	}
}

func TestTokenEnds(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Config{Auth: registry.Auth{Htpasswd: htpasswdFile(t, "alice"), TokenLife: registry.Duration(time.Nanosecond)}})
	r.auth = r.login("alice", r.do("GET", "/v2/", nil).want(t, 401))
	r.do("GET", "/v2/", nil).wantCode(t, 401, "UNAUTHORIZED")
}

func TestHtpasswdChanges(t *testing.T) {
	t.Parallel()
	path := htpasswdFile(t, "alice")
	r := start(t, registry.Config{Auth: registry.Auth{Htpasswd: path, Mode: "basic"}})
	r.auth = basic("alice")
	r.do("GET", "/v2/", nil).want(t, 200)
	b, err := os.ReadFile(htpasswdFile(t, "bob"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	for r.do("GET", "/v2/", nil).StatusCode != 401 {
		// The file is looked at once a second: a cached password must not outlive its user.
		time.Sleep(50 * time.Millisecond)
	}
	r.auth = basic("bob")
	r.do("GET", "/v2/", nil).want(t, 200)
}
