package container

import (
	"maps"
	"testing"

	api "github.com/moby/moby/api/types/container"
)

func TestLogAttrs(t *testing.T) {
	snap := func(options map[string]string) *Snapshot {
		return &Snapshot{ID: "0123456789abcdef", Name: "web", Path: "sh", Args: []string{"-c", "true"},
			Config:     &api.Config{Image: "busybox", Env: []string{"A=1", "BB=2", "C=3", "bare"}, Labels: map[string]string{"q1": "z", "r": "y"}},
			HostConfig: &api.HostConfig{LogConfig: api.LogConfig{Type: "json-file", Config: options}}}
	}
	for _, c := range []struct{ options, want map[string]string }{
		{nil, nil},
		{map[string]string{"labels": "r,nosuch", "env": "A"}, map[string]string{"r": "y", "A": "1"}},
		{map[string]string{"labels-regex": "^q", "env-regex": "^B+$"}, map[string]string{"q1": "z", "BB": "2"}},
		{map[string]string{"tag": "{{.Name}}/{{ .ID }} {{.ImageName}} {{.Command}}"}, map[string]string{"tag": "web/0123456789ab busybox sh -c true"}},
	} {
		got, err := logAttrs(snap(c.options))
		if err != nil || !maps.Equal(got, c.want) {
			t.Errorf("%v: %v, %v; want %v", c.options, got, err, c.want)
		}
	}
	for _, bad := range []map[string]string{{"tag": "{{.Nosuch}}"}, {"tag": "{{"}, {"tag": `{{printf "x"}}`}, {"env-regex": "("}, {"labels-regex": "["}} {
		if got, err := logAttrs(snap(bad)); err == nil {
			t.Errorf("%v is accepted: %v", bad, got)
		}
	}
}
