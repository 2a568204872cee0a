package api

import (
	"net/http"

	"gantry/internal/errs"
)

// status returns the HTTP status for each kind of error. It is the only such table.
func status(k errs.Kind) int {
	switch k {
	case errs.Invalid:
		return http.StatusBadRequest
	case errs.NotFound:
		return http.StatusNotFound
	case errs.Conflict:
		return http.StatusConflict
	case errs.NotModified:
		return http.StatusNotModified
	case errs.Forbidden:
		return http.StatusForbidden
	case errs.Unauthorized:
		return http.StatusUnauthorized
	case errs.Unavailable:
		return http.StatusServiceUnavailable
	case errs.NotImplemented:
		return http.StatusNotImplemented
	case errs.Internal, errs.Canceled:
		return http.StatusInternalServerError
	}
	return http.StatusInternalServerError
}
