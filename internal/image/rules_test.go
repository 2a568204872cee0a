package image

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"gantry/internal/errs"
)

type users map[digest.Digest][]User

func (u users) ImageUsers(id digest.Digest) []User { return u[id] }

type events struct{ got []string }

func (e *events) Image(action string, id digest.Digest, name string, labels map[string]string) {
	e.got = append(e.got, action+" "+name+" "+labels["salt"])
}

const container = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestRemoveFollowsDockersRules(t *testing.T) {
	f := makeFixture(t, "a", hostPlatform(), nil)
	short, id := f.id.Encoded()[:12], f.id.String()
	untagged := func(n string) Deleted { return Deleted{Untagged: n} }
	for _, c := range []struct {
		name  string
		tags  []string
		users []User
		ref   string
		force bool
		want  []Deleted // before the layers
		says  string
		left  []string // tags afterwards; nil with gone
		gone  bool
	}{
		{name: "one of two names", tags: []string{"a:1", "b:1"}, ref: "a:1", want: []Deleted{untagged("a:1")}, left: []string{"b:1"}},
		{name: "last name", tags: []string{"a:1"}, ref: "a:1", want: []Deleted{untagged("a:1"), {Deleted: id}}, gone: true},
		{name: "ID with one name", tags: []string{"a:1"}, ref: short, want: []Deleted{untagged("a:1"), {Deleted: id}}, gone: true},
		{name: "ID with two names", tags: []string{"a:1", "b:1"}, ref: short, says: "conflict: unable to delete " + short + " (must be forced) - image is referenced in multiple repositories", left: []string{"a:1", "b:1"}},
		{name: "ID with two names, forced", tags: []string{"a:1", "b:1"}, ref: id, force: true, want: []Deleted{untagged("a:1"), untagged("b:1"), {Deleted: id}}, gone: true},
		{name: "name, container stopped", tags: []string{"a:1"}, users: []User{{container, false}}, ref: "a:1", says: `conflict: unable to remove repository reference "a:1" (must force) - container 0123456789ab is using its referenced image ` + short, left: []string{"a:1"}},
		{name: "name of two, container running", tags: []string{"a:1", "b:1"}, users: []User{{container, true}}, ref: "a:1", want: []Deleted{untagged("a:1")}, left: []string{"b:1"}},
		{name: "name, container stopped, forced", tags: []string{"a:1"}, users: []User{{container, false}}, ref: "a:1", force: true, want: []Deleted{untagged("a:1"), {Deleted: id}}, gone: true},
		{name: "name, container running, forced", tags: []string{"a:1"}, users: []User{{container, true}}, ref: "a:1", force: true, want: []Deleted{untagged("a:1")}, left: []string{}},
		{name: "ID, container stopped", tags: []string{"a:1"}, users: []User{{container, false}}, ref: short, says: "conflict: unable to delete " + short + " (must be forced) - image is being used by stopped container 0123456789ab", left: []string{"a:1"}},
		{name: "ID, container running, forced", tags: []string{"a:1"}, users: []User{{container, true}}, ref: short, force: true, says: "conflict: unable to delete " + short + " (cannot be forced) - image is being used by running container 0123456789ab", left: []string{"a:1"}},
		{name: "dangling", ref: short, want: []Deleted{{Deleted: id}}, gone: true},
		{name: "nothing", tags: []string{"a:1"}, ref: "b", says: "No such image: b:latest", left: []string{"a:1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			ev := &events{}
			s := openAt(t, root, Options{Users: users{f.id: c.users}, Events: ev})
			load(t, s, pack(t, f.dockerArchive(t, c.tags...)...))
			got, err := s.Remove(t.Context(), c.ref, c.force, false)
			if c.says != "" {
				if err == nil || err.Error() != c.says {
					t.Errorf("got %v", err)
				}
			} else if err != nil {
				t.Fatal(err)
			}
			want := c.want
			if c.gone {
				x := makeFixture(t, "a", hostPlatform(), nil)
				var chain []digest.Digest
				for n := range x.plain {
					d := digest.FromBytes(x.plain[n])
					if n > 0 {
						d = digest.FromString(chain[n-1].String() + " " + d.String())
					}
					chain = append(chain, d)
				}
				want = append(slices.Clone(want), Deleted{Deleted: chain[2].String()}, Deleted{Deleted: chain[1].String()}, Deleted{Deleted: chain[0].String()})
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %v\nwant %v", got, want)
			}
			if c.gone {
				empty(t, s, root)
				if last := ev.got[len(ev.got)-1]; last != "delete "+id+" a" {
					t.Errorf("events %q", ev.got)
				}
				return
			}
			if i := get(t, s, id); !slices.Equal(i.RepoTags, c.left) {
				t.Errorf("left %q", i.RepoTags)
			}
		})
	}
}

func TestTagAndEvents(t *testing.T) {
	ev := &events{}
	s := open(t, Options{Events: ev})
	a, b := makeFixture(t, "a", hostPlatform(), nil), makeFixture(t, "bb", hostPlatform(), nil)
	load(t, s, pack(t, a.dockerArchive(t, "app:1")...))
	load(t, s, pack(t, b.dockerArchive(t)...))
	for _, c := range []struct{ from, to, says string }{
		{"app:1", "other", ""},
		{b.id.Encoded()[:10], "app:1", ""},
		{"app:1", "app:1", ""},
		{"nothing", "x", "No such image: nothing:latest"},
		{"app:1", "UPPER", "invalid reference format: repository name"},
		{"app:1", "x@" + a.id.String(), "refusing to create a tag with a digest reference"},
		{"app:1", "sha256:x", "refusing to create an ambiguous tag using digest algorithm as name"},
	} {
		err := s.Tag(t.Context(), c.from, c.to)
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("tag %s %s: %v", c.from, c.to, err)
		}
	}
	if i := get(t, s, "app:1"); i.ID != b.id || get(t, s, "other").ID != a.id {
		t.Errorf("got %v", i)
	}
	if len(s.refs) != 2 {
		t.Errorf("records: %v", s.refs)
	}
	want := []string{"load " + a.id.String() + " a", "load " + b.id.String() + " bb", "tag other:latest a", "tag app:1 bb", "tag app:1 bb"}
	if !slices.Equal(ev.got, want) {
		t.Errorf("events %q", ev.got)
	}
}

func TestGetPrefersNamesAndRefusesAmbiguity(t *testing.T) {
	s := open(t, Options{})
	byFirst := map[byte]string{}
	var twice string
	for n := 0; twice == ""; n++ { // until two IDs begin alike
		f := makeFixture(t, fmt.Sprint("x", n), hostPlatform(), nil)
		load(t, s, pack(t, f.dockerArchive(t, fmt.Sprint("n", n))...))
		first := f.id.Encoded()[0]
		if byFirst[first] != "" {
			twice = string(first)
		}
		byFirst[first] = f.id.String()
	}
	_, err := s.Get(t.Context(), twice)
	if !errs.NotFound.Is(err) || !strings.HasPrefix(err.Error(), "No such image: "+twice+":latest\n") {
		t.Errorf("got %v", err)
	}
	if err := s.Tag(t.Context(), "n0", twice); err != nil {
		t.Fatal(err)
	}
	if get(t, s, twice).ID != get(t, s, "n0").ID {
		t.Error("the name does not come first")
	}
	for ref, says := range map[string]string{
		"none":                                 "No such image: none:latest",
		"none:1":                               "No such image: none:1",
		"reg.example/none":                     "No such image: reg.example/none:latest",
		strings.Repeat("0", 64):                "No such image: sha256:" + strings.Repeat("0", 64),
		"n0@sha256:" + strings.Repeat("0", 64): "No such image: n0@sha256:" + strings.Repeat("0", 64),
	} {
		if _, err := s.Get(t.Context(), ref); !errs.NotFound.Is(err) || err.Error() != says {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if _, err := s.Get(t.Context(), "UPPER"); !errs.Invalid.Is(err) {
		t.Errorf("got %v", err)
	}
}

func TestListFilters(t *testing.T) {
	s := open(t, Options{})
	for _, salt := range []string{"a", "bb", "ccc"} { // each younger than the one before
		f := makeFixture(t, salt, hostPlatform(), nil)
		load(t, s, pack(t, f.dockerArchive(t, salt+":1", "reg.example/"+salt+":2")...))
	}
	dangling := makeFixture(t, "dddd", hostPlatform(), nil)
	load(t, s, pack(t, dangling.dockerArchive(t)...))
	for _, c := range []struct {
		filters map[string][]string
		want    string // labels, newest first
	}{
		{nil, "dddd ccc bb a"},
		{map[string][]string{"dangling": {"true"}}, "dddd"},
		{map[string][]string{"dangling": {"0"}}, "ccc bb a"},
		{map[string][]string{"label": {"salt"}}, "dddd ccc bb a"},
		{map[string][]string{"label": {"salt=bb"}}, "bb"},
		{map[string][]string{"label": {"salt", "none"}}, ""},
		{map[string][]string{"before": {"bb:1"}}, "a"},
		{map[string][]string{"since": {"bb:1"}}, "dddd ccc"},
		{map[string][]string{"reference": {"a", "reg.example/c*"}}, "ccc a"},
		{map[string][]string{"reference": {"*:2"}}, ""},
		{map[string][]string{"reference": {"*/*:2"}}, "ccc bb a"},
		{map[string][]string{"until": {"2024-01-01T00:00:02Z"}}, "a"},
		{map[string][]string{"until": {"1h"}}, "dddd ccc bb a"},
	} {
		l, err := s.List(t.Context(), ListOptions{Filters: c.filters})
		if err != nil {
			t.Errorf("%v: %v", c.filters, err)
			continue
		}
		var got []string
		for _, i := range l {
			got = append(got, i.Config.Config.Labels["salt"])
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%v: got %v", c.filters, got)
		}
	}
	for name, says := range map[string]string{"colour": "invalid filter 'colour'", "dangling": "invalid filter 'dangling=[maybe]'", "before": "No such image: maybe:latest"} {
		if _, err := s.List(t.Context(), ListOptions{Filters: map[string][]string{name: {"maybe"}}}); err == nil || err.Error() != says {
			t.Errorf("%s: %v", name, err)
		}
	}
}
