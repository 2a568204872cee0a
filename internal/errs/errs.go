// Package errs gives every error of Gantry one of a closed set of kinds. Services say what kind of
// failure it is; internal/api alone turns a kind into an HTTP status, and internal/cli into an exit code.
package errs

import (
	"context"
	"errors"
	"fmt"
)

// Kind says what a failure means to the one who asked.
type Kind uint8

const (
	// Internal is a failure of Gantry or of the host; it is the kind of every error that has no other.
	Internal Kind = iota
	// Invalid: what was asked is malformed or contradicts itself; asking again unchanged cannot help.
	Invalid
	// NotFound: the named thing does not exist.
	NotFound
	// Conflict: the thing exists, but its state (or another's) forbids what was asked.
	Conflict
	// NotModified: the thing is already in the state asked for.
	NotModified
	// Forbidden: policy does not allow it.
	Forbidden
	// Unauthorized: the caller must show who it is.
	Unauthorized
	// Unavailable: a thing that Gantry needs is not there now; asking later may help.
	Unavailable
	// NotImplemented: Gantry cannot do it (yet, or on this kernel).
	NotImplemented
	// Canceled: the caller went away, or its deadline passed.
	Canceled
)

var names = [...]string{"internal", "invalid", "not found", "conflict", "not modified", "forbidden", "unauthorized", "unavailable", "not implemented", "canceled"}

// String returns the kind's name in lower case.
func (k Kind) String() string { return names[k] }

type kindError struct {
	kind Kind
	err  error
}

func (e *kindError) Error() string { return e.err.Error() }
func (e *kindError) Unwrap() error { return e.err }

// Errorf makes an error of kind k; format is fmt.Errorf's, with %w.
func (k Kind) Errorf(format string, args ...any) error {
	return &kindError{k, fmt.Errorf(format, args...)}
}

// Wrap gives err the kind k and keeps its text. A nil err stays nil.
func (k Kind) Wrap(err error) error {
	if err == nil {
		return nil
	}
	return &kindError{k, err}
}

// KindOf returns the outermost kind that err was given, Canceled for a context's errors, and
// Internal where it was given none.
func KindOf(err error) Kind {
	var e *kindError
	if errors.As(err, &e) {
		return e.kind
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return Canceled
	}
	return Internal
}

// Is reports whether err is of kind k.
func (k Kind) Is(err error) bool { return err != nil && KindOf(err) == k }
