package image

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/crypto/bcrypt"

	"gantry/internal/registry"
	"gantry/internal/remote"
)

// TestEachRefusalHasItsMessage: what is wrong with a name is told apart, and what mends it is said.
func TestEachRefusalHasItsMessage(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	users := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(users, fmt.Appendf(nil, "bob:%s\n", hash), 0o600); err != nil {
		t.Fatal(err)
	}
	h := newHub(t)
	h.putImage(t, "app", "1", makeFixture(t, "app", hostPlatform(), nil))
	foreign := ocispec.Platform{OS: "linux", Architecture: "s390x"}
	other := makeFixture(t, "other", foreign, nil)
	h.putImage(t, "other", "1", other)
	d := describe(ocispec.MediaTypeImageManifest, other.manifest)
	d.Platform = &foreign
	h.put(t, "other", "list", ocispec.MediaTypeImageIndex, indexOf(t, d))
	rules := []registry.Rule{{Users: []string{"bob"}, Repositories: []string{"bob/**"}, Allow: []string{"pull"}}}
	locked := newHubOf(t, registry.Config{Auth: registry.Auth{Htpasswd: users, Rules: rules}})
	basic := newHubOf(t, registry.Config{Auth: registry.Auth{Htpasswd: users, Rules: rules, Mode: "basic"}})
	web := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(web.Close)
	page := strings.TrimPrefix(web.URL, "http://")
	answering := func(status int, text string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			io.WriteString(w, text)
		}))
		t.Cleanup(s.Close)
		return strings.TrimPrefix(s.URL, "http://")
	}
	portal, silent, refusing := answering(200, "<html>log in</html>"), answering(401, ""), answering(400, `{"errors":[{"code":"NAME_INVALID","message":"no such names here"}]}`)
	bob := remote.Access{Credentials: remote.Credentials{Username: "bob", Password: "secret"}}
	eve := remote.Access{Credentials: remote.Credentials{Username: "bob", Password: "guess"}}
	host := hostPlatform()
	s, _ := puller(t)
	for _, c := range []struct {
		what, name string
		o          PullOptions
		want       string
	}{
		{"wrong name", h.host + "/nothing:1", PullOptions{}, "manifest for " + h.host + "/nothing:1 not found: manifest unknown: manifest unknown\nthe registry " + h.host + " has no repository nothing"},
		{"missing tag", h.host + "/app:2", PullOptions{}, "manifest for " + h.host + "/app:2 not found: manifest unknown: manifest unknown\nthe repository has no tag 2; it has: 1"},
		{"no permission", locked.host + "/secret:1", PullOptions{Access: bob}, "pull access denied for " + locked.host + "/secret, repository does not exist or may require 'docker login': denied: requested access to the resource is denied"},
		{"nobody", locked.host + "/secret:1", PullOptions{}, "unauthorized: authentication required\nthe registry " + locked.host + " wants to know who you are: docker login " + locked.host},
		{"wrong password", locked.host + "/secret:1", PullOptions{Access: eve}, "unauthorized: incorrect username or password\nthe registry " + locked.host + " wants to know who you are: docker login " + locked.host},
		{"nobody, basic", basic.host + "/secret:1", PullOptions{}, "Head \"http://" + basic.host + "/v2/secret/manifests/1\": no basic auth credentials\nthe registry " + basic.host + " wants to know who you are: docker login " + basic.host},
		{"wrong architecture", h.host + "/other:list", PullOptions{}, "no matching manifest for " + formatPlatform(host) + " in the manifest list entries\nit has: linux/s390x"},
		{"wrong architecture, one image", h.host + "/other:1", PullOptions{Platform: &host}, "image with reference " + h.host + "/other:1 was found but does not provide the specified platform (" + formatPlatform(host) + ")\nit is for linux/s390x"},
		{"no registry", page + "/app:1", PullOptions{}, "manifest for " + page + "/app:1 not found: manifest unknown: 404 page not found\nwhat answers at " + page + " is no registry: are that its name and its port?"},
		{"a page for everything", portal + "/app:1", PullOptions{}, "manifest 1 of " + portal + "/app is no JSON: invalid character '<' looking for beginning of value\nwhat answers at " + portal + " is no registry: are that its name and its port?"},
		{"a 401 that does not say how", silent + "/app:1", PullOptions{}, "unauthorized: authentication required\nthe registry " + silent + " wants to know who you are: docker login " + silent},
		{"a 400 over plain HTTP", refusing + "/app:1", PullOptions{}, "name invalid: no such names here"},
	} {
		if err := s.Pull(t.Context(), c.name, c.o, nil); err == nil || err.Error() != c.want {
			t.Errorf("%s:\n%v\ninstead of\n%s", c.what, err, c.want)
		}
	}
}
