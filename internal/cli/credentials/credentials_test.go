package credentials

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gantry/internal/cli/command"
	"gantry/internal/cli/iostreams"
)

// environment has a configuration folder of its own.
func environment(t *testing.T, config string) (*command.Env, string) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.json")
	if config != "" {
		if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return &command.Env{IO: iostreams.Test(nil, new(bytes.Buffer), new(bytes.Buffer)), ConfigDir: dir, Getenv: os.Getenv}, path
}

func open(t *testing.T, env *command.Env) *Store {
	t.Helper()
	s, err := Open(env)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTheFileKeepsWhatIsNotOurs(t *testing.T) {
	env, path := environment(t, `{"psFormat": "x", "plugins": {"a": {"b": "c"}}, "auths": {"old.example": {"auth": "dTpw"}}}`)
	if plain, err := open(t, env).Put(t.Context(), "reg.example:5000", Auth{Username: "me", Password: "a:b"}); err != nil || !plain {
		t.Fatal(plain, err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	data, _ := os.ReadFile(path)
	for _, want := range []string{`"psFormat": "x"`, `"b": "c"`, `"old.example"`, base64.StdEncoding.EncodeToString([]byte("me:a:b"))} {
		if !bytes.Contains(data, []byte(want)) {
			t.Errorf("%s is not in %s", want, data)
		}
	}
	for _, name := range []string{"reg.example:5000", "https://reg.example:5000/v2/"} {
		if a, err := open(t, env).Get(t.Context(), name); err != nil || a.Username != "me" || a.Password != "a:b" || a.ServerAddress != "reg.example:5000" {
			t.Errorf("%s: %+v %v", name, a, err)
		}
	}
	if found, err := open(t, env).Remove(t.Context(), "reg.example:5000"); err != nil || !found {
		t.Errorf("removed: %v %v", found, err)
	}
	if found, err := open(t, env).Remove(t.Context(), "reg.example:5000"); err != nil || found {
		t.Errorf("removed twice: %v %v", found, err)
	}
	if a, err := open(t, env).Get(t.Context(), "old.example"); err != nil || a.Username != "u" {
		t.Errorf("the other one: %+v %v", a, err)
	}
}

func TestHubHasItsOldKey(t *testing.T) {
	env, path := environment(t, "")
	if _, err := open(t, env).Put(t.Context(), "", Auth{IdentityToken: "token"}); err != nil {
		t.Fatal(err)
	}
	data, _ := os.ReadFile(path)
	if !bytes.Contains(data, []byte(`"https://index.docker.io/v1/"`)) {
		t.Errorf("%s", data)
	}
	for _, name := range []string{"docker.io", "", "https://index.docker.io/v1/"} {
		if a, err := open(t, env).Get(t.Context(), name); err != nil || a.IdentityToken != "token" {
			t.Errorf("%q: %+v %v", name, a, err)
		}
	}
}

func TestHelpers(t *testing.T) {
	bin := t.TempDir()
	script := `#!/bin/sh
echo "$1 $(cat)" >>"$LOG"
case $1 in
get) if [ -e "$LOG.erased" ]; then echo "credentials not found in native keychain"; exit 1; fi
     echo '{"ServerURL":"x","Username":"<token>","Secret":"s3"}';;
erase) : >"$LOG.erased";;
esac
`
	if err := os.WriteFile(filepath.Join(bin, "docker-credential-test"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(bin, "log")
	t.Setenv("LOG", log)
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	env, _ := environment(t, `{"credHelpers": {"reg.example": "test"}, "credsStore": "absent"}`)
	a, err := open(t, env).Get(t.Context(), "reg.example")
	if err != nil || a.IdentityToken != "s3" {
		t.Errorf("%+v %v", a, err)
	}
	if plain, err := open(t, env).Put(t.Context(), "reg.example", Auth{Username: "me", Password: "p"}); err != nil || plain {
		t.Errorf("%v %v", plain, err)
	}
	if found, err := open(t, env).Remove(t.Context(), "reg.example"); err != nil || !found {
		t.Errorf("%v %v", found, err)
	}
	if a, err := open(t, env).Get(t.Context(), "reg.example"); err != nil || a.Header() != "" {
		t.Errorf("after the removal: %+v %v", a, err)
	}
	said, _ := os.ReadFile(log)
	if !strings.Contains(string(said), `store {"ServerURL":"reg.example","Username":"me","Secret":"p"}`) || !strings.Contains(string(said), "erase reg.example") {
		t.Errorf("the helper was told %s", said)
	}
	if _, err := open(t, env).Get(t.Context(), "other.example"); err == nil || !strings.Contains(err.Error(), "docker-credential-absent") {
		t.Errorf("absent helper: %v", err)
	}
	env, _ = environment(t, `{"credsStore": "../../bin/sh"}`)
	if _, err := open(t, env).Get(t.Context(), "x"); err == nil || !strings.Contains(err.Error(), "invalid name") {
		t.Errorf("a path: %v", err)
	}
}

func TestHeaderAndHost(t *testing.T) {
	var a Auth
	if a.Header() != "" {
		t.Error("nothing makes a header")
	}
	a = Auth{Username: "me", Password: "?>?"}
	data, err := base64.URLEncoding.DecodeString(a.Header())
	var back Auth
	if err != nil || json.Unmarshal(data, &back) != nil || back != a {
		t.Errorf("%s %v", data, err)
	}
	for ref, want := range map[string]string{"debian": "docker.io", "team/app": "docker.io", "localhost/app": "localhost", "reg:5000/app": "reg:5000", "a.b/c/d": "a.b"} {
		if got := Host(ref); got != want {
			t.Errorf("%s: %s", ref, got)
		}
	}
}

func FuzzConfig(f *testing.F) {
	for _, s := range []string{`{}`, `null`, `{"auths":{"x":{"auth":"dTpw"}},"credsStore":"a","credHelpers":{"y":"b"}}`, `{"auths":null}`, `{"auths":5}`, `[`, ``} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parse(data)
		if err != nil {
			return
		}
		s.path = filepath.Join(t.TempDir(), "config.json")
		s.common, s.helper = "", nil
		if _, err := s.Put(t.Context(), "reg.example", Auth{Username: "u", Password: "p"}); err != nil {
			t.Fatal(err)
		}
		written, err := os.ReadFile(s.path)
		if err != nil {
			t.Fatal(err)
		}
		again, err := parse(written)
		if err != nil {
			t.Fatalf("%s became %s: %v", data, written, err)
		}
		again.common, again.helper = "", nil
		if a, err := again.Get(t.Context(), "reg.example"); err != nil || a.Username != "u" {
			t.Errorf("%s: %+v %v", written, a, err)
		}
	})
}
