// Package flags has the kinds of flag values that pflag lacks: lists that are checked as they come, sizes, numbers of
// CPUs. Their type names are what help shows.
package flags

import (
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"github.com/docker/go-units"
)

// List is a flag that may be given several times.
type List struct {
	Values []string
	check  func(string) (string, error)
	kind   string
}

// NewList makes a list whose values go through check, if any.
func NewList(kind string, check func(string) (string, error)) *List {
	return &List{check: check, kind: kind}
}

// Set adds a value.
func (l *List) Set(s string) error {
	if l.check != nil {
		v, err := l.check(s)
		if err != nil {
			return err
		}
		s = v
	}
	l.Values = append(l.Values, s)
	return nil
}

// Type is shown in help.
func (l *List) Type() string { return l.kind }

func (l *List) String() string {
	if len(l.Values) == 0 {
		return ""
	}
	return fmt.Sprint(l.Values)
}

// Each is a flag that may be given several times and whose values are parsed on the spot.
type Each struct {
	Kind  string
	Parse func(string) error
}

// Set parses a value.
func (e *Each) Set(s string) error { return e.Parse(s) }

// Type is shown in help.
func (e *Each) Type() string { return e.Kind }

func (e *Each) String() string { return "" }

// Bytes is a size such as 64m, in binary units.
type Bytes struct {
	N     int64
	Minus bool // -1 is allowed
}

// Set parses a size.
func (b *Bytes) Set(s string) error {
	if b.Minus && s == "-1" {
		b.N = -1
		return nil
	}
	n, err := units.RAMInBytes(s)
	if err != nil {
		return err
	}
	b.N = n
	return nil
}

// Type is shown in help.
func (b *Bytes) Type() string { return "bytes" }

func (b *Bytes) String() string {
	if b.N == 0 {
		return "" // pflag would show it as a default
	}
	return units.BytesSize(float64(b.N))
}

// CPUs is a number of CPUs with a fraction, kept in billionths.
type CPUs struct{ Nano int64 }

// Set parses a number of CPUs.
func (c *CPUs) Set(s string) error {
	r, ok := new(big.Rat).SetString(s)
	if !ok || len(s) > 64 {
		return fmt.Errorf("failed to parse %v as a rational number", s)
	}
	n := r.Mul(r, big.NewRat(1e9, 1))
	if !n.IsInt() {
		return errors.New("value is too precise")
	}
	if !n.Num().IsInt64() {
		return fmt.Errorf("failed to parse %v as a rational number", s)
	}
	c.Nano = n.Num().Int64()
	return nil
}

// Type is shown in help.
func (c *CPUs) Type() string { return "decimal" }

func (c *CPUs) String() string {
	if c.Nano == 0 {
		return ""
	}
	return new(big.Rat).SetFrac64(c.Nano, 1e9).FloatString(3)
}

// Ulimits collects --ulimit.
type Ulimits struct{ Values []*units.Ulimit }

// Set parses name=soft[:hard]. The last of a name wins, in the place of the first.
func (u *Ulimits) Set(s string) error {
	l, err := units.ParseUlimit(s)
	if err != nil {
		return err
	}
	for i, v := range u.Values {
		if v.Name == l.Name {
			u.Values[i] = l
			return nil
		}
	}
	u.Values = append(u.Values, l)
	return nil
}

// Type is shown in help.
func (u *Ulimits) Type() string { return "ulimit" }

func (u *Ulimits) String() string { return "" }

// Map collects key=value pairs.
type Map struct {
	Values map[string]string
	Kind   string
	Check  func(string) error
}

// Set adds a pair.
func (m *Map) Set(s string) error {
	if m.Check != nil {
		if err := m.Check(s); err != nil {
			return err
		}
	}
	if m.Values == nil {
		m.Values = map[string]string{}
	}
	k, v, _ := strings.Cut(s, "=")
	m.Values[k] = v
	return nil
}

// Type is shown in help.
func (m *Map) Type() string { return m.Kind }

func (m *Map) String() string { return "" }

// Throttle reads /dev/path:rate, where rate is a size or a number.
func Throttle(s string, size bool) (path string, rate uint64, err error) {
	path, r, ok := strings.Cut(s, ":")
	if !ok || path == "" || strings.Contains(r, ":") {
		return "", 0, fmt.Errorf("bad format: %s", s)
	}
	if !strings.HasPrefix(path, "/dev/") {
		return "", 0, fmt.Errorf("bad format for device path: %s", s)
	}
	if !size {
		if rate, err = strconv.ParseUint(r, 10, 64); err != nil {
			return "", 0, fmt.Errorf("invalid rate for device: %s. The correct format is <device-path>:<number>. Number must be a positive integer", s)
		}
		return path, rate, nil
	}
	n, err := units.RAMInBytes(r)
	if err != nil || n < 0 {
		return "", 0, fmt.Errorf("invalid rate for device: %s. The correct format is <device-path>:<number>[<unit>]. Number must be a positive integer. Unit is optional and can be kb, mb, or gb", s)
	}
	return path, uint64(n), nil
}
