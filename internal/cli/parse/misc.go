package parse

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
)

// Filter reads one --filter and adds it by add.
func Filter(s string, add func(key, value string)) error {
	if s == "" {
		return nil
	}
	k, v, ok := strings.Cut(s, "=")
	if !ok {
		return errors.New("bad format of filter (expected name=value)")
	}
	add(strings.ToLower(strings.TrimSpace(k)), strings.TrimSpace(v))
	return nil
}

// Restart reads --restart: a policy's name, and for on-failure perhaps :count.
func Restart(s string) (p container.RestartPolicy, err error) {
	if s == "" {
		return p, nil
	}
	name, count, ok := strings.Cut(s, ":")
	if ok && name == "" {
		return p, errors.New("invalid restart policy format: no policy provided before colon")
	}
	if count != "" {
		n, err := strconv.Atoi(count)
		if err != nil {
			return p, errors.New("invalid restart policy format: maximum retry count must be an integer")
		}
		p.MaximumRetryCount = n
	}
	p.Name = container.RestartPolicyMode(name)
	return p, nil
}

func deviceMode(s string) bool {
	for i, c := range s {
		if !strings.ContainsRune("rwm", c) || strings.ContainsRune(s[:i], c) {
			return false
		}
	}
	return s != ""
}

// Device reads --device: host path, then perhaps the path inside and the permissions, of r, w and m.
func Device(s string) (d container.DeviceMapping, err error) {
	part := strings.Split(s, ":")
	if len(part) > 3 || part[0] == "" {
		return d, fmt.Errorf("bad format for path: %s", s)
	}
	d = container.DeviceMapping{PathOnHost: part[0], PathInContainer: part[0], CgroupPermissions: "rwm"}
	switch {
	case len(part) == 3:
		if !deviceMode(part[2]) {
			return d, fmt.Errorf("bad mode specified: %s", part[2])
		}
		d.PathInContainer, d.CgroupPermissions = part[1], part[2]
	case len(part) == 2 && deviceMode(part[1]):
		d.CgroupPermissions = part[1]
	case len(part) == 2:
		d.PathInContainer = path.Clean(part[1])
	default:
		d.PathOnHost = path.Clean(part[0])
		d.PathInContainer = d.PathOnHost
	}
	if !path.IsAbs(d.PathInContainer) {
		return d, fmt.Errorf("%s is not an absolute path", d.PathInContainer)
	}
	return d, nil
}

// CDIName reports whether a --device is a name of the Container Device Interface, vendor.com/class=name.
func CDIName(s string) bool {
	kind, name, ok := strings.Cut(s, "=")
	vendor, class, ok2 := strings.Cut(kind, "/")
	return ok && ok2 && vendor != "" && class != "" && name != "" && !strings.ContainsAny(s, ": ") && vendor[0] != '/' && vendor[0] != '.'
}

// DeviceRule checks a --device-cgroup-rule, such as "c 1:3 mr".
func DeviceRule(s string) error {
	bad := fmt.Errorf("invalid device cgroup format '%s'", s)
	f := strings.Split(s, " ")
	if len(f) != 3 || (f[0] != "a" && f[0] != "b" && f[0] != "c") || f[2] == "" || len(f[2]) > 3 || strings.Trim(f[2], "rwm") != "" {
		return bad
	}
	major, minor, ok := strings.Cut(f[1], ":")
	number := func(s string) bool {
		return s == "*" || s != "" && strings.Trim(s, "0123456789") == ""
	}
	if !ok || !number(major) || !number(minor) {
		return bad
	}
	return nil
}

// Reference splits an image reference as users write it into the repository and the tag or digest (latest if neither is given),
// completed as in Docker's messages: "busybox" is repository "busybox", tag "latest".
func Reference(s string) (repo, tag string, err error) {
	if s == "" || strings.TrimSpace(s) != s {
		return "", "", errors.New("invalid reference format")
	}
	if scheme, name, ok := strings.Cut(s, "://"); ok {
		return "", "", fmt.Errorf("invalid reference format\nleave out %s://, and write %s", scheme, name)
	}
	if i := strings.IndexByte(s, '@'); i >= 0 {
		repo, tag = s[:i], s[i+1:]
		algo, hex, ok := strings.Cut(tag, ":")
		if !ok || algo == "" || len(hex) < 32 || strings.Trim(hex, "0123456789abcdef") != "" {
			return "", "", errors.New("invalid reference format")
		}
		if name, _, ok := cutTag(repo); ok {
			repo = name
		}
	} else if name, t, ok := cutTag(s); ok {
		repo, tag = name, t
		if !validTag(t) {
			return "", "", errors.New("invalid reference format")
		}
	} else {
		repo, tag = s, "latest"
	}
	path := repo
	if first, rest, ok := strings.Cut(repo, "/"); ok && (strings.ContainsAny(first, ".:") || first == "localhost" || strings.ToLower(first) != first) {
		path = rest
	} else if !ok {
		path = "library/" + repo
	}
	if strings.ToLower(path) != path {
		return "", "", fmt.Errorf("invalid reference format: repository name (%s) must be lowercase", path)
	}
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || strings.Trim(part, "abcdefghijklmnopqrstuvwxyz0123456789._-") != "" || strings.ContainsAny(part[:1]+part[len(part)-1:], "._-") {
			return "", "", errors.New("invalid reference format")
		}
	}
	repo = strings.TrimPrefix(repo, "docker.io/")
	repo = strings.TrimPrefix(repo, "library/")
	return repo, tag, nil
}

func cutTag(s string) (name, tag string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 || strings.IndexByte(s[i:], '/') >= 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

func validTag(t string) bool {
	if t == "" || len(t) > 128 || t[0] == '.' || t[0] == '-' {
		return false
	}
	for _, c := range t {
		if c != '_' && c != '.' && c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return true
}
