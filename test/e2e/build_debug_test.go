//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

// TestBuildDebug: after a failure --debug opens a shell in the state before the step that failed: its files, its environment, its
// folder and its user. Nothing of it stays.
func TestBuildDebug(t *testing.T) {
	dir := contextDir(t, map[string]string{"Dockerfile": `FROM busybox
RUN echo before > /note && mkdir -m 777 /w
ENV GREETING=hello
WORKDIR /w
USER 1234
RUN touch /w/half && exit 7
`})
	before := ok(t, "images", "-aq", "--no-trunc")
	tt := onTerminal(t, gantry.CLI("build", "--debug", "--network", "none", dir))
	tt.expect("exit code: 7")
	tt.expect("the state before this step")
	tt.send("echo \"$(cat /note) $GREETING $PWD $(id -u) $(ls | wc -l)\".\n")
	tt.expect("before hello /w 1234 0.")
	tt.send("exit 3\n")
	if code := tt.code(); code != 1 {
		t.Errorf("the build ends with status %d; it shows %s", code, tt.seen())
	}
	if after := ok(t, "images", "-aq", "--no-trunc"); after != before {
		t.Errorf("the images are\n%s\nand were\n%s", after, before)
	}
	if left := ok(t, "ps", "-aq", "--filter", "label=gantry.build.debug"); left != "" {
		t.Errorf("containers stayed: %s", left)
	}

	if r := buildIn(t, gantry, dir, "", "--debug", "--network", "none", "."); r.Code != 1 || !strings.Contains(r.Err, "exit code: 7") || !strings.Contains(r.Err, "--debug opens a shell on a terminal") {
		t.Errorf("without a terminal: %v", r)
	}
	tt = onTerminal(t, gantry.CLI("build", "--debug", contextDir(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY nosuch /\n"})))
	tt.expect("there is no state before this step")
	if code := tt.code(); code != 1 {
		t.Errorf("status %d", code)
	}
}
