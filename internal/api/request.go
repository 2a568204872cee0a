package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"gantry/internal/errs"
)

// maxBody bounds a JSON request body. The largest honest one is a container's environment, which the
// kernel bounds to a quarter of the stack limit: 2 MiB by default.
const maxBody = 16 << 20

// call is one request on its way through a handler.
type call struct {
	w       http.ResponseWriter
	r       *http.Request
	version version
	name    string // what {name} of the route stood for
	query   url.Values
}

// str returns a query parameter, empty where absent.
func (c *call) str(key string) string { return c.query.Get(key) }

// flag reads a boolean as Docker does: everything but "", 0, no, false and none is true.
func (c *call) flag(key string) bool {
	switch strings.ToLower(strings.TrimSpace(c.query.Get(key))) {
	case "", "0", "no", "false", "none":
		return false
	}
	return true
}

// seconds reads the t parameter of stop and restart; nil where absent.
func (c *call) seconds(key string) (*int, error) {
	s := c.query.Get(key)
	if s == "" {
		return nil, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return nil, errs.Invalid.Wrap(err)
	}
	return &n, nil
}

// size reads the h or w parameter of a resize. What the kernel cannot hold (ioctl_tty(2)) is cut to what it can.
func (c *call) size(key string) (uint16, error) {
	n, err := strconv.Atoi(c.query.Get(key))
	if err != nil {
		return 0, errs.Invalid.Wrap(err)
	}
	return uint16(min(max(n, 0), math.MaxUint16)), nil
}

// time reads a "seconds[.nanoseconds]" parameter; absent is the zero time.
func (c *call) time(key string) (time.Time, error) {
	s := c.query.Get(key)
	if s == "" {
		return time.Time{}, nil
	}
	t, err := parseUnix(s)
	if err != nil {
		return time.Time{}, errs.Invalid.Errorf("invalid value for %q: invalid timestamp %q: %w", key, s, err)
	}
	return t, nil
}

// parseUnix reads "1136073845" or "1136073845.000000001". The fraction may have up to 20 digits, of
// which nine count; fewer are padded on the right.
func parseUnix(s string) (time.Time, error) {
	whole, frac, _ := strings.Cut(s, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("invalid seconds %q: %w", whole, errors.Unwrap(err))
	}
	if len(frac) > 20 {
		return time.Time{}, fmt.Errorf("invalid nanoseconds: length %d exceeds maximum %d", len(frac), 20)
	}
	nsec := int64(0)
	for i := range 9 {
		nsec *= 10
		if i < len(frac) {
			nsec += int64(frac[i] - '0')
		}
	}
	for i := range len(frac) {
		if frac[i] < '0' || frac[i] > '9' {
			return time.Time{}, fmt.Errorf("invalid nanoseconds: invalid character %q at position %d", frac[i], i)
		}
	}
	return time.Unix(sec, nsec).UTC(), nil
}

// filters reads the filters parameter in both of its encodings: {"key":{"value":true}} of today's clients and
// {"key":["value"]} of those before 1.22 (docker-py and dockerode still send it).
func (c *call) filters() (map[string][]string, error) { return parseFilters(c.query.Get("filters")) }

func parseFilters(s string) (map[string][]string, error) {
	if s == "" {
		return nil, nil
	}
	var sets map[string]map[string]bool
	if json.Unmarshal([]byte(s), &sets) == nil {
		f := make(map[string][]string, len(sets))
		for k, set := range sets {
			for val, on := range set {
				if on {
					f[k] = append(f[k], val)
				}
			}
		}
		return f, nil
	}
	var f map[string][]string
	if json.Unmarshal([]byte(s), &f) != nil {
		return nil, errs.Invalid.Errorf("invalid filter")
	}
	return f, nil
}

// wantJSON checks the Content-Type of a request that should have a JSON body.
func (c *call) wantJSON() error {
	ct := c.r.Header.Get("Content-Type")
	if ct == "" && c.r.ContentLength == 0 {
		return nil
	}
	kind, _, err := mime.ParseMediaType(ct)
	if err != nil {
		return errs.Invalid.Errorf("malformed Content-Type header (%s): %w", ct, err)
	}
	if kind != "application/json" {
		return errs.Invalid.Errorf("unsupported Content-Type header (%s): must be 'application/json'", ct)
	}
	return nil
}

// decode reads the JSON body into out; an absent body leaves it as it is.
func (c *call) decode(out any) error {
	if err := c.wantJSON(); err != nil {
		return err
	}
	if c.r.ContentLength == 0 {
		return nil
	}
	return decodeJSON(http.MaxBytesReader(c.w, c.r.Body, maxBody), out)
}

// decodeJSON reads exactly one JSON value. The phrases are Docker's.
func decodeJSON(r io.Reader, out any) error {
	d := json.NewDecoder(r)
	if err := d.Decode(out); err != nil {
		var tooLarge *http.MaxBytesError
		switch {
		case errors.Is(err, io.EOF):
			return errs.Invalid.Errorf("invalid JSON: got EOF while reading request body")
		case errors.As(err, &tooLarge):
			return errs.Invalid.Errorf("request body is larger than %d bytes", tooLarge.Limit)
		}
		return errs.Invalid.Errorf("invalid JSON: %w", err)
	}
	if d.More() {
		return errs.Invalid.Errorf("unexpected content after JSON")
	}
	return nil
}
