// Package seccomp makes the filters that decide which system calls a container may make.
//
// A filter begins as a profile: the default one, which is Docker's and moves with its package, or a file that the
// user names with --security-opt seccomp=FILE. Both are lists of calls with conditions on the container (its
// capabilities), the host (kernel, architecture) and the calls' arguments. The first two kinds are resolved here; what is left
// is compiled (see Compile) to a classic BPF program, by our own compiler, for libseccomp needs cgo. The program
// travels to the init program, which loads it last of all before it executes the container's.
//
// What a filter costs is paid at every container start, when the kernel checks and translates it, so it is small:
// call numbers are found by a search tree over ranges, and the architectures share what they have in common.
// Calls that are allowed whatever their arguments are decided by tests of the number alone, which kernels from 5.11
// evaluate ahead: such calls then never run the filter.
package seccomp

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"

	moby "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/internal/errs"
	"gantry/internal/kernel/caps"
)

// maxProfile bounds a profile's JSON, in bytes. Docker's own default has 13,470.
const maxProfile = 1 << 20

// maxCached bounds the filters that a Cache holds: about 3 kB each.
const maxCached = 256

// Cache makes filters and keeps them: a container with the profile and capabilities of an earlier one
// costs a look into a map. The zero value is ready. Its methods may be called at the same time.
type Cache struct {
	mu      sync.Mutex
	filters map[key]*entry
}

type entry struct {
	once   sync.Once
	filter []byte
	err    error
}

type key struct {
	profile [sha256.Size]byte // of the JSON; zero for the default profile
	caps    caps.Set
}

// Default returns the filter of Docker's default profile for a container whose bounding set is set: an array of
// struct sock_filter in the host's byte order. It is shared: callers must not write to it.
func (c *Cache) Default(set caps.Set) ([]byte, error) {
	return c.get(key{caps: set}, func() ([]byte, error) {
		p, err := moby.GetDefaultProfile(container(set))
		if err != nil {
			return nil, fmt.Errorf("resolve the default seccomp profile: %w", err)
		}
		return Compile(p, runtime.GOARCH)
	})
}

// FromJSON returns the filter of a profile in Docker's JSON format, as Default does for the default one. A profile without
// default action and calls gives nil: no filter at all, as in Docker. Errors are of kind Invalid.
func (c *Cache) FromJSON(profile []byte, set caps.Set) ([]byte, error) {
	if len(profile) > maxProfile {
		return nil, errs.Invalid.Errorf("seccomp profile is too large: %d bytes, %d are allowed", len(profile), maxProfile)
	}
	return c.get(key{sha256.Sum256(profile), set}, func() ([]byte, error) {
		return fromJSON(profile, set)
	})
}

func fromJSON(profile []byte, set caps.Set) ([]byte, error) {
	// Moby's loader trips over a null among the calls.
	var calls struct {
		Syscalls []*json.RawMessage `json:"syscalls"`
	}
	if json.Unmarshal(profile, &calls) == nil && slices.Contains(calls.Syscalls, nil) {
		return nil, errs.Invalid.Errorf("seccomp profile has a null in its list of syscalls")
	}
	p, err := moby.LoadProfile(string(profile), container(set))
	if err != nil {
		return nil, errs.Invalid.Wrap(err)
	}
	if p == nil {
		return nil, nil
	}
	filter, err := Compile(p, runtime.GOARCH)
	return filter, errs.Invalid.Wrap(err)
}

// get returns the kept filter, or makes it; whoever asks for the same one meanwhile waits for it, and nobody else.
func (c *Cache) get(k key, fill func() ([]byte, error)) ([]byte, error) {
	c.mu.Lock()
	e := c.filters[k]
	if e == nil {
		if c.filters == nil || len(c.filters) >= maxCached {
			c.filters = map[key]*entry{}
		}
		e = &entry{}
		c.filters[k] = e
	}
	c.mu.Unlock()

	e.once.Do(func() { e.filter, e.err = fill() })
	if e.err != nil {
		c.mu.Lock()
		if c.filters[k] == e {
			delete(c.filters, k)
		}
		c.mu.Unlock()
	}
	return e.filter, e.err
}

// Supported reports whether the kernel can load filters at all (CONFIG_SECCOMP_FILTER).
func Supported() bool {
	// A filter at address 0 is a bad address (EFAULT) to a kernel that would read it, and else an invalid request.
	return errors.Is(unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, 0, 0, 0), unix.EFAULT)
}

// container is as much of a container's specification as conditions in profiles look at.
func container(set caps.Set) *specs.Spec {
	return &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: set.Names()}}}
}
