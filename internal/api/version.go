package api

import (
	"strconv"
	"strings"

	"gantry/internal/errs"
)

// version is an API version as major*1000+minor, so that versions compare as numbers.
type version int

// v returns version 1.minor.
func v(minor int) version { return version(1000 + minor) }

// The versions served. maxVersion is that of the wire types' module, github.com/moby/moby/api.
const (
	minVersion version = 1024
	maxVersion version = 1056
)

func (x version) String() string { return strconv.Itoa(int(x/1000)) + "." + strconv.Itoa(int(x%1000)) }

// cutVersion splits "/v1.43/containers/json" into "1.43" and "/containers/json". A path without a version
// prefix comes back whole, with an empty version.
func cutVersion(path string) (text, rest string) {
	if !strings.HasPrefix(path, "/v") {
		return "", path
	}
	i := 2
	for i < len(path) && (path[i] >= '0' && path[i] <= '9' || path[i] == '.') {
		i++
	}
	if i == 2 || i == len(path) || path[i] != '/' {
		return "", path
	}
	return path[2:i], path[i:]
}

// parseVersion reads "1.43". Missing or excessive parts are taken as zero, as Docker does: clients say
// "1" and "1.43.0".
func parseVersion(text string) version {
	major, rest, _ := strings.Cut(text, ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, _ := strconv.Atoi(major)
	b, _ := strconv.Atoi(minor)
	return version(min(a, 1000)*1000 + min(b, 999))
}

// negotiate returns the version to speak with a client that asked for text. The phrases are Docker's:
// docker-py and the CLI show them, Testcontainers matches on them.
func negotiate(text string) (version, error) {
	if text == "" {
		return maxVersion, nil
	}
	x := parseVersion(text)
	if x < minVersion {
		return x, errs.Invalid.Errorf("client version %s is too old. Minimum supported API version is %s, please upgrade your client to a newer version", text, minVersion)
	}
	if x > maxVersion {
		return x, errs.Invalid.Errorf("client version %s is too new. Maximum supported API version is %s", text, maxVersion)
	}
	return x, nil
}
