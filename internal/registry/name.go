package registry

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"hash"
	"strings"
)

// maxName bounds a repository's name, as clients do (distribution-spec, "Pulling manifests").
const maxName = 255

// validName reports whether s is a repository's name by the distribution-spec's grammar:
// [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*
func validName(s string) bool {
	if len(s) == 0 || len(s) > maxName {
		return false
	}
	for part := range strings.SplitSeq(s, "/") {
		if !validComponent(part) {
			return false
		}
	}
	return true
}

func validComponent(s string) bool {
	sep := "" // the separator since the last letter or digit
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9':
			sep = ""
		case i == 0:
			return false
		case c == '-' && strings.Trim(sep, "-") == "",
			c == '_' && (sep == "" || sep == "_"),
			c == '.' && sep == "":
			sep += string(c)
		default:
			return false
		}
	}
	return s != "" && sep == ""
}

// validTag reports whether s is a tag: [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}
func validTag(s string) bool {
	if len(s) == 0 || len(s) > 128 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || i > 0 && (c == '.' || c == '-') {
			continue
		}
		return false
	}
	return true
}

// Digest is a checked digest, as "sha256:…". The zero value is none.
type Digest string

// ParseDigest checks s. Algorithms are sha256 and sha512; hex digits are in lower case.
func ParseDigest(s string) (Digest, bool) {
	algo, enc, _ := strings.Cut(s, ":")
	want := 0
	switch algo {
	case "sha256":
		want = 2 * sha256.Size
	case "sha512":
		want = 2 * sha512.Size
	}
	if want == 0 || len(enc) != want {
		return "", false
	}
	for i := range len(enc) {
		if c := enc[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return "", false
		}
	}
	return Digest(s), true
}

// Algorithm is "sha256" or "sha512".
func (d Digest) Algorithm() string { return string(d[:6]) }

// Hex is what follows the algorithm.
func (d Digest) Hex() string { return string(d[7:]) }

// path is the digest as a part of a key.
func (d Digest) path() string { return d.Algorithm() + "/" + d.Hex() }

// newHash returns the hash of an algorithm, and nil for one that is not served.
func newHash(algorithm string) hash.Hash {
	switch algorithm {
	case "sha256":
		return sha256.New()
	case "sha512":
		return sha512.New()
	}
	return nil
}

func sumDigest(algorithm string, h hash.Hash) Digest {
	return Digest(algorithm + ":" + hex.EncodeToString(h.Sum(nil)))
}

func digestOf(algorithm string, b []byte) Digest {
	h := newHash(algorithm)
	h.Write(b)
	return sumDigest(algorithm, h)
}

// Keys of objects. A repository's name has no component that begins with "_", so what is ours does.
func blobKey(d Digest) string                  { return "blobs/" + d.Algorithm() + "/" + d.Hex()[:2] + "/" + d.Hex() }
func repoKey(repo string) string               { return "repos/" + repo }
func blobLinkKey(repo string, d Digest) string { return "repos/" + repo + "/_blobs/" + d.path() }
func manifestKey(repo string, d Digest) string { return "repos/" + repo + "/_manifests/" + d.path() }
func tagKey(repo, tag string) string           { return "repos/" + repo + "/_tags/" + tag }
func referrerKey(repo string, subject, d Digest) string {
	return "repos/" + repo + "/_referrers/" + subject.path() + "/" + d.Algorithm() + "-" + d.Hex()
}
