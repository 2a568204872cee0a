package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
)

// apiError is an answer of the distribution-spec, "Error Codes".
type apiError struct {
	status  int
	code    string
	message string
	detail  any
}

func (e *apiError) Error() string { return e.code + ": " + e.message }

func fail(status int, code, format string, args ...any) *apiError {
	return &apiError{status: status, code: code, message: fmt.Sprintf(format, args...)}
}

func nameInvalid(name string) *apiError {
	return fail(http.StatusBadRequest, "NAME_INVALID", "invalid repository name %.300q", name)
}

func digestInvalid(s string) *apiError {
	return fail(http.StatusBadRequest, "DIGEST_INVALID", "invalid digest %.200q: want sha256:… or sha512:… in lower-case hex", s)
}

// The messages of the three unknowns are distribution's: the docker command line shows them as they are.
func blobUnknown(d Digest) *apiError {
	return &apiError{http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown to registry", map[string]string{"digest": string(d)}}
}

func manifestUnknown(repo, ref string) *apiError {
	return &apiError{http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown", map[string]string{"name": repo, "reference": ref}}
}

func nameUnknown(repo string) *apiError {
	return &apiError{http.StatusNotFound, "NAME_UNKNOWN", "repository name not known to registry", map[string]string{"name": repo}}
}

func manifestInvalid(format string, args ...any) *apiError {
	return fail(http.StatusBadRequest, "MANIFEST_INVALID", format, args...)
}

// writeError answers with err. Foreign errors are a 500 whose text stays in our log: it may name paths.
func writeError(w http.ResponseWriter, err error) {
	var e *apiError
	switch {
	case errors.As(err, &e):
	case errors.Is(err, ErrFull):
		e = fail(http.StatusInsufficientStorage, "DENIED", "the registry's disk is full: whoever runs it makes room, by deleting tags and `gantry registry gc`")
	case errors.Is(err, ErrReadOnly):
		e = fail(http.StatusServiceUnavailable, "DENIED", "the registry's disk is read-only: whoever runs it looks why, and mounts it for writing")
	default:
		e = fail(http.StatusInternalServerError, "UNKNOWN", "unknown error: see the registry's log")
	}
	type one struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Detail  any    `json:"detail"`
	}
	detail := e.detail
	if detail == nil {
		// Docker's client takes an error without detail for its code alone: it drops the message, and tries again.
		detail = struct{}{}
	}
	body, _ := json.Marshal(map[string][]one{"errors": {{e.code, e.message, detail}}})
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	// An error is of this moment: no cache on the way may keep it, nor what a success would have said of its content.
	for _, k := range []string{"Etag", "Docker-Content-Digest", "Last-Modified", "Content-Range", "Cache-Control"} {
		h.Del(k)
	}
	w.WriteHeader(e.status)
	w.Write(body)
}
