package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
)

// registryImage makes an image of this very program, which is a registry, too: `run -d -p 5000:5000 registry` works
// as the lessons about Docker have it, with no network. Of the official image it has the port, the folder
// (/var/lib/registry) and the variables.
func registryImage(arch string) (rootfs, config []byte, err error) {
	// By /proc: the program may be a memfd, or replaced on disk since it was started.
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil, nil, err
	}
	defer self.Close()
	fi, err := self.Stat()
	if err != nil {
		return nil, nil, err
	}
	var buf bytes.Buffer
	buf.Grow(int(fi.Size()) + 16<<10)
	w := tar.NewWriter(&buf)
	for _, h := range []tar.Header{
		{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777},
		{Typeflag: tar.TypeDir, Name: "var/", Mode: 0o755},
		{Typeflag: tar.TypeDir, Name: "var/lib/", Mode: 0o755},
		{Typeflag: tar.TypeDir, Name: "var/lib/registry/", Mode: 0o755},
		{Typeflag: tar.TypeDir, Name: "bin/", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: "bin/gantry", Mode: 0o755, Size: fi.Size()},
	} {
		h.ModTime, h.Format = helloTime, tar.FormatUSTAR
		if err := w.WriteHeader(&h); err != nil {
			return nil, nil, err
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.Copy(w, self); err != nil {
				return nil, nil, fmt.Errorf("copy the program: %w", err)
			}
		}
	}
	if err := w.Close(); err != nil {
		return nil, nil, err
	}
	c := builtinConfig(arch, buf.Bytes(), "the registry inside the program")
	c.Config.Entrypoint = []string{"/bin/gantry", "registry", "serve"}
	c.Config.ExposedPorts = map[string]struct{}{"5000/tcp": {}}
	config, err = json.Marshal(c)
	return buf.Bytes(), config, err
}
