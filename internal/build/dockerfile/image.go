package dockerfile

import (
	"maps"
	"slices"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"

	"gantry/internal/build/graph"
)

// defaultPath is PATH where an image says nothing.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// emptyImage is what FROM scratch starts with.
func emptyImage(p graph.Platform) dockerspec.DockerOCIImage {
	var img dockerspec.DockerOCIImage
	img.Architecture, img.OS, img.OSVersion, img.Variant = p.Architecture, p.OS, p.OSVersion, p.Variant
	img.RootFS.Type = "layers"
	img.Config.WorkingDir = "/"
	if p.OS != "windows" {
		img.Config.Env = []string{"PATH=" + defaultPath}
	}
	return img
}

// cloneImage copies all that instructions change in place. The history is only ever appended to.
func cloneImage(src dockerspec.DockerOCIImage) dockerspec.DockerOCIImage {
	img := src
	img.OSFeatures = slices.Clone(src.OSFeatures)
	img.Config.Env = slices.Clone(src.Config.Env)
	img.Config.Cmd = slices.Clone(src.Config.Cmd)
	img.Config.Entrypoint = slices.Clone(src.Config.Entrypoint)
	img.Config.OnBuild = slices.Clone(src.Config.OnBuild)
	img.Config.Shell = slices.Clone(src.Config.Shell)
	img.Config.ExposedPorts = maps.Clone(src.Config.ExposedPorts)
	img.Config.Volumes = maps.Clone(src.Config.Volumes)
	img.Config.Labels = maps.Clone(src.Config.Labels)
	if src.Config.Healthcheck != nil {
		check := *src.Config.Healthcheck
		check.Test = slices.Clone(check.Test)
		img.Config.Healthcheck = &check
	}
	img.History = src.History[:len(src.History):len(src.History)]
	return img
}

// imageBytes is about what a copy of img costs.
func imageBytes(img *dockerspec.DockerOCIImage) int {
	n := 1024 + 128*len(img.History) + 64*(len(img.Config.ExposedPorts)+len(img.Config.Volumes)+len(img.Config.Labels)+len(img.Config.OnBuild))
	return n
}
