package runtime

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	api "github.com/moby/moby/api/types/container"

	"gantry/internal/errs"
	"gantry/internal/kernel/caps"
)

const unconfined = "unconfined"

// options are the parsed values of --security-opt.
type options struct {
	noNewPrivileges bool
	appArmor        string
	seccomp         string // "", "unconfined", "builtin" or a profile's JSON
	labels          []string
}

// parseSecurityOpts reads --security-opt as Docker does, with "=" or the old ":" between name and value.
func parseSecurityOpts(list []string, noNewPrivileges bool) (options, error) {
	o := options{noNewPrivileges: noNewPrivileges}
	for _, opt := range list {
		switch opt {
		case "no-new-privileges":
			o.noNewPrivileges = true
			continue
		case "disable":
			o.labels = append(o.labels, "disable")
			continue
		}
		k, v, ok := strings.Cut(opt, "=")
		if !ok {
			k, v, ok = strings.Cut(opt, ":")
		}
		if !ok {
			return o, errs.Invalid.Errorf("invalid --security-opt 1: %q", opt)
		}
		switch k {
		case "label":
			o.labels = append(o.labels, v)
		case "apparmor":
			o.appArmor = v
		case "seccomp":
			o.seccomp = v
		case "no-new-privileges":
			b, err := strconv.ParseBool(v)
			if err != nil {
				return o, errs.Invalid.Errorf("invalid --security-opt 2: %q", opt)
			}
			o.noNewPrivileges = b
		default:
			return o, errs.Invalid.Errorf("invalid --security-opt 2: %q", opt)
		}
	}
	return o, nil
}

// confinement is what a container may do.
type confinement struct {
	caps            caps.Set
	filter          []byte // nil: none
	appArmor        string
	noNewPrivileges bool
}

func (b *Builder) security(h *api.HostConfig) (*confinement, []string, error) {
	o, err := parseSecurityOpts(h.SecurityOpt, b.NoNewPrivileges)
	if err != nil {
		return nil, nil, err
	}
	var warnings []string
	c := &confinement{noNewPrivileges: o.noNewPrivileges}
	if c.caps, err = caps.Tweak(caps.Default(), h.Privileged, h.CapAdd, h.CapDrop, b.Caps); err != nil {
		return nil, nil, err
	}
	switch {
	case o.seccomp == unconfined:
	case o.seccomp == "builtin":
		c.filter, err = b.Seccomp.Default(c.caps)
	case o.seccomp != "":
		c.filter, err = b.Seccomp.FromJSON([]byte(o.seccomp), c.caps)
	case h.Privileged || string(b.Profile) == unconfined:
	case b.Profile != nil:
		c.filter, err = b.Seccomp.FromJSON(b.Profile, c.caps)
	default:
		c.filter, err = b.Seccomp.Default(c.caps)
	}
	if err != nil {
		return nil, nil, err
	}
	switch {
	case b.AppArmor == "" && o.appArmor != "" && o.appArmor != unconfined:
		warnings = append(warnings, "AppArmor is not enabled on this host: profile "+o.appArmor+" is not applied.")
	case b.AppArmor == "":
	case o.appArmor != "":
		c.appArmor = o.appArmor
	case h.Privileged:
		c.appArmor = unconfined
	default:
		c.appArmor = b.AppArmor
	}
	if c.appArmor == unconfined {
		c.appArmor = "" // the supervisor is unconfined, and so is its child
	}
	if len(o.labels) > 0 && !b.SELinux && !(len(o.labels) == 1 && o.labels[0] == "disable") {
		warnings = append(warnings, "SELinux is not enabled on this host: label options are not applied.")
	}
	return c, warnings, nil
}

// defaultAppArmor returns the profile that containers get: Docker's, if it is loaded.
func defaultAppArmor() string {
	f, err := os.Open("/sys/kernel/security/apparmor/profiles")
	if err != nil {
		return ""
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if strings.HasPrefix(s.Text(), "docker-default ") {
			return "docker-default"
		}
	}
	return unconfined
}

// MaskedPaths are the paths that Docker hides from containers. The caller may change the slice.
func MaskedPaths() []string {
	paths := []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
		"/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
	}
	// How often each processor was throttled tells what others compute (GHSA-6fw5-f8r9-fgfm).
	throttle, _ := filepath.Glob("/sys/devices/system/cpu/cpu*/thermal_throttle")
	return append(paths, throttle...)
}

// ReadonlyPaths are the paths that containers may only read. The caller may change the slice.
func ReadonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
