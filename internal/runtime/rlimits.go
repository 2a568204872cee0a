package runtime

import (
	"fmt"
	"strings"

	api "github.com/moby/moby/api/types/container"

	"gantry/internal/errs"
	"gantry/internal/kernel/caps"
	"gantry/internal/runtime/spec"

	"golang.org/x/sys/unix"
)

// rlimitTypes are the resources of setrlimit(2), by Docker's names.
var rlimitTypes = map[string]int{
	"as": unix.RLIMIT_AS, "core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA, "fsize": unix.RLIMIT_FSIZE,
	"locks": unix.RLIMIT_LOCKS, "memlock": unix.RLIMIT_MEMLOCK, "msgqueue": unix.RLIMIT_MSGQUEUE, "nice": unix.RLIMIT_NICE,
	"nofile": unix.RLIMIT_NOFILE, "nproc": unix.RLIMIT_NPROC, "rss": unix.RLIMIT_RSS, "rtprio": unix.RLIMIT_RTPRIO,
	"rttime": unix.RLIMIT_RTTIME, "sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
}

// rlimits merges the container's ulimits with the daemon's defaults. Where the host has no CAP_SYS_RESOURCE, a
// default above what is allowed is lowered, with a warning: the user did not ask for it, and setrlimit(2)
// would fail. What he asked for himself fails, in init, with the kernel's answer.
func (b *Builder) rlimits(own, defaults []*api.Ulimit) ([]spec.Rlimit, []string, error) {
	var out []spec.Rlimit
	var warnings []string
	seen := make(map[string]bool)
	for i, u := range append(own[:len(own):len(own)], defaults...) {
		name := strings.ToLower(u.Name)
		if i >= len(own) && seen[name] {
			continue
		}
		seen[name] = true
		t, ok := rlimitTypes[name]
		if !ok {
			return nil, nil, errs.Invalid.Errorf("invalid rlimit type: RLIMIT_%s", strings.ToUpper(u.Name))
		}
		l := spec.Rlimit{Type: t, Soft: uint64(u.Soft), Hard: uint64(u.Hard)}
		if l.Soft > l.Hard {
			return nil, nil, errs.Invalid.Errorf("ulimit soft limit must be less than or equal to hard limit: %d > %d", u.Soft, u.Hard)
		}
		if i >= len(own) && !b.Caps.Has(caps.SYS_RESOURCE) {
			var now unix.Rlimit
			if err := unix.Getrlimit(t, &now); err == nil && l.Hard > now.Max {
				warnings = append(warnings, fmt.Sprintf("The host does not allow raising limits: default ulimit %s is lowered to %d.", name, now.Max))
				l.Hard, l.Soft = now.Max, min(l.Soft, now.Max)
			}
		}
		out = append(out, l)
	}
	return out, warnings, nil
}
