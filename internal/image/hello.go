package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"runtime"
	"time"

	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// builtins are the images inside the program, layer and config of each: the first run needs no network, and neither
// does a registry.
var builtins = map[string]func(arch string) (rootfs, config []byte, err error){
	"docker.io/library/hello-world:latest": helloImage,
	"docker.io/library/registry:latest":    registryImage,
}

// helloText is what it prints.
const helloText = `
Hello from Gantry!
This text was written by a program in a container, so the whole way works:

 1. The gantry command asked the engine for a container of the image "hello-world".
 2. The engine took that image out of itself (this one needs no network), and unpacked it.
 3. The supervisor started a process of its own namespaces, limits and root file system:
    a program of a few hundred bytes, which wrote what you are reading.
 4. Its output went over the engine to your terminal.

What to try next:

    gantry load -i debian.tar            take in an image of your own
    gantry run -it debian bash           look around in a container
    gantry ps -a                         see what ran
    gantry --help                        all that there is
`

// builtinName is the whole name of the builtin image that ref means, or nothing.
func builtinName(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ""
	}
	if _, hasDigest := named.(reference.Digested); hasDigest {
		return ""
	}
	name := reference.TagNameOnly(named).String()
	if builtins[name] == nil {
		return ""
	}
	return name
}

// addBuiltin makes a builtin image one like any other: it can be listed, tagged, and removed until it is next asked for.
func (s *Service) addBuiltin(ctx context.Context, name string) error {
	s.builtin.Lock()
	defer s.builtin.Unlock()
	if _, err := s.lookup(name); err == nil { // someone was faster
		return nil
	}
	blobs, layers := s.content.Lease(), s.layers.Lease()
	defer blobs.Release()
	defer layers.Release()
	rootfs, config, err := builtins[name](runtime.GOARCH)
	if err != nil {
		return fmt.Errorf("make %s: %w", name, err)
	}
	var digests []digest.Digest
	for _, data := range [][]byte{rootfs, config} {
		b, err := s.content.IngestBytes(ctx, blobs, data)
		if err != nil {
			return fmt.Errorf("make %s: %w", name, err)
		}
		digests = append(digests, b.Digest)
	}
	f := found{}
	if f.target, err = s.makeManifest(ctx, blobs, digests[1], digests[:1]); err != nil {
		return fmt.Errorf("make %s: %w", name, err)
	}
	if err := s.unpack(ctx, layers, &f, nil); err != nil {
		return fmt.Errorf("make %s: %w", name, err)
	}
	s.change.Lock()
	defer s.change.Unlock()
	if _, ok := s.refs[name]; ok { // loaded or tagged meanwhile: the user's own wins
		return nil
	}
	e := edit{name: {f.target, time.Now().UTC()}}
	e.release(s, f.target.Digest)
	return s.apply(e, f.resolved)
}

// helloTime is fixed: the image's digests depend on the text alone.
var helloTime = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

// helloImage makes layer and config of the image for an architecture.
func helloImage(arch string) (rootfs, config []byte, err error) {
	program := helloProgram(arch, helloText)
	if program == nil {
		return nil, nil, fmt.Errorf("no builtin program for %s", arch)
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	h := &tar.Header{Typeflag: tar.TypeReg, Name: "hello", Mode: 0o755, Size: int64(len(program)), ModTime: helloTime, Format: tar.FormatUSTAR}
	if err := w.WriteHeader(h); err != nil {
		return nil, nil, err
	}
	if _, err := w.Write(program); err != nil {
		return nil, nil, err
	}
	if err := w.Close(); err != nil {
		return nil, nil, err
	}
	c := builtinConfig(arch, buf.Bytes(), "the image inside the program")
	c.Config.Cmd = []string{"/hello"}
	config, err = json.Marshal(c)
	return buf.Bytes(), config, err
}

// builtinConfig describes an image of one layer that is made of this program.
func builtinConfig(arch string, rootfs []byte, comment string) *dockerspec.DockerOCIImage {
	created := helloTime
	c := &dockerspec.DockerOCIImage{Image: ocispec.Image{
		Created:  &created,
		Platform: ocispec.Platform{OS: "linux", Architecture: arch},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(rootfs)}},
		History:  []ocispec.History{{Created: &created, CreatedBy: "gantry", Comment: comment}},
	}}
	if arch == "arm64" {
		c.Variant = "v8"
	}
	c.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	c.Config.WorkingDir = "/"
	return c
}

// helloBase is where the program lies in memory.
const helloBase = 0x400000

// helloProgram is a whole static ELF program: write(1, text), exit(0). Nil for an architecture it knows not.
func helloProgram(arch, text string) []byte {
	const headers = 64 + 56 // ELF header, one program header
	var machine uint16
	var code []byte
	le := binary.LittleEndian
	switch arch {
	case "amd64":
		const size = 32
		machine = 62
		code = []byte{0xb8, 1, 0, 0, 0, 0xbf, 1, 0, 0, 0} // mov eax, SYS_write; mov edi, 1
		code = append(code, 0xbe)                         // mov esi, text
		code = le.AppendUint32(code, helloBase+headers+size)
		code = append(code, 0xba) // mov edx, len(text)
		code = le.AppendUint32(code, uint32(len(text)))
		code = append(code, 0x0f, 0x05)                   // syscall
		code = append(code, 0xb8, 60, 0, 0, 0)            // mov eax, SYS_exit
		code = append(code, 0x31, 0xff, 0x0f, 0x05, 0xf4) // xor edi, edi; syscall; hlt
	case "arm64":
		const words = 8
		machine = 183
		movz := func(reg, value uint32) uint32 { return 0xd2800000 | value<<5 | reg }
		adr := uint32((words - 1) * 4) // from the second instruction to behind the last
		for _, i := range [words]uint32{
			movz(0, 1),
			0x10000000 | (adr&3)<<29 | (adr>>2)<<5 | 1, // adr x1, text
			movz(2, uint32(len(text))),
			movz(8, 64), // SYS_write
			0xd4000001,  // svc 0
			movz(0, 0),
			movz(8, 93), // SYS_exit
			0xd4000001,
		} {
			code = le.AppendUint32(code, i)
		}
	default:
		return nil
	}
	total := uint64(headers + len(code) + len(text))
	elf := []byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0} // 64 bits, little-endian
	elf = le.AppendUint16(elf, 2)                                          // ET_EXEC
	elf = le.AppendUint16(elf, machine)
	elf = le.AppendUint32(elf, 1)
	elf = le.AppendUint64(elf, helloBase+headers) // entry
	elf = le.AppendUint64(elf, 64)                // program headers
	elf = le.AppendUint64(elf, 0)                 // no sections
	elf = le.AppendUint32(elf, 0)
	for _, v := range []uint16{64, 56, 1, 0, 0, 0} { // sizes and counts of the headers
		elf = le.AppendUint16(elf, v)
	}
	elf = le.AppendUint32(elf, 1) // PT_LOAD
	elf = le.AppendUint32(elf, 5) // PF_R | PF_X
	for _, v := range []uint64{0, helloBase, helloBase, total, total, 0x10000} {
		elf = le.AppendUint64(elf, v)
	}
	elf = append(elf, code...)
	return append(elf, text...)
}
