package initproc

import (
	"errors"
	"strconv"

	"gantry/internal/runtime/spec"

	"golang.org/x/sys/unix"
)

// failure is a spec.Failure on its way up.
type failure struct{ spec.Failure }

func (f *failure) Error() string { return f.Message }

// codes of spec.Failure.
const (
	codeFailed    = 125
	codeCannotRun = 126
	codeNotFound  = 127
)

// failed says that stage failed with err; message and errno are err's.
func failed(stage string, err error) error {
	if err == nil {
		return nil
	}
	if f, ok := err.(*failure); ok {
		return f
	}
	f := &failure{spec.Failure{Stage: stage, Message: err.Error(), Code: codeFailed}}
	var errno unix.Errno
	if errors.As(err, &errno) {
		f.Errno = int(errno)
	}
	return f
}

// explain is failed with text before err's own.
func explain(stage, text string, err error) error {
	if err == nil {
		return nil
	}
	f := failed(stage, err).(*failure)
	f.Message = text + ": " + f.Message
	return f
}

// send tells the supervisor. There is nobody to tell if that fails.
func (f *failure) send() {
	b := appendHead(nil, f.Stage, f.Code)
	b = appendQuoted(b, f.Message)
	b = append(b, `","errno":`...)
	b = strconv.AppendInt(b, int64(f.Errno), 10)
	b = append(b, '}')
	if len(b) > spec.StatusMax {
		(&failure{spec.Failure{Stage: f.Stage, Code: f.Code, Errno: f.Errno, Message: f.Message[:len(f.Message)/2]}}).send()
		return
	}
	unix.Write(spec.FdStatus, b)
}

// appendHead begins the JSON of a Failure, up to the opening quote of the message.
func appendHead(b []byte, stage string, code int) []byte {
	b = append(b, `{"stage":"`...)
	b = appendQuoted(b, stage)
	b = append(b, `","code":`...)
	b = strconv.AppendInt(b, int64(code), 10)
	return append(b, `,"message":"`...)
}

// appendQuoted appends s as the inside of a JSON string.
func appendQuoted(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ':
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
	}
	return b
}
