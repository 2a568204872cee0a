package dockerfile

import (
	"fmt"
	"regexp"
	"runtime"
	"strings"

	"gantry/internal/build/graph"
)

// The systems and architectures that a platform of one word may be (go tool dist list).
var (
	knownOS   = words("aix android darwin dragonfly freebsd illumos ios js linux netbsd openbsd plan9 solaris windows zos")
	knownArch = words("386 amd64 amd64p32 arm armbe arm64 arm64be ppc64 ppc64le loong64 mips mipsle mips64 mips64le mips64p32 mips64p32le ppc riscv riscv64 s390 s390x sparc sparc64 wasm")
)

func words(s string) map[string]bool {
	m := map[string]bool{}
	for _, w := range strings.Fields(s) {
		m[w] = true
	}
	return m
}

var (
	component   = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)
	osComponent = regexp.MustCompile(`^([A-Za-z0-9_-]+)(?:\(([A-Za-z0-9_.%-]*)((?:\+[A-Za-z0-9_.%-]+)*)\))?$`)
)

// parsePlatform understands os, arch, os/arch and os/arch/variant, as containerd's platforms package does, and in its
// words.
func parsePlatform(s string) (graph.Platform, error) {
	var p graph.Platform
	if strings.Contains(s, "*") {
		return p, fmt.Errorf("%q: wildcards not yet supported: invalid argument", s)
	}
	parts := strings.Split(s, "/")
	for i, part := range parts {
		if i == 0 {
			m := osComponent.FindStringSubmatch(part)
			if m == nil {
				return p, fmt.Errorf("%q is an invalid OS component of %q: OSAndVersion specifier component must match %q: invalid argument", part, s, osComponent)
			}
			p.OS, p.OSVersion = strings.ToLower(m[1]), m[2]
			if p.OS == "macos" {
				p.OS = "darwin"
			}
			continue
		}
		if !component.MatchString(part) {
			return p, fmt.Errorf("%q is an invalid component of %q: platform specifier component must match %q: invalid argument", part, s, component)
		}
	}
	switch len(parts) {
	case 1:
		if knownOS[p.OS] {
			p.Architecture = runtime.GOARCH
			return p, nil
		}
		p.Architecture, p.Variant = normalizeArch(parts[0], "")
		if knownArch[p.Architecture] {
			p.OS = runtime.GOOS
			return p, nil
		}
		return graph.Platform{}, fmt.Errorf("%q: unknown operating system or architecture: invalid argument", s)
	case 2:
		p.Architecture, p.Variant = normalizeArch(parts[1], "")
		return p, nil
	case 3:
		p.Architecture, p.Variant = normalizeArch(parts[1], parts[2])
		if p.Architecture == "arm64" && p.Variant == "" {
			p.Variant = "v8"
		}
		return p, nil
	}
	return graph.Platform{}, fmt.Errorf("%q: cannot parse platform specifier: invalid argument", s)
}

// normalize gives every platform one spelling.
func normalize(p graph.Platform) graph.Platform {
	p.OS = strings.ToLower(p.OS)
	if p.OS == "macos" {
		p.OS = "darwin"
	}
	p.Architecture, p.Variant = normalizeArch(p.Architecture, p.Variant)
	return p
}

func normalizeArch(arch, variant string) (string, string) {
	arch, variant = strings.ToLower(arch), strings.ToLower(variant)
	switch arch {
	case "i386":
		return "386", ""
	case "x86_64", "x86-64", "amd64":
		if variant == "v1" {
			variant = ""
		}
		return "amd64", variant
	case "aarch64", "arm64":
		switch variant {
		case "8", "v8", "v8.0":
			variant = ""
		case "9", "9.0", "v9.0":
			variant = "v9"
		}
		return "arm64", variant
	case "armhf":
		return "arm", "v7"
	case "armel":
		return "arm", "v6"
	case "arm":
		switch variant {
		case "", "7":
			variant = "v7"
		case "5", "6", "8":
			variant = "v" + variant
		}
		return "arm", variant
	}
	return arch, variant
}

// formatAll is os(version)/arch/variant.
func formatAll(p graph.Platform) string {
	if p.OSVersion == "" {
		return p.String()
	}
	s := p.OS + "(" + p.OSVersion + ")/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}
