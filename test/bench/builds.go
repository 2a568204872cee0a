package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"gantry/test/engine"
)

// buildSteps is a build of ten steps; those after the copy stand on its files.
const buildSteps = `FROM busybox
ENV A=1
RUN mkdir -p /work
WORKDIR /work
COPY src /work/src
RUN ls -R /work/src > /list
RUN cat /work/src/*/* | wc -c > /count
COPY Dockerfile /work/
RUN cp -r /work/src/d0 /work/copy
RUN rm -r /work/src/d1
CMD ["true"]
`

// builds is a build with a context of many small files.
var builds = subject{
	title: "Builds",
	about: "Ten steps, a context of 5,000 files of 1 KiB; against the legacy builder, by which a dockerd without plugins builds.",
	n:     5,
	disk:  true,
	prepare: func(p *pair) error {
		if err := os.WriteFile(filepath.Join(p.dir, "Dockerfile"), []byte(buildSteps), 0o644); err != nil {
			return err
		}
		for i := range 50 {
			dir := filepath.Join(p.dir, "src", "d"+strconv.Itoa(i))
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			for j := range 100 {
				text := strings.Repeat(fmt.Sprintf("%7d\n", i*100+j), 128)
				if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(j)), []byte(text), 0o644); err != nil {
					return err
				}
			}
		}
		return p.load("busybox")
	},
	rows: []row{
		{name: "build, cold", wall: 0.15, do: doBuild("--no-cache")},
		{name: "build, all cached", wall: 0.1, setup: doBuild(), do: doBuild()},
		{name: "build, one file changed", wall: 0.15, setup: func(p *pair, e *engine.Engine) error {
			if err := doBuild()(p, e); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(p.dir, "src", "d7", "7"), []byte(time.Now().String()), 0o644)
		}, do: doBuild()},
	},
}

func doBuild(flags ...string) func(*pair, *engine.Engine) error {
	return func(p *pair, e *engine.Engine) error {
		cmd := p.command(e, append(append([]string{"build", "-q", "-t", "bench", "--network", "none"}, flags...), p.dir)...)
		if e == p.theirs {
			cmd.Env = append(cmd.Env, "DOCKER_BUILDKIT=0")
		}
		if r := engine.Run(cmd); r.Code != 0 {
			return fmt.Errorf("%v", r)
		}
		return nil
	}
}
