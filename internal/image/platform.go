package image

import (
	"runtime"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// runnable lists what a host's kernel runs, best first, as containerd's default matcher has it: an amd64 kernel
// runs 386 programs, an arm64 one those for 32-bit ARM. "" stands for the architecture's base variant.
var runnable = map[string][]ocispec.Platform{
	"amd64": {{Architecture: "amd64"}, {Architecture: "amd64", Variant: "v1"}, {Architecture: "386"}},
	"arm64": {
		{Architecture: "arm64", Variant: "v8"}, {Architecture: "arm64"},
		{Architecture: "arm", Variant: "v8"}, {Architecture: "arm", Variant: "v7"}, {Architecture: "arm"},
		{Architecture: "arm", Variant: "v6"}, {Architecture: "arm", Variant: "v5"},
	},
}

func hostPlatform() ocispec.Platform {
	return ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}
}

// platformRank orders platforms by how well they suit the host, 0 the best; -1: not at all.
func platformRank(p ocispec.Platform) int {
	if p.OS != "linux" && p.OS != "" {
		return -1
	}
	all, ok := runnable[runtime.GOARCH]
	if !ok {
		all = []ocispec.Platform{{Architecture: runtime.GOARCH}}
	}
	return slices.IndexFunc(all, func(r ocispec.Platform) bool {
		return r.Architecture == p.Architecture && r.Variant == p.Variant
	})
}
