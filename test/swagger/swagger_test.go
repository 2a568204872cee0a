package swagger

import (
	"strings"
	"testing"
)

func TestValidate(t *testing.T) {
	s, err := Load("1.56")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		method, path string
		status       int
		body, want   string // want: part of the only problem, or nothing
	}{
		{"GET", "/_ping", 200, "OK", ""},
		{"GET", "/v1.56/containers/json", 200, `[]`, ""},
		{"GET", "/containers/json", 200, `{}`, "not array"},
		{"GET", "/containers/json", 200, ``, "empty"},
		{"GET", "/containers/json", 200, `[{"Id":7}]`, "not string"},
		{"GET", "/containers/json", 200, `[{"State":"asleep"}]`, "none of"},
		{"GET", "/containers/json", 418, `[]`, "not described"},
		{"GET", "/containers/a/b/json", 404, `{"message":"No such container: a/b"}`, ""},
		{"GET", "/containers/a/json", 404, `{}`, "message is missing"},
		{"GET", "/containers/a/json", 404, `page not found`, "not JSON"},
		{"POST", "/containers/create", 201, `{"Id":"x","Warnings":[]}`, ""},
		{"POST", "/containers/create", 201, `{"Id":"x","Warnings":null}`, "is null"},
		{"POST", "/containers/x/wait", 200, `{"StatusCode":1.5}`, "no integer"},
		{"POST", "/containers/x/wait", 200, `{"StatusCode":1}`, ""},
		{"GET", "/events", 200, `{"Type":"container","time":1}{"Type":"zoo"}`, "none of"},
		{"GET", "/nosuch", 200, ``, "not described"},
		{"POST", "/build", 501, `{"message":"x"}`, ""},
	} {
		got := s.Validate(c.method, c.path, c.status, []byte(c.body))
		if c.want == "" && len(got) > 0 || c.want != "" && (len(got) != 1 || !strings.Contains(got[0], c.want)) {
			t.Errorf("%s %s %d %s: %q, want %q", c.method, c.path, c.status, c.body, got, c.want)
		}
	}
}

func TestEveryVersionLoads(t *testing.T) {
	if testing.Short() {
		t.Skip("reads 32 large files")
	}
	for minor := 25; minor <= 56; minor++ {
		s, err := Load("1." + string(rune('0'+minor/10)) + string(rune('0'+minor%10)))
		if err != nil {
			t.Fatal(err)
		}
		if op, _ := s.operation("GET", "/containers/x/json"); op == nil {
			t.Errorf("1.%d lacks containers inspect", minor)
		}
	}
}
