package runtime

import (
	"slices"

	api "github.com/moby/moby/api/types/container"

	"gantry/internal/errs"
	"gantry/internal/kernel/caps"
)

// maxHostname is the length of a host name in bytes (gethostname(2)).
const maxHostname = 64

// Validate checks, when a container is created, what this room will make of its configuration when it is
// started: so that a mistake is told to whoever made it. What depends on the host's state at the start
// (devices, other containers, sysctls) is checked then, as in Docker.
func (b *Builder) Validate(c *api.Config, h *api.HostConfig) ([]string, error) {
	if len(c.Hostname) > maxHostname {
		return nil, errs.Invalid.Errorf("hostname %q is too long (maximum %d bytes)", c.Hostname, maxHostname)
	}
	if err := caps.Validate(b.Caps, h.CapAdd, h.CapDrop); err != nil {
		return nil, err
	}
	if _, err := parseSecurityOpts(h.SecurityOpt, false); err != nil {
		return nil, err
	}
	if _, err := tmpfsMounts(h); err != nil {
		return nil, err
	}
	_, warnings, err := b.rlimits(h.Ulimits, nil)
	if err != nil {
		return nil, err
	}
	if h.Privileged && slices.ContainsFunc(h.Devices, func(d api.DeviceMapping) bool { return d.CgroupPermissions != "" && d.CgroupPermissions != "rwm" }) {
		warnings = append(warnings, "Custom permissions of devices are ignored in privileged mode.")
	}
	return warnings, nil
}
