package cachefile

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestMadeIsParsed(t *testing.T) {
	t.Parallel()
	a, b, c := digest.FromString("a"), digest.FromString("b"), digest.FromString("c")
	describe := func(d digest.Digest) Layer { return Layer{Blob: d, Annotations: &Annotations{DiffID: d}} }
	var m Maker
	for _, diffs := range [][]digest.Digest{{a, b}, {a, b, c}, {a, c}, {}} {
		m.Records = append(m.Records, Record{Digest: digest.FromString("k"), Step: &Step{ID: "x", Outs: []Out{{Layer: m.Layers(diffs, describe)}}}})
	}
	if len(m.Config.Layers) != 4 {
		t.Errorf("%d layers, of which some are the same", len(m.Config.Layers))
	}
	data, err := json.Marshal(m.Config)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range [][]digest.Digest{{a, b}, {a, b, c}, {a, c}, nil} {
		if diffs, err := got.Diffs(got.Records[i].Step.Outs[0].Layer); err != nil || !slices.Equal(diffs, want) {
			t.Errorf("step %d lies on %v (%v), not %v", i, diffs, err, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for data, want := range map[string]string{
		`nonsense`:                                                  "read the cache's configuration",
		`{"layers":[{"parent":1}]}`:                                 "lies on one that there is not",
		`{"layers":[{"parent":0}]}`:                                 "lies on one that there is not",
		`{"records":[{"layers":[{"layer":0}]}]}`:                    "has a layer that there is not",
		`{"records":[{"gantry":{"id":"x","outs":[{"layer":7}]}}]}`:  "has a layer that there is not",
		`{"records":[{"gantry":{"id":"x","outs":[{"layer":-2}]}}]}`: "has a layer that there is not",
		`{"records":[{"gantry":{}}]}`:                               "has no name",
	} {
		if _, err := Parse([]byte(data)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", data, err, want)
		}
	}
	many := `{"records":[{"gantry":{"id":"x","outs":[` + strings.Repeat(`{"layer":-1},`, maxOuts) + `{"layer":-1}]}}]}`
	if _, err := Parse([]byte(many)); err == nil {
		t.Error("more outputs are taken than there may be")
	}
	c, err := Parse([]byte(`{"layers":[{"parent":1,"annotations":{"diffID":"` + digest.FromString("a").String() + `"}},{"parent":0,"annotations":{"diffID":"` + digest.FromString("b").String() + `"}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Diffs(0); err == nil {
		t.Error("layers that lie on each other in a circle have an end")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"layers":[{"blob":"sha256:00","parent":-1}],"records":[{"layers":[{"layer":0}],"digest":"sha256:00","gantry":{"id":"a","outs":[{"layer":0}]}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(data)
		if err != nil {
			return
		}
		for i := range c.Layers {
			c.Diffs(i)
		}
	})
}
