package api

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/common"

	"gantry/internal/errs"
)

// serverHeader is what every reply says of the server, in the form in which net/http keeps it, so that
// a reply costs three map writes.
type serverHeader struct{ server, api, os []string }

func newServerHeader(engineVersion string) serverHeader {
	return serverHeader{
		// Clients up to 24.0 take the server's OS from this header with the pattern
		// `\ADocker/.+\s\((.+)\)\z`, hence its beginning and its end.
		server: []string{"Docker/" + maxVersion.String() + " Gantry/" + engineVersion + " (linux)"},
		api:    []string{maxVersion.String()},
		os:     []string{"linux"},
	}
}

func (h *serverHeader) set(w http.ResponseWriter) {
	m := w.Header()
	m["Server"], m["Api-Version"], m["Ostype"] = h.server, h.api, h.os
	m["Docker-Experimental"] = notExperimental
}

var (
	notExperimental = []string{"false"}
	typeJSON        = []string{"application/json"}
)

// reply writes x as JSON.
func (c *call) reply(code int, x any) error {
	w := c.w
	w.Header()["Content-Type"] = typeJSON
	w.WriteHeader(code)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	// The status is out: an error here is a client that went away.
	_ = e.Encode(x)
	return nil
}

// ok replies without a body.
func (c *call) ok(code int) error {
	c.w.WriteHeader(code)
	return nil
}

// fail writes err as Docker's error body. plain is for clients too old to know the JSON form.
func fail(w http.ResponseWriter, err error, plain bool) {
	code := status(errs.KindOf(err))
	switch {
	case code == http.StatusNotModified: // has no body, RFC 9110 §15.4.5
		w.WriteHeader(code)
	case plain:
		http.Error(w, err.Error(), code)
	default:
		var body bytes.Buffer
		e := json.NewEncoder(&body)
		e.SetEscapeHTML(false)
		_ = e.Encode(common.ErrorResponse{Message: err.Error()})
		w.Header()["Content-Type"] = typeJSON
		// With its length known, a client that is still sending has all of the answer before it is cut off.
		w.Header()["Content-Length"] = []string{strconv.Itoa(body.Len())}
		w.WriteHeader(code)
		_, _ = w.Write(body.Bytes())
	}
}

// refuseBody replies with an error at once, and then drains the body for a while.
func (c *call) refuseBody(err error) error {
	if fullDuplex(c) != nil {
		return err
	}
	c.w.Header().Set("Connection", "close")
	fail(c.w, err, false)
	c.flush()
	_ = http.NewResponseController(c.w).SetReadDeadline(time.Now().Add(2 * time.Second))
	c.drain()
	return nil
}

// drain reads on, lest a client that is still sending sees a broken pipe instead of the reply.
func (c *call) drain() { _, _ = io.Copy(io.Discard, io.LimitReader(c.r.Body, 256<<20)) }

// flush sends what has been written, and the header.
func (c *call) flush() {
	if f, ok := c.w.(http.Flusher); ok {
		f.Flush()
	}
}
