package solve

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"maps"
	"slices"
	"strconv"

	"github.com/opencontainers/go-digest"

	"gantry/internal/build/graph"
	"gantry/internal/ids"
)

// keys are what a step is known by: fast by what its inputs are known by, slow by the contents of the files that it takes
// from them. Which inputs are known by contents alone (folders of the client's) is in both.
type keys struct {
	j          *job
	v          *graph.Vertex
	ins        []*Ref
	fast, slow string
	looked     bool
	nonce      string
}

// hasher writes strings that no two lists have in common.
type hasher struct{ hash.Hash }

func newHasher() hasher { return hasher{sha256.New()} }

func (h hasher) str(s string) {
	var b [binary.MaxVarintLen64]byte
	h.Write(b[:binary.PutUvarint(b[:], uint64(len(s)))])
	io.WriteString(h, s)
}

func (h hasher) num(n int64) { h.str(strconv.FormatInt(n, 10)) }

func (h hasher) sum() string { return hex.EncodeToString(h.Sum(nil)) }

// part is what a step takes of one of its inputs, as a copy would.
type part struct {
	input int
	c     *graph.Copy
}

// parts lists what v only reads of its inputs.
func parts(v *graph.Vertex) []part {
	var list []part
	switch op := v.Op.(type) {
	case *graph.File:
		for _, a := range op.Actions {
			if a.Copy != nil && a.From >= 0 && a.From < len(v.Inputs) {
				list = append(list, part{a.From, a.Copy})
			}
		}
	case *graph.Exec:
		for _, m := range op.Mounts {
			if m.Input >= 0 && m.Dest != "/" && m.Type == graph.MountBind && m.Output == graph.NoOutput {
				list = append(list, part{m.Input, &graph.Copy{Src: "/" + m.Source, Contents: true}})
			}
		}
	}
	return list
}

// whole reports whether a step has a use for the input that is not one of its parts.
func whole(v *graph.Vertex, input int) bool {
	switch op := v.Op.(type) {
	case *graph.File:
		for _, a := range op.Actions {
			if a.Input == input || a.Copy == nil && a.From == input {
				return true
			}
		}
		return false
	case *graph.Exec:
		for _, m := range op.Mounts {
			if m.Input == input && (m.Dest == "/" || m.Output != graph.NoOutput) {
				return true
			}
		}
		return false // a cache that begins with it does not count
	}
	return true
}

// keys computes the fast key.
func (j *job) keys(v *graph.Vertex, ins []*Ref) (*keys, error) {
	k := &keys{j: j, v: v, ins: ins}
	var err error
	k.fast, err = k.hash(func(r *Ref) bool { return r.tree != nil })
	return k, err
}

// look computes the slow key, if there is one.
func (k *keys) look() error {
	if k.looked {
		return nil
	}
	k.looked = true
	for _, p := range parts(k.v) {
		if k.ins[p.input].tree == nil {
			var err error
			k.slow, err = k.hash(func(*Ref) bool { return true })
			return err
		}
	}
	return nil
}

// hash makes a key in which the parts of those inputs are contents that byContent says.
func (k *keys) hash(byContent func(*Ref) bool) (string, error) {
	h := newHasher()
	h.str("gantry.step.1")
	h.str(k.v.Op.Kind())
	for _, f := range k.v.Fields() {
		h.str(f.Path)
		h.str(f.Value)
	}
	if k.j.Epoch != nil {
		h.str("epoch")
		h.num(k.j.Epoch.Unix())
	}
	for i, r := range k.ins {
		h.num(int64(i))
		switch {
		case r.tree != nil && whole(k.v, i):
			d, err := k.j.content(r, &graph.Copy{Src: "/", Contents: true})
			if err != nil {
				return "", err
			}
			h.str(d.String())
		case r.tree == nil && (whole(k.v, i) || !byContent(r)):
			h.str(r.id)
		}
	}
	for _, p := range parts(k.v) {
		if r := k.ins[p.input]; byContent(r) {
			d, err := k.j.content(r, p.c)
			if err != nil {
				return "", err
			}
			h.num(int64(p.input))
			h.str(d.String())
		}
	}
	return h.sum(), nil
}

// main is the key under which the result will be.
func (k *keys) main() string {
	if k.slow != "" {
		return k.slow
	}
	return k.fast
}

// id is what the result is known by: what is done although it is known is something else.
func (k *keys) id(ignore bool) string {
	if !ignore {
		return k.main()
	}
	if k.nonce == "" {
		k.nonce = ids.New()
	}
	return k.nonce
}

// all lists the keys under which the result id is found.
func (k *keys) all(id string) []string {
	list := []string{k.fast}
	if k.slow != "" {
		list = append(list, k.slow)
	}
	if !slices.Contains(list, id) {
		list = append(list, id)
	}
	return list
}

// maxDigests bounds what is remembered of results' contents.
const maxDigests = 50_000

// content is the digest of what a copy takes: names, kinds, modes, owners, links, extended attributes and contents; not times.
func (j *job) content(r *Ref, c *graph.Copy) (digest.Digest, error) {
	if j.Strict && c.EmptyWildcard {
		strict := *c
		strict.EmptyWildcard = false
		c = &strict
	}
	memo, of := "", r.id
	if r.tree != nil && r.tree.Tree().Digest() != "" {
		of = "tree " + r.tree.Tree().Digest().String()
	}
	if of != "" {
		h := newHasher()
		h.str(of)
		h.str(fmt.Sprintf("%q %v %v %v %v %q %q %q", c.Src, c.FollowLinks, c.Contents, c.Wildcard, c.EmptyWildcard, c.Include, c.Exclude, c.Required))
		memo = h.sum()
		j.s.mu.Lock()
		d, ok := j.s.digests[memo]
		j.s.mu.Unlock()
		if ok {
			return d, nil
		}
	}
	if err := j.have(j.ctx, r); err != nil {
		return "", err
	}
	f, done, err := j.s.read(r)
	if err != nil {
		return "", err
	}
	defer done()
	d, err := contentDigest(j.ctx, r, f, c)
	if err != nil {
		return "", err
	}
	if memo != "" {
		j.s.mu.Lock()
		if len(j.s.digests) > maxDigests {
			clear(j.s.digests)
		}
		j.s.digests[memo] = d
		j.s.mu.Unlock()
	}
	return d, nil
}

func contentDigest(ctx context.Context, r *Ref, f files, c *graph.Copy) (digest.Digest, error) {
	h := newHasher()
	match := ""
	links := map[[2]uint64]string{}
	err := selected(ctx, f, c, func(it *item) error {
		if it.match != match || it.rel == "" {
			match = it.match
			h.str("match")
			h.str(match)
		}
		n := &it.node
		h.str(it.rel)
		h.num(int64(n.Mode))
		if it.rel == "" && n.IsDir() && c.Contents {
			return nil // of itself nothing is copied
		}
		h.num(int64(n.UID))
		h.num(int64(n.GID))
		h.num(int64(n.Rdev))
		h.str(n.Link)
		for _, name := range slices.Sorted(maps.Keys(n.Xattrs)) {
			h.str(name)
			h.str(n.Xattrs[name])
		}
		if n.Inode != [2]uint64{} {
			if first, ok := links[n.Inode]; ok {
				h.str("link")
				h.str(first)
				return nil
			}
			links[n.Inode] = it.match + "/" + it.rel
		}
		if !n.IsRegular() {
			return nil
		}
		if r.tree != nil {
			e, err := r.tree.Find(it.path)
			if err != nil {
				return err
			}
			h.str(e.Digest.String())
			return nil
		}
		in, err := f.Open(ctx, it.path)
		if err != nil {
			return err
		}
		defer in.Close()
		sum := digest.SHA256.Digester()
		if _, err := io.Copy(sum.Hash(), in); err != nil {
			return err
		}
		h.str(sum.Digest().String())
		return nil
	})
	if err != nil {
		return "", err
	}
	return digest.NewDigestFromEncoded(digest.SHA256, h.sum()), nil
}
