package image

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"gantry/internal/errs"
	"gantry/internal/remote"
)

// TestLargeLayersComeInSegments pulls a layer by ranges: from a registry that gives them, breaks them, has none, or lies.
func TestLargeLayersComeInSegments(t *testing.T) {
	l := noise(t, 2<<20, 7)
	f := imageOf(t, l)
	d := digest.FromBytes(l)
	const segment = 64 << 10
	all := int(int64(len(l)) / segment)
	var n atomic.Int64
	for name, c := range map[string]struct {
		fault    func(w http.ResponseWriter, r *http.Request, next http.Handler) bool
		min, max int // requests for the layer
		says     string
	}{
		"ranges": {nil, all, all + 1, ""},
		"every fifth is cut": {func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
			if n.Add(1)%5 != 0 {
				return false
			}
			next.ServeHTTP(&cutReply{w, 1000}, r)
			panic(http.ErrAbortHandler)
		}, all, 4 * all, ""},
		"every fifth fails": {func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
			if n.Add(1)%5 != 0 {
				return false
			}
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}, all, 2 * all, ""},
		"no ranges": {func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
			r.Header.Del("Range")
			return false
		}, 2, 4, ""},
		"another range": {func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
			r.Header.Set("Range", "bytes=5-100")
			return false
		}, 1, 100, "sent another range than asked for"},
		"another content": {func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
			if !strings.HasPrefix(r.Header.Get("Range"), "bytes=655360-") {
				return false
			}
			first, last := "655360", "720895"
			w.Header().Set("Content-Range", "bytes "+first+"-"+last+"/2097152")
			w.WriteHeader(http.StatusPartialContent)
			w.Write(make([]byte, segment))
			return true
		}, all, 3 * all, "has digest"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHub(t)
			h.putImage(t, "app", "1", f)
			path := "/blobs/" + d.String()
			h.breaking(func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
				return strings.HasSuffix(r.URL.Path, path) && c.fault != nil && c.fault(w, r, next)
			})
			reg := remote.New(remote.Options{UserAgent: "test", Patience: quick, Segment: segment})
			t.Cleanup(reg.Close)
			s := openAt(t, t.TempDir(), Options{Remote: reg})
			err := s.Pull(t.Context(), h.host+"/app:1", PullOptions{}, nil)
			if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
				t.Fatalf("got %v (kind %v)", err, errs.KindOf(err))
			}
			if got := h.count("GET", d.String()); got < c.min || got > c.max {
				t.Errorf("%d requests, not %d to %d", got, c.min, c.max)
			}
			if err == nil {
				if data, err := s.content.Read(d, 4<<20); err != nil || digest.FromBytes(data) != d {
					t.Errorf("the blob: %v", err)
				}
			}
		})
	}
}

// cutReply lets so many bytes of a reply through.
type cutReply struct {
	http.ResponseWriter
	left int
}

func (c *cutReply) Write(b []byte) (int, error) {
	n := min(len(b), c.left)
	c.left -= n
	if n == 0 {
		return len(b), nil
	}
	if _, err := c.ResponseWriter.Write(b[:n]); err != nil {
		return 0, err
	}
	c.ResponseWriter.(http.Flusher).Flush()
	return len(b), nil
}
