package container

import (
	"maps"
	"path"
	"slices"
	"strings"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"gantry/internal/errs"
)

// mergeConfig returns the user's wishes with the image's defaults put in where the user said nothing, by
// Docker's rules. Neither argument is changed.
func mergeConfig(user *api.Config, img *dockerspec.DockerOCIImageConfig) (*api.Config, error) {
	c := *user
	if c.User == "" {
		c.User = img.User
	}
	if len(img.ExposedPorts) > 0 || len(c.ExposedPorts) > 0 {
		ports := network.PortSet{}
		maps.Copy(ports, c.ExposedPorts)
		for p := range img.ExposedPorts {
			// A port that an image spells wrongly must not keep the image from running.
			if port, err := network.ParsePort(p); err == nil {
				ports[port] = struct{}{}
			}
		}
		c.ExposedPorts = ports
	}
	c.Env = slices.Clone(c.Env)
	for _, e := range img.Env {
		key, _, _ := strings.Cut(e, "=")
		if !slices.ContainsFunc(user.Env, func(u string) bool { k, _, _ := strings.Cut(u, "="); return k == key }) {
			c.Env = append(c.Env, e)
		}
	}
	labels := map[string]string{}
	maps.Copy(labels, img.Labels)
	maps.Copy(labels, c.Labels)
	c.Labels = labels
	if len(c.Entrypoint) == 0 {
		if len(c.Cmd) == 0 {
			c.Cmd = img.Cmd
		}
		if c.Entrypoint == nil { // an empty list given on purpose takes the image's away
			c.Entrypoint = img.Entrypoint
		}
	}
	// `docker run --entrypoint ""` comes as [""] and means: none.
	if len(c.Entrypoint) == 1 && c.Entrypoint[0] == "" {
		c.Entrypoint = nil
	}
	c.Healthcheck = mergeHealth(c.Healthcheck, img.Healthcheck)
	if c.WorkingDir == "" {
		c.WorkingDir = img.WorkingDir
	}
	if len(img.Volumes) > 0 || len(c.Volumes) > 0 {
		v := map[string]struct{}{}
		maps.Copy(v, c.Volumes)
		maps.Copy(v, img.Volumes)
		c.Volumes = v
	}
	if c.StopSignal == "" {
		c.StopSignal = img.StopSignal
	}
	if len(c.OnBuild) == 0 {
		c.OnBuild = img.OnBuild
	}
	if len(c.Shell) == 0 {
		c.Shell = img.Shell
	}
	if len(c.Entrypoint) == 0 && len(c.Cmd) == 0 {
		return nil, errs.Invalid.Errorf("No command specified")
	}
	return &c, nil
}

func mergeHealth(user, img *api.HealthConfig) *api.HealthConfig {
	if img == nil || user == nil {
		if user == nil {
			return img
		}
		return user
	}
	h := *user
	if len(h.Test) == 0 {
		h.Test = img.Test
	}
	if h.Interval == 0 {
		h.Interval = img.Interval
	}
	if h.Timeout == 0 {
		h.Timeout = img.Timeout
	}
	if h.StartPeriod == 0 {
		h.StartPeriod = img.StartPeriod
	}
	if h.StartInterval == 0 {
		h.StartInterval = img.StartInterval
	}
	if h.Retries == 0 {
		h.Retries = img.Retries
	}
	return &h
}

// checkConfig refuses what Docker refuses in the portable half of a container's configuration, and tidies
// the working directory.
func checkConfig(c *api.Config) error {
	if c.WorkingDir != "" {
		if !path.IsAbs(c.WorkingDir) {
			return errs.Invalid.Errorf("the working directory '%s' is invalid, it needs to be an absolute path", c.WorkingDir)
		}
		c.WorkingDir = path.Clean(c.WorkingDir)
	}
	if c.StopSignal != "" {
		if _, err := ParseSignal(c.StopSignal); err != nil {
			return err
		}
	}
	for _, e := range c.Env {
		if e == "" || e[0] == '=' {
			return errs.Invalid.Errorf("invalid environment variable: %s", e)
		}
		if strings.IndexByte(e, 0) >= 0 {
			return errs.Invalid.Errorf("invalid environment variable: %q holds a NUL byte", e)
		}
	}
	for _, a := range slices.Concat(c.Entrypoint, c.Cmd) {
		if strings.IndexByte(a, 0) >= 0 {
			return errs.Invalid.Errorf("invalid argument %q: it holds a NUL byte", a)
		}
	}
	if len(c.Hostname) > 63 {
		// sethostname(2) takes 64 bytes; Docker's check is RFC 1123's 63.
		return errs.Invalid.Errorf("invalid hostname: %s: at most 63 characters", c.Hostname)
	}
	if h := c.Healthcheck; h != nil {
		for _, d := range []struct {
			name  string
			value int64
		}{{"Interval", int64(h.Interval)}, {"Timeout", int64(h.Timeout)}, {"StartPeriod", int64(h.StartPeriod)}, {"StartInterval", int64(h.StartInterval)}} {
			if d.value != 0 && d.value < int64(api.MinimumDuration) {
				return errs.Invalid.Errorf("%s in Healthcheck cannot be less than %s", d.name, api.MinimumDuration)
			}
		}
		if h.Retries < 0 {
			return errs.Invalid.Errorf("Retries in Healthcheck cannot be negative")
		}
	}
	return nil
}
