package image

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/errs"
)

func load(t testing.TB, s *Service, data []byte) []Loaded {
	t.Helper()
	l, err := s.Load(t.Context(), bytes.NewReader(data), nil)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func get(t testing.TB, s *Service, ref string) Image {
	t.Helper()
	i, err := s.Get(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// empty fails if anything of an image is left in the service.
func empty(t *testing.T, s *Service, root string) {
	t.Helper()
	if c, err := s.content.Usage(); err != nil || c.Blobs != 0 {
		t.Errorf("blobs left: %+v, %v", c, err)
	}
	for dir, allowed := range map[string][]string{"content/ingest": nil, "layers": {"0", "_m", "tmp", "trash"}, "layers/tmp": nil} {
		entries, err := os.ReadDir(filepath.Join(root, dir))
		if err != nil {
			t.Error(err)
		}
		for _, e := range entries {
			if !slices.Contains(allowed, e.Name()) {
				t.Errorf("left: %s/%s", dir, e.Name())
			}
		}
	}
	if l, err := s.List(t.Context(), ListOptions{All: true}); err != nil || len(l) != 0 {
		t.Errorf("images left: %v, %v", l, err)
	}
}

func TestLoadTakesEveryFormAndOrder(t *testing.T) {
	host := hostPlatform()
	f := makeFixture(t, "a", host, nil)
	old := f.dockerArchive(t, "app:1", "reg.example:5000/team/app:latest")
	reversed := slices.Clone(old)
	slices.Reverse(reversed)
	linked := slices.Clone(old)
	linked[1] = part{name: old[1].name, link: "../elsewhere/layer.tar"}
	linked = append(linked, part{name: "elsewhere/layer.tar", data: old[1].data})
	manifest := describe(ocispec.MediaTypeImageManifest, f.manifest)
	both := append(layout(t, manifest, "", nil, f.blobs()...), part{name: "manifest.json", data: toJSON(t, []dockerImage{{
		"blobs/sha256/" + f.id.Encoded(), []string{"app:1", "reg.example:5000/team/app:latest"}, nil}})})
	names := []string{"docker.io/library/app:1", "reg.example:5000/team/app:latest"}
	for name, data := range map[string][]byte{
		"docker":           pack(t, old...),
		"docker reversed":  pack(t, reversed...),
		"docker links":     pack(t, linked...),
		"docker gzip":      gz(t, pack(t, old...)),
		"docker zstd":      zst(t, pack(t, old...)),
		"oci":              pack(t, layout(t, manifest, annotationImageName, names, f.blobs()...)...),
		"oci ref.name":     gz(t, pack(t, layout(t, manifest, ocispec.AnnotationRefName, names, f.blobs()...)...)),
		"oci named by tag": pack(t, both...),
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			s := openAt(t, root, Options{})
			l := load(t, s, data)
			want := []Loaded{{"app:1", f.id}, {"reg.example:5000/team/app:latest", f.id}}
			if !slices.Equal(l, want) {
				t.Errorf("loaded %v", l)
			}
			i := get(t, s, "app:1")
			if i.ID != f.id || !slices.Equal(i.RepoTags, []string{"app:1", "reg.example:5000/team/app:latest"}) || i.RepoDigests != nil {
				t.Errorf("got %+v", i)
			}
			if want := int64(len("one a") + len("one") + len("two") + len("three")); i.Size != want {
				t.Errorf("size %d, not %d", i.Size, want)
			}
			if strings.HasPrefix(name, "oci") && i.Target.Digest != manifest.Digest {
				t.Errorf("manifest was not kept: %s", i.Target.Digest)
			}
			o, err := s.layers.Overlay(i.ChainID, "")
			if err != nil || len(o.Lower) != 3 {
				t.Fatalf("%+v, %v", o, err)
			}
			if data, err := os.ReadFile(filepath.Join(o.Base, o.Lower[2], "etc/a")); err != nil || string(data) != "one a" {
				t.Errorf("%q, %v", data, err)
			}
			if _, err := s.Remove(t.Context(), i.ID.String(), true, false); err != nil {
				t.Fatal(err)
			}
			empty(t, s, root)
		})
	}
}

func TestBrokenArchivesLeaveNothing(t *testing.T) {
	host := hostPlatform()
	f := makeFixture(t, "a", host, nil)
	good := f.dockerArchive(t, "app:1")
	manifest := describe(ocispec.MediaTypeImageManifest, f.manifest)
	change := func(parts []part, n int, data []byte) []part {
		c := slices.Clone(parts)
		c[n].data = data
		return c
	}
	swapped := makeFixture(t, "a", host, func(c *dockerspec.DockerOCIImage) { slices.Reverse(c.RootFS.DiffIDs) })
	short := makeFixture(t, "a", host, func(c *dockerspec.DockerOCIImage) { c.RootFS.DiffIDs = c.RootFS.DiffIDs[:2] })
	windows := makeFixture(t, "a", ocispec.Platform{OS: "windows", Architecture: host.Architecture}, nil)
	other := makeFixture(t, "a", ocispec.Platform{OS: "linux", Architecture: "s390x"}, nil)
	foreign := describe(ocispec.MediaTypeImageManifest, other.manifest)
	foreign.Platform = &ocispec.Platform{OS: "linux", Architecture: "s390x"}
	foreignIndex := toJSON(t, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{foreign}})
	blobs := f.blobs()
	wrong := slices.Clone(blobs)
	wrong[2].data = append(slices.Clone(wrong[2].data), 'x')
	whole := gz(t, pack(t, good...))
	damaged := slices.Clone(whole)
	damaged[len(damaged)-6] ^= 1 // in the checksum
	oci := func(d ocispec.Descriptor, blobs ...part) []byte {
		return pack(t, layout(t, d, annotationImageName, []string{"app:1"}, blobs...)...)
	}
	wrongSize := manifest
	wrongSize.Size++
	for _, c := range []struct {
		name string
		data []byte
		says string
	}{
		{"nothing", nil, "neither"},
		{"no tar", []byte(strings.Repeat("hello ", 1000)), "read archive"},
		{"cut", pack(t, good...)[:3000], "read archive"},
		{"gzip cut", whole[:len(whole)/2], "read gzip"},
		{"gzip with a wrong checksum", damaged, "read gzip"},
		{"xz", []byte("\xfd7zXZ\x00\x00"), "compressed with xz"},
		{"no manifest", pack(t, good[:4]...), "neither"},
		{"manifest.json is no JSON", pack(t, change(good, 4, []byte("{"))...), "manifest.json"},
		{"empty list", pack(t, change(good, 4, []byte("[]"))...), "lists no images"},
		{"config missing", pack(t, good[1:]...), "no file"},
		{"layer missing", pack(t, append(slices.Clone(good[:2]), good[3:]...)...), "no file"},
		{"config is no JSON", pack(t, change(good, 0, []byte("{"))...), "read image config"},
		{"layer is not the config's", pack(t, change(good, 2, good[1].data)...), "diff ID"},
		{"layer is no tar", pack(t, change(good, 3, []byte(strings.Repeat("x", 2000)))...), "read layer"},
		{"last layer cut", pack(t, change(good, 3, good[3].data[:20])...), "read zstd"},
		{"layers in another order", pack(t, swapped.dockerArchive(t, "app:1")...), "diff ID"},
		{"fewer diff IDs", pack(t, short.dockerArchive(t, "app:1")...), "3 layers"},
		{"bad tag", pack(t, f.dockerArchive(t, "UPPER:1")...), "invalid tag"},
		{"windows", pack(t, windows.dockerArchive(t, "app:1")...), "operating system"},
		{"link loop", pack(t, append(slices.Clone(good[:3]), part{name: good[3].name, link: "layer.tar"}, good[4])...), "no file"},
		{"blob is not its digest", oci(manifest, wrong...), "as promised"},
		{"blob missing", oci(manifest, blobs[:4]...), "not found"},
		{"manifest missing", oci(manifest, append(slices.Clone(blobs[:1]), blobs[2:]...)...), "not found"},
		{"wrong size", oci(wrongSize, blobs...), "bytes"},
		{"other platform only", oci(describe(ocispec.MediaTypeImageIndex, foreignIndex), append(other.blobs(), blobPart(foreignIndex))...), "linux/s390x"},
		{"index of nothing", pack(t, part{name: "index.json", data: []byte(`{"schemaVersion":2}`)}), "lists no images"},
		{"sparse file", sparse(t), "sparse file"},
		{"long name", pack(t, part{name: strings.Repeat("n", 5000)}), "longer than"},
		{"long link", pack(t, part{name: "l", link: strings.Repeat("n", 5000)}), "longer than"},
		{"digest that is a path", pack(t, part{name: "index.json", data: []byte(`{"manifests":[{"digest":"sha256:../../../etc/passwd"}]}`)}), "digest"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			s := openAt(t, root, Options{})
			_, err := s.Load(t.Context(), bytes.NewReader(c.data), nil)
			if !errs.Invalid.Is(err) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v (kind %v)", err, errs.KindOf(err))
			}
			empty(t, s, root)
		})
	}
}

// sparse is a small archive of a larger file.
func sparse(t *testing.T) []byte {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "f"), 1<<26); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("tar", "-S", "--format=posix", "-C", dir, "-cf", "-", "f").Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestIndexIsKeptWholeAndThePlatformChosen(t *testing.T) {
	mine, other := makeFixture(t, "mine", hostPlatform(), nil), makeFixture(t, "other", ocispec.Platform{OS: "linux", Architecture: "s390x"}, nil)
	at := func(f fixture, p ocispec.Platform) ocispec.Descriptor {
		d := describe(ocispec.MediaTypeImageManifest, f.manifest)
		d.Platform = &p
		return d
	}
	absent := at(fixture{manifest: []byte("not here")}, ocispec.Platform{OS: "linux", Architecture: "riscv64"})
	index := toJSON(t, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{
		absent, at(other, ocispec.Platform{OS: "linux", Architecture: "s390x"}), at(mine, hostPlatform()),
	}})
	outer := toJSON(t, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{describe(ocispec.MediaTypeImageIndex, index)}})
	target := describe(ocispec.MediaTypeImageIndex, outer)
	root := t.TempDir()
	s := openAt(t, root, Options{})
	parts := append(append(mine.blobs(), other.blobs()...), blobPart(index), blobPart(outer))
	load(t, s, pack(t, layout(t, target, annotationImageName, []string{"multi:1"}, parts...)...))
	i := get(t, s, "multi:1")
	if i.ID != mine.id || i.Target.Digest != target.Digest || i.Manifest.Digest != digest.FromBytes(mine.manifest) {
		t.Errorf("got %s %s %s", i.ID, i.Target.Digest, i.Manifest.Digest)
	}
	for _, ref := range []string{target.Digest.String(), i.Manifest.Digest.String(), "multi@" + target.Digest.String(), i.ID.Encoded()[:9], i.ID.String()[:12], i.ID.Encoded()} {
		if get(t, s, ref).ID != i.ID {
			t.Errorf("%s leads elsewhere", ref)
		}
	}
	if _, err := s.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		if !bytes.Equal(readBlob(t, s, digest.FromBytes(p.data)), p.data) {
			t.Errorf("%s was not kept", p.name)
		}
	}
}

func TestPlatformsSideBySideInIndexJSON(t *testing.T) {
	other, mine := makeFixture(t, "other", ocispec.Platform{OS: "linux", Architecture: "s390x"}, nil), makeFixture(t, "mine", hostPlatform(), nil)
	var index ocispec.Index
	for _, f := range []fixture{mine, other} {
		d := describe(ocispec.MediaTypeImageManifest, f.manifest)
		p := hostPlatform()
		if f.id == other.id {
			p.Architecture = "s390x"
		}
		d.Platform = &p
		d.Annotations = map[string]string{ocispec.AnnotationRefName: "multi:1"}
		index.Manifests = append(index.Manifests, d)
	}
	s := open(t, Options{})
	l := load(t, s, pack(t, append(append(mine.blobs(), other.blobs()...), part{name: "index.json", data: toJSON(t, index)})...))
	if want := []Loaded{{"multi:1", mine.id}}; !slices.Equal(l, want) {
		t.Errorf("loaded %v", l)
	}
	if i := get(t, s, "multi:1"); i.Target.MediaType != ocispec.MediaTypeImageIndex || i.Target.Digest == i.Manifest.Digest {
		t.Errorf("got %+v", i.Target)
	}
}

// TestCrash is what the child process of the next test does: it dies at the fail point.
func TestCrash(t *testing.T) {
	root := os.Getenv("GANTRY_TEST_IMAGE_ROOT")
	if root == "" {
		t.Skip("only as a child of TestACrashDuringLoadLeavesNothing")
	}
	f := makeFixture(t, "a", hostPlatform(), nil)
	load(t, openAt(t, root, Options{}), pack(t, f.dockerArchive(t, "app:1")...))
}

func TestACrashDuringLoadLeavesNothing(t *testing.T) {
	needRoot(t)
	for _, point := range []string{"layer-unpacked", "layer-renamed", "image-unpacked"} {
		t.Run(point, func(t *testing.T) {
			root := t.TempDir()
			child := exec.Command(os.Args[0], "-test.run=^TestCrash$")
			child.Env = append(os.Environ(), "GANTRY_TEST_IMAGE_ROOT="+root, "GANTRY_FAILPOINT="+point)
			out, err := child.CombinedOutput()
			if exit, ok := err.(*exec.ExitError); !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("the child did not die as it should: %v\n%s", err, out)
			}
			empty(t, openAt(t, root, Options{}), root)
		})
	}
}

func readBlob(t *testing.T, s *Service, d digest.Digest) []byte {
	t.Helper()
	f, err := s.content.Open(d)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestANameThatIsTakenMovesOn(t *testing.T) {
	s := open(t, Options{})
	a, b := makeFixture(t, "a", hostPlatform(), nil), makeFixture(t, "bb", hostPlatform(), nil)
	load(t, s, pack(t, a.dockerArchive(t, "app:1")...))
	load(t, s, pack(t, a.dockerArchive(t, "app:1")...)) // the same again says nothing
	var said []string
	if _, err := s.Load(t.Context(), bytes.NewReader(pack(t, b.dockerArchive(t, "app:1")...)), func(l string) { said = append(said, l) }); err != nil {
		t.Fatal(err)
	}
	if want := "The image app:1 already exists, renaming the old one with ID " + a.id.String() + " to empty string"; len(said) != 1 || said[0] != want {
		t.Errorf("said %q", said)
	}
	if get(t, s, "app:1").ID != b.id || get(t, s, a.id.String()).RepoTags != nil {
		t.Error("the name did not move")
	}
	l, err := s.List(t.Context(), ListOptions{Filters: map[string][]string{"dangling": {"true"}}})
	if err != nil || len(l) != 1 || l[0].ID != a.id {
		t.Errorf("dangling: %v, %v", l, err)
	}
}

func TestImagesSurviveReopening(t *testing.T) {
	root := t.TempDir()
	f := makeFixture(t, "a", hostPlatform(), nil)
	var before Image
	t.Run("before", func(t *testing.T) {
		s := openAt(t, root, Options{})
		load(t, s, pack(t, f.dockerArchive(t, "app:1")...))
		before = get(t, s, "app:1")
	})
	s := openAt(t, root, Options{})
	after := get(t, s, "app:1")
	if after.ID != before.ID || after.Size != before.Size || after.ChainID != before.ChainID || !after.Tagged.Equal(before.Tagged) {
		t.Errorf("before %+v\nafter %+v", before, after)
	}
	if _, err := s.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.layers.Overlay(after.ChainID, ""); err != nil {
		t.Error(err)
	}
}

func TestLoadsAtOnceShareTheirWork(t *testing.T) {
	s := open(t, Options{})
	f := makeFixture(t, "a", hostPlatform(), nil)
	data, broken := pack(t, f.dockerArchive(t, "app:1")...), pack(t, f.dockerArchive(t, "app:1")[1:]...)
	var wg sync.WaitGroup
	for n := range 12 {
		wg.Go(func() {
			archive := data
			if n%3 == 0 {
				archive = broken // its collection must not take what the others are about to refer to
			}
			if _, err := s.Load(t.Context(), bytes.NewReader(archive), nil); (err != nil) != (n%3 == 0) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	i := get(t, s, "app:1")
	if infos, err := s.layers.Chain(i.ChainID); err != nil || len(infos) != 3 {
		t.Errorf("%v, %v", infos, err)
	}
	for _, l := range s.known[i.Target.Digest].blobs {
		readBlob(t, s, l)
	}
}

func FuzzLoad(f *testing.F) {
	x := makeFixture(f, "a", hostPlatform(), nil)
	f.Add(pack(f, x.dockerArchive(f, "app:1")...))
	f.Add(pack(f, layout(f, describe(ocispec.MediaTypeImageManifest, x.manifest), annotationImageName, []string{"app:1"}, x.blobs()...)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		root := t.TempDir()
		s := openAt(t, root, Options{Limits: Limits{Archive: 1 << 20, Entries: 100}})
		if _, err := s.Load(t.Context(), bytes.NewReader(data), nil); err != nil {
			empty(t, s, root)
		}
	})
}
