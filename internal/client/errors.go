package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Error is what an engine answered with a status of 400 or more.
type Error struct {
	Status  int    // HTTP status
	Message string // the engine's words
}

// Error returns Docker's line for it. Scripts match on its beginning.
func (e *Error) Error() string { return "Error response from daemon: " + e.Message }

func newError(p *Pending, resp *Response, text []byte) error {
	var v struct{ Message string }
	msg := strings.TrimSpace(string(text))
	if strings.HasPrefix(resp.Header("Content-Type"), "application/json") {
		if json.Unmarshal(text, &v) == nil && v.Message != "" {
			msg = strings.TrimSpace(v.Message)
		}
	}
	if msg == "" {
		msg = fmt.Sprintf("request returned %s for API route and version %s%s, check if the server supports the requested API version",
			resp.Reason, "http://"+hostHeader, p.c.target(p.req))
		return &plainError{resp.Status, msg}
	}
	return &Error{resp.Status, msg}
}

// plainError is an error status without any words of the engine.
type plainError struct {
	status int
	msg    string
}

func (e *plainError) Error() string { return e.msg }

// streamError is a connection that broke after it was made.
type streamError struct{ error }

func (e *streamError) Unwrap() error { return e.error }

// ConnectionError says that the engine could not be reached.
type ConnectionError struct {
	Host string
	text error
	err  error
}

func (e *ConnectionError) Error() string { return e.text.Error() }
func (e *ConnectionError) Unwrap() error { return e.err }

// IsStatus reports whether err is the engine's answer with that HTTP status.
func IsStatus(err error, status int) bool {
	var e *Error
	var p *plainError
	return errors.As(err, &e) && e.Status == status || errors.As(err, &p) && p.status == status
}

// IsNotFound reports whether the engine said that a thing does not exist.
func IsNotFound(err error) bool { return IsStatus(err, 404) }

// IsConnection reports whether the engine could not be reached.
func IsConnection(err error) bool {
	var e *ConnectionError
	return errors.As(err, &e)
}
