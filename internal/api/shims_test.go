package api

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	types "github.com/moby/moby/api/types/container"
	eventtypes "github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/system"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/container"
	"gantry/internal/image"
	"gantry/test/swagger"
)

func snapshot() *container.Snapshot {
	limit := int64(10)
	return &container.Snapshot{
		ID: strings.Repeat("ab", 32), Name: "web", Created: time.Unix(1700000000, 5),
		Image:      container.Image{ID: "sha256:" + "0123456789012345678901234567890123456789012345678901234567890123"},
		Config:     &types.Config{Image: "debian", Cmd: []string{"sh"}, Labels: map[string]string{"a": "b"}},
		HostConfig: &types.HostConfig{NetworkMode: "none", Resources: types.Resources{PidsLimit: &limit}, Annotations: map[string]string{"x": "y"}},
		Path:       "sh", Args: []string{"-c", "echo a b"}, Status: container.Running, Pid: 7, StartedAt: time.Unix(1700000001, 0),
		Dir: "/var/lib/gantry/containers/x", LogPath: "/var/lib/gantry/containers/x/x-json.log",
	}
}

func pictured() *image.Image {
	created := time.Unix(1600000000, 0).UTC()
	x := &image.Image{
		ID:       "sha256:0123456789012345678901234567890123456789012345678901234567890123",
		RepoTags: []string{"debian:latest"}, Size: 123, Tagged: created,
		Target: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: "sha256:0123456789012345678901234567890123456789012345678901234567890123", Size: 3},
		Config: dockerspec.DockerOCIImage{Image: ocispec.Image{
			Created: &created, Author: "me", Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"},
			RootFS: ocispec.RootFS{Type: "layers", DiffIDs: nil},
		}},
	}
	x.Config.Config.Cmd = []string{"bash"}
	x.Manifest = x.Target
	return x
}

// answers makes every shimmed answer for a client of version have, by the request it answers.
func answers(have version) map[string]any {
	in := inspect(snapshot())
	shape(have, in, containerInspectShims)
	sum := summarize(snapshot(), time.Unix(1700000100, 0))
	shape(have, &sum, containerSummaryShims)
	img := inspectImage(pictured())
	shape(have, img, imageInspectShims)
	m := eventtypes.Message{Type: "container", Action: "start", Actor: eventtypes.Actor{ID: "abc", Attributes: map[string]string{"image": "debian"}}, Scope: "local", Time: 1}
	ev := event{Message: &m}
	shape(have, &ev, eventShims)
	return map[string]any{
		"/containers/x/json": in, "/containers/json": []any{sum}, "/images/x/json": img, "/events": ev,
	}
}

// TestEveryVersionIsAsDescribed validates what each version is told against moby's description of that version.
func TestEveryVersionIsAsDescribed(t *testing.T) {
	t.Parallel()
	for minor := 25; minor <= int(maxVersion%1000); minor++ {
		if minor < 40 && minor%5 != 0 { // reading a description takes a while under the race detector
			continue
		}
		spec, err := swagger.Load(v(minor).String())
		if err != nil {
			t.Fatal(err)
		}
		for path, x := range answers(v(minor)) {
			b, err := json.Marshal(x)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range spec.Validate("GET", path, 200, b) {
				t.Errorf("1.%d: %s", minor, p)
			}
		}
	}
}

// has reports whether a dotted field is in the JSON of x.
func has(t *testing.T, x any, field string) bool {
	t.Helper()
	b, err := json.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	var at any
	if err := json.Unmarshal(b, &at); err != nil {
		t.Fatal(err)
	}
	if list, ok := at.([]any); ok {
		at = list[0]
	}
	for name := range strings.SplitSeq(field, ".") {
		m, ok := at.(map[string]any)
		if !ok {
			return false
		}
		if at, ok = m[name]; !ok {
			return false
		}
	}
	return true
}

// TestFieldsByVersion tells for each field that came or went which versions have it.
func TestFieldsByVersion(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		path, field  string
		first, after int // 0: always
	}{
		{"/containers/x/json", "NetworkSettings.IPAddress", 0, 52},
		{"/containers/x/json", "NetworkSettings.Networks.none", 0, 0},
		{"/containers/x/json", "NetworkSettings.Bridge", 0, 52},
		{"/containers/x/json", "HostConfig.KernelMemory", 0, 42},
		{"/containers/x/json", "HostConfig.PidsLimit", 0, 0},
		{"/containers/x/json", "GraphDriver.Name", 0, 0},
		{"/containers/x/json", "Config.Image", 0, 0},
		{"/containers/x/json", "Config.OnBuild", 0, 52},
		{"/containers/json", "Health", 52, 0},
		{"/containers/json", "HostConfig.Annotations", 46, 0},
		{"/images/x/json", "VirtualSize", 0, 44},
		{"/images/x/json", "ContainerConfig", 0, 45},
		{"/images/x/json", "Descriptor", 48, 0},
		{"/images/x/json", "Config.Hostname", 0, 50},
		{"/images/x/json", "Config.Entrypoint", 0, 52},
		{"/images/x/json", "Config.Cmd", 0, 0},
		{"/images/x/json", "Parent", 0, 52},
		{"/images/x/json", "Comment", 0, 52},
		{"/images/x/json", "Author", 0, 0},
		{"/events", "status", 0, 52},
		{"/events", "Actor.Attributes.image", 0, 0},
	} {
		for minor := 24; minor <= int(maxVersion%1000); minor++ {
			want := minor >= x.first && (x.after == 0 || minor < x.after)
			if got := has(t, answers(v(minor))[x.path], x.field); got != want {
				t.Errorf("1.%d: %s of %s: %v, want %v", minor, x.field, x.path, got, want)
			}
		}
	}
}

func TestLegacyNetworkIsTheBridges(t *testing.T) {
	t.Parallel()
	s := snapshot()
	s.HostConfig.NetworkMode = "bridge"
	x := inspect(s)
	e := x.NetworkSettings.Networks["bridge"]
	if err := json.Unmarshal([]byte(`{"IPAddress":"172.17.0.2","IPPrefixLen":16,"Gateway":"172.17.0.1","MacAddress":"02:42:ac:11:00:02"}`), e); err != nil {
		t.Fatal(err)
	}
	shape(v(43), x, containerInspectShims)
	l := x.NetworkSettings.legacyNetwork
	if l.IPAddress != "172.17.0.2" || l.Gateway != "172.17.0.1" || l.IPPrefixLen != 16 || l.MacAddress != "02:42:ac:11:00:02" || l.GlobalIPv6Address != "" {
		t.Errorf("%+v", l)
	}
	if x.Config.MacAddress != "02:42:ac:11:00:02" {
		t.Errorf("Config.MacAddress %q", x.Config.MacAddress)
	}
}

func TestUntaggedImages(t *testing.T) {
	t.Parallel()
	for minor, want := range map[int]string{42: "[<none>:<none>] [<none>@<none>]", 43: "[] []"} {
		x := imageSummary{}
		shape(v(minor), &x, imageSummaryShims)
		if got := fmt.Sprint(x.RepoTags, " ", x.RepoDigests); strings.ReplaceAll(got, "  ", " ") != want {
			t.Errorf("1.%d: %s", minor, got)
		}
	}
}

func TestInfoShims(t *testing.T) {
	t.Parallel()
	for minor, want := range map[int][2]bool{56: {false, false}, 49: {true, false}, 48: {true, true}, 41: {true, true}} {
		x := info{Info: system.Info{Runtimes: map[string]system.RuntimeWithStatus{"runc": {}}}, RegistryConfig: &registryConfig{}}
		shape(v(minor), &x, infoShims)
		if has(t, x, "BridgeNfIptables") != (minor < 50) || has(t, x, "RuncCommit.Expected") != (minor < 49) || has(t, x, "KernelMemory") != (minor < 42) {
			t.Errorf("1.%d: %+v, want %v", minor, x, want)
		}
		if !has(t, x, "RuncCommit.ID") || !has(t, x, "Containers") {
			t.Errorf("1.%d lost a field", minor)
		}
	}
}
