package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "daemon.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFile(t *testing.T) {
	t.Parallel()
	c, err := Load([]string{"--config-file", write(t, `{
	"hosts": ["unix:///a/b.sock", "tcp://127.0.0.1"],
	"data-root": "/d/", "exec-root": "/e", "pidfile": "/p", "group": "staff",
	"debug": true, "log-level": "warn", "labels": ["a=b"],
	"cgroup-parent": "/x", "default-ulimits": {"nofile": {"Name": "nofile", "Hard": 20, "Soft": 10}},
	"default-address-pools": [{"base": "10.10.0.0/16", "size": 24}], "publish-policy": "firewall",
	"log-driver": "json-file", "log-opts": {"max-size": "1m"}, "init": true,
	"default-shm-size": "1g", "default-ipc-mode": "shareable", "default-cgroupns-mode": "host", "live-restore": true,
	"insecure-registries": ["reg:5000", "10.0.0.0/8"], "registry-mirrors": ["https://m"], "mirrors": {"quay.io": "https://a, http://b"}, "proxies": {"http-proxy": "http://p:3128", "no-proxy": "a,b"}
}`)})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Hosts) != 2 || c.Hosts[1] != "tcp://127.0.0.1:2375" || c.DataRoot != "/d" || c.ExecRoot != "/e" || c.Pidfile != "/p" || c.Group != "staff" ||
		!c.GroupRequired() || !c.Debug || c.LogLevel != "warn" || c.CgroupParent != "/x" || c.Ulimits["nofile"] != (Ulimit{10, 20}) || c.LogOpts["max-size"] != "1m" ||
		!c.Init || c.ShmSize != 1<<30 || c.IpcMode != "shareable" || c.CgroupnsMode != "host" ||
		len(c.InsecureRegistries) != 2 || len(c.RegistryMirrors) != 1 || len(c.Mirrors["quay.io"]) != 2 || c.Mirrors["quay.io"][1] != "http://b" ||
		c.Proxies != (Proxies{HTTP: "http://p:3128", No: "a,b"}) {
		t.Errorf("%+v", c)
	}
}

func TestFlags(t *testing.T) {
	t.Parallel()
	c, err := Load([]string{"--config-file=" + write(t, "\ufeff{}"), "-H", "unix:///x", "-Hfd://", "--host=:1", "-D", "-l", "error", "--default-ulimit", "core=-1",
		"--default-ulimit=nproc=5:7", "--log-opt", "max-file=3", "--default-shm-size=32m", "--data-root=/r"})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Hosts) != 3 || c.Hosts[2] != "tcp://:1" || !c.Debug || c.LogLevel != "error" || c.Ulimits["core"] != (Ulimit{-1, -1}) || c.Ulimits["nproc"] != (Ulimit{5, 7}) ||
		c.LogOpts["max-file"] != "3" || c.ShmSize != 32<<20 || c.DataRoot != "/r" {
		t.Errorf("%+v", c)
	}
	if _, err := Load([]string{"--help"}); !errors.Is(err, ErrHelp) {
		t.Error(err)
	}
}

// TestRefused holds what is refused, and that the message names the place and the nearest name.
func TestRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		file string
		args []string
		want []string
	}{
		{"{\n \"debug\": true,\n \"log-levle\": \"x\"}", nil, []string{"line 3", "log-levle", `did you mean "log-level"?`}},
		{"{\n\n\"log-level\": \"inof\"}", nil, []string{"line 3", "inof", `did you mean "info"?`}},
		{`{"debug": "yes"}`, nil, []string{"line 1", "debug", "true or false"}},
		{"{\"debug\": true,\n\"debug\": true}", nil, []string{"line 2", "given twice"}},
		{"{\"debug\": tru}", nil, []string{"line 1"}},
		{"{\"debug\": true} x", nil, []string{"follows"}},
		{"[]", nil, []string{"object"}},
		{`{"default-address-pools": ["10.0.0.0/8"]}`, nil, []string{"want an array such as", "line 1"}},
		{`{"default-address-pools": [{"base": "10.0.0.0/8", "size": 4}]}`, nil, []string{"default-address-pools"}},
		{`{"proxies": {"http": "x"}}`, nil, []string{"want http-proxy, https-proxy or no-proxy"}},
		{`{"publish-policy": "wall"}`, nil, []string{"want forward or firewall"}},
		{`{"default-ulimits": {"nofil": {"Soft": 1}}}`, nil, []string{`did you mean "nofile"?`}},
		{`{"live-restore": false}`, nil, []string{"outlive"}},
		{`{"debug": true}`, []string{"--debug"}, []string{"the following directives are specified both as a flag and in the configuration file: debug: (from flag: true, from file: true)"}},
		{`{"hosts": ["fd://"]}`, []string{"-H", "unix:///x"}, []string{"hosts: (from flag: [unix:///x], from file: [fd://])"}},
		{"{}", []string{"--date-root", "/x"}, []string{"unknown flag: --date-root", "--data-root"}},
		{"{}", []string{"-x"}, []string{"unknown shorthand flag"}},
		{"{}", []string{"--data-root"}, []string{"flag needs an argument: --data-root"}},
		{"{}", []string{"stray"}, []string{"accepts no arguments"}},
		{"{}", []string{"-H", "/run/x.sock"}, []string{"unix:///run/x.sock"}},
		{"{}", []string{"-H", "tcp://a:x"}, []string{"bad port"}},
		{"{}", []string{"--data-root", "/a", "--exec-root", "/a"}, []string{"must not be the same"}},
		{"{}", []string{"--log-driver", "syslog"}, []string{"invalid log driver: syslog"}},
	} {
		_, err := Load(append([]string{"--config-file", write(t, c.file)}, c.args...))
		if err == nil {
			t.Errorf("%s %v: accepted", c.file, c.args)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s %v: %q does not say %q", c.file, c.args, err, w)
			}
		}
	}
	if _, err := Load([]string{"--config-file", "/nonexistent/daemon.json"}); err == nil {
		t.Error("a named file that is missing was accepted")
	}
}

func FuzzFile(f *testing.F) {
	for _, s := range []string{`{}`, `{"debug":true}`, `{"hosts":["unix:///a"]}`, `{"default-ulimits":{"nofile":{"Soft":1,"Hard":2}}}`, `{"log-opts":{"a":"b"}}`,
		`{"default-shm-size":1e9}`, `{"x":[[[`, "\xef\xbb\xbf{}", `{"hosts":["tcp://[::1]:1"]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := parseFile("f", data)
		if err != nil {
			return
		}
		c := defaults()
		for _, s := range all {
			if err := s.apply(c); err != nil {
				t.Errorf("passed the check, then failed: %v", err)
			}
			_ = s.text()
		}
	})
}
