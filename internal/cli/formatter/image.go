package formatter

import (
	"io"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/image"
)

const none = "<none>"

// Images prints a list of images, a row for each name.
func Images(w io.Writer, f Format, digests, noTrunc bool, list []image.Summary) error {
	var rows []*ImageContext
	wantDigest := digests || f.Uses("Digest")
	for i := range list {
		rows = append(rows, imageRows(&list[i], wantDigest, !noTrunc)...)
	}
	columns := []Column{{"REPOSITORY", "Repository"}, {"TAG", "Tag"}}
	if digests {
		columns = append(columns, Column{"DIGEST", "Digest"})
	}
	columns = append(columns, Column{"IMAGE ID", "ID"}, Column{"CREATED", "CreatedSince"}, Column{"SIZE", "Size"})
	headers := map[string]string{
		"ID": "IMAGE ID", "Repository": "REPOSITORY", "Tag": "TAG", "Digest": "DIGEST", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT", "Size": "SIZE",
		"Containers": "CONTAINERS", "VirtualSize": "SIZE", "SharedSize": "SHARED SIZE", "UniqueSize": "UNIQUE SIZE",
	}
	if f == "raw" {
		f = `repository: {{.Repository}}\ntag: {{.Tag}}\nimage_id: {{.ID}}\ncreated_at: {{.CreatedAt}}\nvirtual_size: {{.Size}}\n`
		if digests {
			f = `repository: {{.Repository}}\ntag: {{.Tag}}\ndigest: {{.Digest}}\nimage_id: {{.ID}}\ncreated_at: {{.CreatedAt}}\nvirtual_size: {{.Size}}\n`
		}
	}
	return Write(w, f, columns, headers, rows, func(c *ImageContext, field string) string {
		switch field {
		case "Repository":
			return c.repo
		case "Tag":
			return c.tag
		case "Digest":
			return c.digest
		case "ID":
			return c.ID()
		case "CreatedSince":
			return c.CreatedSince()
		}
		return c.Size()
	})
}

func imageRows(s *image.Summary, wantDigest, trunc bool) []*ImageContext {
	row := func(repo, tag, digest string) *ImageContext { return &ImageContext{s, trunc, repo, tag, digest} }
	// tags and digests by repository, in the order of the tags
	var order []string
	tags, digests := map[string][]string{}, map[string][]string{}
	add := func(m map[string][]string, repo, v string) {
		if tags[repo] == nil && digests[repo] == nil {
			order = append(order, repo)
		}
		m[repo] = append(m[repo], v)
	}
	for _, t := range s.RepoTags {
		if i := strings.LastIndexByte(t, ':'); i > 0 && t != "<none>:<none>" {
			add(tags, t[:i], t[i+1:])
		}
	}
	for _, d := range s.RepoDigests {
		if repo, dg, ok := strings.Cut(d, "@"); ok && repo != none {
			add(digests, repo, dg)
		}
	}
	var rows []*ImageContext
	for _, repo := range order {
		t, d := tags[repo], digests[repo]
		if !wantDigest && len(t) > 0 {
			d = nil
		}
		switch {
		case len(t) == 0 && !wantDigest:
			rows = append(rows, row(repo, none, none))
		case len(t) == 0:
			for _, dg := range d {
				rows = append(rows, row(repo, none, dg))
			}
		case len(d) == 0:
			for _, tag := range t {
				rows = append(rows, row(repo, tag, none))
			}
		default:
			for _, tag := range t {
				for _, dg := range d {
					rows = append(rows, row(repo, tag, dg))
				}
			}
		}
	}
	if len(rows) == 0 {
		rows = append(rows, row(none, none, none))
	}
	return rows
}

// ImageContext is one name of an image in a template of images.
type ImageContext struct {
	i                 *image.Summary
	trunc             bool
	repo, tag, digest string
}

// MarshalJSON is what --format json prints.
func (c *ImageContext) MarshalJSON() ([]byte, error) { return marshal(c) }

// ID is the image's ID, short unless --no-trunc.
func (c *ImageContext) ID() string {
	if c.trunc {
		return ShortID(c.i.ID)
	}
	return c.i.ID
}

// Repository is the name without its tag.
func (c *ImageContext) Repository() string { return c.repo }

// Tag is the tag.
func (c *ImageContext) Tag() string { return c.tag }

// Digest is the manifest's digest.
func (c *ImageContext) Digest() string { return c.digest }

// CreatedSince is how long ago the image was made.
func (c *ImageContext) CreatedSince() string {
	if c.i.Created <= 0 {
		return "N/A"
	}
	return units.HumanDuration(time.Now().UTC().Sub(time.Unix(c.i.Created, 0))) + " ago"
}

// CreatedAt is when the image was made.
func (c *ImageContext) CreatedAt() string { return time.Unix(c.i.Created, 0).String() }

// Size is the size of the image with what it shares.
func (c *ImageContext) Size() string { return units.HumanSizeWithPrecision(float64(c.i.Size), 3) }

// VirtualSize is the same as Size, with one digit more.
func (c *ImageContext) VirtualSize() string { return units.HumanSize(float64(c.i.Size)) }

// Containers is how many containers use it, if that is known.
func (c *ImageContext) Containers() string { return unknown(c.i.Containers, false) }

// SharedSize is what it shares, if that is known.
func (c *ImageContext) SharedSize() string { return unknown(c.i.SharedSize, true) }

// UniqueSize is what it does not share, if that is known.
func (c *ImageContext) UniqueSize() string {
	if c.i.SharedSize == -1 {
		return "N/A"
	}
	return units.HumanSize(float64(c.i.Size - c.i.SharedSize))
}

func unknown(n int64, size bool) string {
	if n == -1 {
		return "N/A"
	}
	if size {
		return units.HumanSize(float64(n))
	}
	return units.CustomSize("%.0f%s", float64(n), 1e18, []string{""})
}
