package registry

import (
	"encoding/json"
	"mime"
	"strings"
)

// Media types of manifests.
const (
	typeOCIManifest   = "application/vnd.oci.image.manifest.v1+json"
	typeOCIIndex      = "application/vnd.oci.image.index.v1+json"
	typeOCIArtifact   = "application/vnd.oci.artifact.manifest.v1+json" // of 1.1's release candidates; still in the field
	typeDockerImage   = "application/vnd.docker.distribution.manifest.v2+json"
	typeDockerList    = "application/vnd.docker.distribution.manifest.list.v2+json"
	typeDockerForeign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
)

// maxManifest is the most bytes that a manifest may have; the spec wants 4 MB to be possible.
const maxManifest = 4 << 20

type descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       string            `json:"digest"`
	Size         int64             `json:"size"`
	URLs         []string          `json:"urls,omitempty"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

// foreign reports whether the bytes are meant to be elsewhere.
func (d descriptor) foreign() bool {
	return d.MediaType == typeDockerForeign || strings.Contains(d.MediaType, ".layer.nondistributable.") || len(d.URLs) > 0
}

// manifest is what the registry needs to know of one.
type manifest struct {
	mediaType    string
	artifactType string
	// blobs must be blobs of the repository, children manifests (or, in an index of something else, blobs).
	blobs    []descriptor
	children []descriptor
	subject  *descriptor
	// annotations are for the list of referrers.
	annotations map[string]string
}

// parseManifest reads a manifest that came with contentType, which may be empty.
func parseManifest(contentType string, b []byte) (*manifest, error) {
	if contentType != "" {
		t, _, err := mime.ParseMediaType(contentType)
		if err != nil {
			return nil, manifestInvalid("invalid Content-Type %.100q", contentType)
		}
		contentType = t
	}
	var m struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     string            `json:"mediaType"`
		ArtifactType  string            `json:"artifactType"`
		Config        *descriptor       `json:"config"`
		Layers        []descriptor      `json:"layers"`
		Manifests     []descriptor      `json:"manifests"`
		Blobs         []descriptor      `json:"blobs"`
		FSLayers      json.RawMessage   `json:"fsLayers"`
		Subject       *descriptor       `json:"subject"`
		Annotations   map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, manifestInvalid("manifest invalid: %v", err)
	}
	typ := contentType
	switch {
	case typ == "" || typ == "application/json" || typ == "application/octet-stream" || typ == "text/plain":
		// Curl and friends: the manifest itself says what it is, or shows it.
		switch typ = m.MediaType; {
		case typ != "":
		case m.Manifests != nil:
			typ = typeOCIIndex
		case m.Config != nil:
			typ = typeOCIManifest
		}
	case m.MediaType != "" && m.MediaType != typ:
		return nil, manifestInvalid("the manifest's mediaType is %q, but its Content-Type is %q", m.MediaType, typ)
	}
	out := &manifest{mediaType: typ, artifactType: m.ArtifactType, subject: m.Subject, annotations: m.Annotations}
	// What could be read as a manifest by one client and as an index by another is refused (CVE-2021-41190).
	switch typ {
	case typeOCIManifest, typeDockerImage:
		if m.Manifests != nil || m.FSLayers != nil {
			return nil, manifestInvalid("an image manifest must not have \"manifests\" or \"fsLayers\"")
		}
		if m.Config == nil {
			return nil, manifestInvalid("an image manifest needs a \"config\"")
		}
		out.blobs = append(append(out.blobs, *m.Config), m.Layers...)
		if out.artifactType == "" {
			out.artifactType = m.Config.MediaType
		}
	case typeOCIIndex, typeDockerList:
		if m.Config != nil || m.Layers != nil || m.FSLayers != nil {
			return nil, manifestInvalid("an index must not have \"config\", \"layers\" or \"fsLayers\"")
		}
		out.children = m.Manifests
	case typeOCIArtifact:
		if m.Manifests != nil || m.Layers != nil || m.Config != nil || m.FSLayers != nil {
			return nil, manifestInvalid("an artifact manifest has \"blobs\" only")
		}
		out.blobs = m.Blobs
	default:
		return nil, manifestInvalid("this registry does not take manifests of type %.100q", typ)
	}
	if typ != typeOCIArtifact && m.SchemaVersion != 2 {
		return nil, manifestInvalid("schemaVersion is %d: want 2", m.SchemaVersion)
	}
	for _, list := range [][]descriptor{out.blobs, out.children} {
		for _, d := range list {
			if err := d.check(); err != nil {
				return nil, err
			}
		}
	}
	if out.subject != nil {
		if err := out.subject.check(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (d descriptor) check() error {
	if _, ok := ParseDigest(d.Digest); !ok {
		return manifestInvalid("a descriptor's digest is invalid: %.200q", d.Digest)
	}
	if d.Size < 0 {
		return manifestInvalid("the size of %s is negative", d.Digest)
	}
	return nil
}
