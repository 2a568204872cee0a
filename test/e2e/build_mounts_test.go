//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gantry/test/engine"
)

// TestRunMounts: what RUN --mount shows, and that nothing of it is in the image.
func TestRunMounts(t *testing.T) {
	dir := contextDir(t, map[string]string{"file": "of the context\n", "Dockerfile": `FROM busybox AS stage
RUN mkdir -p /o/sub && echo artifact > /o/sub/a && ln -s sub/a /o/link
FROM busybox
RUN --mount=type=bind,from=stage,source=/o,target=/in [ "$(cat /in/link)" = artifact ] && ! touch /in/x
RUN --mount=type=bind,from=stage,source=/o,target=/in,rw touch /in/x
RUN --mount=type=bind,from=stage,source=/o,target=/in [ ! -e /in/x ]
RUN --mount=type=bind,source=file,target=/tmp/f [ "$(cat /tmp/f)" = "of the context" ]
RUN --mount=type=cache,target=/cache,id=mounts echo one >> /cache/log
RUN --mount=type=cache,target=/cache,id=mounts,sharing=locked [ "$(cat /cache/log)" = one ]
RUN --mount=type=cache,target=/begun,from=stage,source=/o,id=begun [ "$(cat /begun/sub/a)" = artifact ]
RUN --mount=type=tmpfs,target=/deep/tmpfs,size=1m mount | grep -q ' /deep/tmpfs type tmpfs.*size=1024k' && touch /deep/tmpfs/x
RUN --mount=type=secret,id=s,mode=0440,uid=3 [ "$(stat -c '%a %u' /run/secrets/s)" = "440 3" ] && [ "$(wc -c < /run/secrets/s)" = 11 ]
RUN --mount=type=secret,id=s,env=HIDDEN [ "${#HIDDEN}" = 11 ]
RUN --mount=type=secret,id=none [ ! -e /run/secrets/none ]
RUN --network=none [ "$(ip -o addr | grep -vc ' lo ')" = 0 ]
`})
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("hidden-1729"), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"build", "--network", "none", "--secret", "id=s,src=" + secret, "-t", "mounts", dir}
	if r := must(t, gantry.CLI(args...)); r.Code != 0 {
		t.Fatal(r)
	}
	defer engine.Run(gantry.CLI("rmi", "-f", "mounts"))
	tree := treeOf(t, gantry, "mounts")
	for _, name := range []string{"in", "cache", "begun", "deep", "run", "run/secrets", "tmp/f"} {
		if tree[name] != "" {
			t.Errorf("/%s is in the image: %q", name, tree[name])
		}
	}
	history := must(t, gantry.CLI("history", "--no-trunc", "mounts"))
	inspect := must(t, gantry.CLI("image", "inspect", "mounts"))
	if strings.Contains(history.Out+inspect.Out, "hidden-1729") {
		t.Errorf("the secret is in the image's configuration: %s%s", history.Out, inspect.Out)
	}
}

// TestBuildTwiceIsTheSame: with SOURCE_DATE_EPOCH an image is the same, bit by bit, wherever and whenever it is built.
func TestBuildTwiceIsTheSame(t *testing.T) {
	other := ownEngine(t, "busybox")
	dir := contextDir(t, map[string]string{"Dockerfile": "FROM busybox\nRUN date > /dev/null; mkdir /made && echo x > /made/f\nCOPY f /copied/\nWORKDIR /w\n", "f": "f"})
	var ids []string
	for _, e := range []*engine.Engine{gantry, other} {
		okOn(t, e, "build", "-q", "--no-cache", "--network", "none", "--build-arg", "SOURCE_DATE_EPOCH=1700000000", "-t", "twice", dir)
		ids = append(ids, okOn(t, e, "image", "inspect", "-f", "{{.Id}} {{json .RootFS.Layers}} {{.Created}}", "twice"))
		engine.Run(e.CLI("rmi", "-f", "twice"))
	}
	if ids[0] != ids[1] {
		t.Errorf("built twice it is\n%s and\n%s", ids[0], ids[1])
	}
}
