// Package cachefile is the form in which a build's cache leaves the engine and comes into another: BuildKit's cache
// configuration (its package cache/remotecache/v1), by the media type and the field's name that BuildKit gives it. In a registry and
// in a folder it is a blob beside the layers that it speaks of, in an image a field of the configuration.
//
// What a step is known by is each builder's own. So a record has, besides what BuildKit knows of one, a field that only we
// read; of a cache that BuildKit wrote we find none of our steps, and it finds none of its own in ours.
package cachefile

import (
	"encoding/json"
	"time"

	"github.com/opencontainers/go-digest"

	"gantry/internal/errs"
	"gantry/internal/layer"
)

// MediaType is the configuration's as a blob; Field the name that it has in an image's configuration, there in base64.
const (
	MediaType = "application/vnd.buildkit.cacheconfig.v0"
	Field     = "moby.buildkit.cache.v0"
)

// Bounds of what is read.
const (
	MaxSize    = 64 << 20 // bytes of a configuration
	maxLayers  = 20_000
	maxRecords = 100_000
	maxOuts    = 200_000 // of all steps
)

// Config is a cache.
type Config struct {
	Layers  []Layer  `json:"layers,omitempty"`
	Records []Record `json:"records,omitempty"`
}

// Layer is a layer on top of another.
type Layer struct {
	Blob        digest.Digest `json:"blob,omitempty"` // its archive; in an image's configuration none
	Parent      int           `json:"parent"`         // index of the layer below, -1: none
	Annotations *Annotations  `json:"annotations,omitempty"`
}

// Annotations are what a layer's descriptor says.
type Annotations struct {
	MediaType string        `json:"mediaType,omitempty"`
	DiffID    digest.Digest `json:"diffID,omitempty"`
	Size      int64         `json:"size,omitempty"`
	CreatedAt time.Time     `json:"createdAt,omitzero"`
}

// Record is a step.
type Record struct {
	Results []Result      `json:"layers,omitempty"`
	Digest  digest.Digest `json:"digest,omitempty"`
	Step    *Step         `json:"gantry,omitempty"`
}

// Result is the topmost layer of what came of a step.
type Result struct {
	Layer     int       `json:"layer"`
	CreatedAt time.Time `json:"createdAt,omitzero"`
}

// Step is what we know of a step: see package solve.
type Step struct {
	ID      string   `json:"id"`
	Keys    []string `json:"keys"`
	Kind    string   `json:"kind"`
	Name    string   `json:"name"`
	Parents []string `json:"parents,omitempty"`
	Size    int64    `json:"size,omitempty"`
	Outs    []Out    `json:"outs"`
}

// Out is one output.
type Out struct {
	Layer int  `json:"layer"` // index of the topmost; -1: there is none
	Empty bool `json:"empty,omitempty"`
}

// Parse reads a configuration. What does not hang together is errs.Invalid.
func Parse(data []byte) (*Config, error) {
	if len(data) > MaxSize {
		return nil, errs.Invalid.Errorf("the cache's configuration is larger than %d bytes", MaxSize)
	}
	c := &Config{}
	if err := json.Unmarshal(data, c); err != nil {
		return nil, errs.Invalid.Errorf("read the cache's configuration: %w", err)
	}
	if len(c.Layers) > maxLayers || len(c.Records) > maxRecords {
		return nil, errs.Invalid.Errorf("the cache has more than %d layers or %d steps", maxLayers, maxRecords)
	}
	for i, l := range c.Layers {
		if l.Parent < -1 || l.Parent >= len(c.Layers) || l.Parent == i {
			return nil, errs.Invalid.Errorf("the cache's layer %d lies on one that there is not: %d", i, l.Parent)
		}
	}
	outs := 0
	for _, r := range c.Records {
		for _, x := range r.Results {
			if x.Layer < 0 || x.Layer >= len(c.Layers) {
				return nil, errs.Invalid.Errorf("the cache's step %s has a layer that there is not: %d", r.Digest, x.Layer)
			}
		}
		if r.Step == nil {
			continue
		}
		if r.Step.ID == "" || len(r.Step.Keys) > 1000 {
			return nil, errs.Invalid.Errorf("the cache's step %s has no name, or too many", r.Digest)
		}
		if outs += len(r.Step.Outs); outs > maxOuts {
			return nil, errs.Invalid.Errorf("the cache's steps have more than %d outputs", maxOuts)
		}
		for _, o := range r.Step.Outs {
			if o.Layer < -1 || o.Layer >= len(c.Layers) {
				return nil, errs.Invalid.Errorf("the cache's step %s has a layer that there is not: %d", r.Digest, o.Layer)
			}
		}
	}
	return c, nil
}

// Diffs lists the diff IDs of a layer and those below it, the bottom first; -1 has none.
func (c *Config) Diffs(at int) (list []digest.Digest, err error) {
	for ; at >= 0; at = c.Layers[at].Parent {
		l := &c.Layers[at]
		if l.Annotations == nil || l.Annotations.DiffID.Validate() != nil {
			return nil, errs.Invalid.Errorf("the cache's layer %d does not say its diff ID", at)
		}
		if list = append(list, l.Annotations.DiffID); len(list) > layer.MaxLayers {
			return nil, errs.Invalid.Errorf("the cache has more than %d layers on each other", layer.MaxLayers)
		}
	}
	for i, j := 0, len(list)-1; i < j; i, j = i+1, j-1 {
		list[i], list[j] = list[j], list[i]
	}
	return list, nil
}

// Maker puts a configuration together: layers that steps have in common come once.
type Maker struct {
	Config
	at map[digest.Digest]int // by chain ID
}

// Layers adds the layers of diffs, the bottom first, and returns the index of the topmost. describe gives what is known of each.
func (m *Maker) Layers(diffs []digest.Digest, describe func(digest.Digest) Layer) int {
	if m.at == nil {
		m.at = map[digest.Digest]int{}
	}
	top, chain := -1, digest.Digest("")
	for _, d := range diffs {
		chain = layer.ChainID(chain, d)
		i, ok := m.at[chain]
		if !ok {
			i = len(m.Config.Layers)
			m.at[chain] = i
			l := describe(d)
			l.Parent = top
			m.Config.Layers = append(m.Config.Layers, l)
		}
		top = i
	}
	return top
}
