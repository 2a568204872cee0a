package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/content"
	"gantry/internal/errs"
)

// Media types that mean what OCI's mean, and the old one that no one can use any more.
const (
	dockerIndex     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerManifest  = "application/vnd.docker.distribution.manifest.v2+json"
	dockerSchema1   = "application/vnd.docker.distribution.manifest.v1+json"
	dockerSchema1JW = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

var accepted = []string{ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, dockerIndex, dockerManifest}

// maxManifest bounds a manifest, in bytes; registries refuse larger ones.
const maxManifest = 4 << 20

// Manifest is an index or a manifest as it came.
type Manifest struct {
	ocispec.Descriptor
	Data []byte
	// Mirror is the mirror that had it; empty if it was the registry itself.
	Mirror string
	// Quota is what the registry says of how much it still gives; empty if it says nothing.
	Quota string
}

// Manifest gets what ref, a tag or a digest, leads to. What comes for a digest hashes to it.
func (r *Repository) Manifest(ctx context.Context, ref string) (m Manifest, err error) {
	d, derr := digest.Parse(ref)
	if derr != nil { // Parse returns what it was given, whatever it is
		d = ""
	}
	err = r.reading(d == "", func(e *endpoint) error {
		m, err = r.manifest(ctx, e, ref, d)
		return err
	})
	return m, err
}

func (r *Repository) manifest(ctx context.Context, e *endpoint, ref string, d digest.Digest) (Manifest, error) {
	resp, err := r.do(ctx, e, request{
		method: "GET", path: "manifests/" + ref, actions: "pull", header: http.Header{"Accept": accepted},
	})
	if err != nil {
		return Manifest{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
	if err != nil {
		return Manifest{}, explainNet(ctx, err, e.base.Host)
	}
	if len(data) > maxManifest {
		return Manifest{}, errs.Invalid.Errorf("manifest %s of %s is larger than %d bytes", ref, r.name.Name(), maxManifest)
	}
	if n := resp.ContentLength; n >= 0 && n != int64(len(data)) {
		return Manifest{}, errs.Unavailable.Errorf("manifest %s of %s: %d bytes came, not %d", ref, r.name.Name(), len(data), n)
	}
	m := Manifest{Data: data, Quota: quota(resp.Header)}
	if e.mirror {
		m.Mirror = e.base.Scheme + "://" + e.base.Host
	}
	m.Digest, m.Size = digest.FromBytes(data), int64(len(data))
	want := d
	if want == "" {
		// What the registry calls it: it may be sha512. A digest that does not fit tells of a broken way.
		want = digest.Digest(resp.Header.Get("Docker-Content-Digest"))
		if content.Check(want) != nil {
			want = m.Digest
		}
	}
	if err := content.Check(want); err != nil {
		return Manifest{}, err
	}
	if got := want.Algorithm().FromBytes(data); got != want {
		return Manifest{}, errs.Invalid.Errorf("manifest %s of %s has digest %s, not %s as promised", ref, r.name.Name(), got, want)
	}
	m.Digest = want
	m.MediaType, _, _ = mime.ParseMediaType(resp.Header.Get("Content-Type"))
	var shape struct {
		MediaType     string          `json:"mediaType"`
		SchemaVersion int             `json:"schemaVersion"`
		Manifests     json.RawMessage `json:"manifests"`
		Config        json.RawMessage `json:"config"`
	}
	if err := json.Unmarshal(data, &shape); err != nil {
		if text := bytes.TrimSpace(data); len(text) == 0 || text[0] == '<' { // a web server, or what stands in the way and wants a login
			return Manifest{}, errs.Invalid.Errorf("manifest %s of %s is no JSON: %w\nwhat answers at %s is no registry: are that its name and its port?", ref, r.name.Name(), err, e.base.Host)
		}
		return Manifest{}, errs.Invalid.Errorf("manifest %s of %s is no JSON: %w", ref, r.name.Name(), err)
	}
	if shape.SchemaVersion == 1 || m.MediaType == dockerSchema1 || m.MediaType == dockerSchema1JW {
		return Manifest{}, errs.Invalid.Errorf("Docker Image Format v1 and Docker Image manifest version 2, schema 1 support has been removed. Suggest the author of %s to upgrade the image to the OCI Format or Docker Image manifest v2, schema 2", r.name.Name()) //nolint:staticcheck // Docker's words
	}
	// The content's own word counts, so that nobody takes one thing for another by a header (OCI image-spec 1.1 says so).
	switch {
	case shape.MediaType != "":
		m.MediaType = clean(shape.MediaType)
	case shape.Manifests != nil && shape.Config == nil:
		m.MediaType = ocispec.MediaTypeImageIndex
	case shape.Config != nil && shape.Manifests == nil:
		m.MediaType = ocispec.MediaTypeImageManifest
	}
	if shape.Manifests != nil && shape.Config != nil {
		return Manifest{}, errs.Invalid.Errorf("manifest %s of %s is both an index and a manifest", ref, r.name.Name())
	}
	return m, nil
}

// HasManifest asks the registry itself whether it has a manifest.
func (r *Repository) HasManifest(ctx context.Context, ref string) (ocispec.Descriptor, error) {
	resp, err := r.do(ctx, r.registry(), request{method: "HEAD", path: "manifests/" + ref, actions: "pull,push", header: http.Header{"Accept": accepted}})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	resp.Body.Close()
	t, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return ocispec.Descriptor{MediaType: t, Digest: digest.Digest(resp.Header.Get("Docker-Content-Digest")), Size: resp.ContentLength}, nil
}

// PutManifest pushes a manifest under ref, a tag or its digest.
func (r *Repository) PutManifest(ctx context.Context, ref, mediaType string, data []byte) error {
	resp, err := r.do(ctx, r.registry(), request{
		method: "PUT", path: "manifests/" + ref, actions: "pull,push", header: http.Header{"Content-Type": {mediaType}},
		length: int64(len(data)), body: bytesBody(data),
	})
	if err != nil {
		return err
	}
	resp.Body.Close()
	return stored(resp, digest.FromBytes(data))
}

// stored holds a registry to what it says when it has taken something: 201. A web server's 200 to everything is no such word.
func stored(resp *http.Response, d digest.Digest) error {
	if resp.StatusCode == http.StatusCreated || resp.Header.Get("Docker-Content-Digest") == d.String() {
		return nil
	}
	return errs.Unavailable.Errorf("%s was not taken: %s answered %s, not 201 Created\nwhat answers there is no registry: are that its name and its port?", d, resp.Request.URL.Host, resp.Status)
}

// Bounds of a repository's list of tags.
const (
	maxTags     = 100_000
	maxTagsPage = 16 << 20
)

// Tags lists the repository's tags.
func (r *Repository) Tags(ctx context.Context) (tags []string, err error) {
	err = r.reading(true, func(e *endpoint) error {
		tags, err = r.tags(ctx, e)
		return err
	})
	return tags, err
}

func (r *Repository) tags(ctx context.Context, e *endpoint) ([]string, error) {
	var tags []string
	q := request{method: "GET", path: "tags/list", actions: "pull", query: url.Values{"n": {"1000"}}}
	for {
		resp, err := r.do(ctx, e, q)
		if err != nil {
			return nil, err
		}
		var page struct{ Tags []string }
		err = json.NewDecoder(io.LimitReader(resp.Body, maxTagsPage)).Decode(&page)
		resp.Body.Close()
		if err != nil {
			return nil, errs.Unavailable.Errorf("list tags of %s: %w", r.name.Name(), err)
		}
		if tags = append(tags, page.Tags...); len(tags) > maxTags {
			return nil, errs.Invalid.Errorf("list tags of %s: more than %d", r.name.Name(), maxTags)
		}
		next := nextPage(resp)
		if next == nil || len(page.Tags) == 0 {
			return tags, nil
		}
		if !sameOrigin(next, e.base) {
			return nil, errs.Unavailable.Errorf("list tags of %s: the next page is on another host", r.name.Name())
		}
		q = request{method: "GET", url: next, actions: "pull"}
	}
}

// nextPage reads the Link header of a page (RFC 8288).
func nextPage(resp *http.Response) *url.URL {
	link := resp.Header.Get("Link")
	target, params, ok := strings.Cut(strings.TrimPrefix(link, "<"), ">")
	if !ok || !strings.HasPrefix(link, "<") || !strings.Contains(params, "next") {
		return nil
	}
	u, err := resp.Request.URL.Parse(target)
	if err != nil {
		return nil
	}
	return u
}

// Ping asks the registry whether it lets us in. At a token server that means a token without rights.
func (r *Repository) Ping(ctx context.Context) error {
	resp, err := r.do(ctx, r.registry(), request{method: "GET", root: true})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	// Registries say {}, true, nothing: anything but a page for people. Docker takes that for a login, too, but then nobody has
	// looked at the password, and each push and pull fails.
	start, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
	if text := bytes.TrimSpace(start); len(text) > 0 && text[0] == '<' {
		return errs.Invalid.Errorf("%s answers with a page\nwhat answers there is no registry: are that its name and its port?", redacted(resp.Request.URL))
	}
	return nil
}

// Result is a repository that a search found.
type Result struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Stars       int    `json:"star_count"`
	Official    bool   `json:"is_official"`
}

// maxSearch bounds the reply of a search, in bytes.
const maxSearch = 8 << 20

// Search asks a registry's v1 search for a term. The repository's name does not count, only its host.
func (r *Repository) Search(ctx context.Context, term string, limit int) ([]Result, error) {
	e := r.registry()
	if err := r.settle(ctx, e); err != nil {
		return nil, err
	}
	u := url.URL{Scheme: e.base.Scheme, Host: e.base.Host, Path: "/v1/search"}
	if e.host == hubHost && !e.fixed {
		u.Host = "index.docker.io"
	}
	u.RawQuery = url.Values{"q": {term}, "n": {strconv.Itoa(limit)}}.Encode()
	resp, err := r.do(ctx, e, request{method: "GET", url: &u, scopes: []string{"registry:catalog:search"}})
	if refused := As(err); refused != nil && refused.Status != http.StatusUnauthorized {
		return nil, errs.Unavailable.Errorf("Unexpected status code %d\n%s can't be searched", refused.Status, u.Host) //nolint:staticcheck // Docker's words
	}
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var reply struct{ Results []Result }
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxSearch)).Decode(&reply); err != nil {
		return nil, errs.Unavailable.Errorf("search %s: %w", u.Host, err)
	}
	return reply.Results, nil
}
