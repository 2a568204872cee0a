// Package cli_test holds Gantry's command line against Docker's: the same scripts, the same engine (a real
// dockerd in namespaces of its own), the same output to the byte once IDs and times are masked.
//
// What docker 28.2.2 printed is kept in testdata/*.golden, so that the comparison needs no docker command line of that version. Where one
// is at hand (DOCKER_CLI, or in the path), it runs beside and must still print that. `go test ./test/cli -update` writes the files anew.
package cli_test

import (
	"archive/tar"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"gantry/test/engine"
)

var update = flag.Bool("update", false, "write what the docker command line prints to testdata")

// goldenVersion is the docker command line that is the model.
const goldenVersion = "28."

func need(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// dockerCLI returns the path of a docker command line of the model's version, or "".
func dockerCLI() string {
	for _, p := range []string{os.Getenv("DOCKER_CLI"), "/usr/local/bin/docker", "/usr/bin/docker"} {
		if p == "" {
			continue
		}
		out, err := exec.Command(p, "version", "--format", "{{.Client.Version}}").Output()
		_ = err // without an engine it fails, and prints the version all the same
		if strings.HasPrefix(strings.TrimSpace(string(out)), goldenVersion) {
			return p
		}
		if out, err := exec.Command(p, "--version").Output(); err == nil && strings.HasPrefix(string(out), "Docker version "+goldenVersion) {
			return p
		}
	}
	return ""
}

// prelude is in front of every script. `d` runs docker and shows all that came of it.
const prelude = `
cd "$WORK" || exit 1
d() {
	echo "\$ docker $*"
	docker "$@" >out 2>err
	rc=$?
	cat out
	sed 's/^/! /' err
	[ $rc -eq 0 ] || echo "[$rc]"
}
`

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	if err := shared.end(); err != nil {
		fmt.Println(err)
		code = 1
	}
	os.Exit(code)
}

// bench is what all tests here share: the engine, and the folders that hold a `docker` to put into the path.
type bench struct {
	once        sync.Once
	err         error
	root        string
	oracle      *engine.Engine
	ours, stock string // stock is "" if there is no docker command line of the model's version
}

var shared bench

func setUp(t *testing.T) *bench {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a dockerd")
	}
	if os.Geteuid() != 0 {
		need(t, "a real dockerd needs root")
	}
	for _, p := range []string{"dockerd", "busybox", "unshare"} {
		if _, err := exec.LookPath(p); err != nil {
			need(t, err.Error())
		}
	}
	shared.once.Do(func() { shared.err = shared.begin() })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return &shared
}

func (b *bench) begin() (err error) {
	if b.root, err = os.MkdirTemp("/var/tmp", "gantry-cli-"); err != nil { // short: a socket's path has at most 107 bytes
		return err
	}
	b.ours = filepath.Join(b.root, "ours")
	build := exec.Command("go", "build", "-o", filepath.Join(b.ours, "docker"), "gantry/cmd/gantry")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the front: %w\n%s", err, out)
	}
	if cli := dockerCLI(); cli != "" {
		b.stock = filepath.Join(b.root, "stock")
		if err := os.MkdirAll(b.stock, 0o755); err != nil {
			return err
		}
		if err := os.Symlink(cli, filepath.Join(b.stock, "docker")); err != nil {
			return err
		}
	}
	b.oracle = engine.Docker(filepath.Join(b.root, "e"))
	if err := b.oracle.Start(); err != nil {
		return err
	}
	return importBusybox(b.oracle)
}

func (b *bench) end() error {
	var err error
	if b.oracle != nil {
		removeAll(b.oracle)
		err = b.oracle.Stop()
	}
	if b.root != "" {
		os.RemoveAll(b.root)
	}
	return err
}

// removeAll removes all containers.
func removeAll(e *engine.Engine) {
	if ids := strings.Fields(engine.Run(e.StockCLI("ps", "-aq")).Out); len(ids) > 0 {
		engine.Run(e.StockCLI(append([]string{"rm", "-f"}, ids...)...))
	}
}

func TestAgainstDocker(t *testing.T) {
	b := setUp(t)
	if *update && b.stock == "" {
		t.Fatal("-update needs a docker command line " + goldenVersion + "x: name it in DOCKER_CLI")
	}
	scripts, err := filepath.Glob("testdata/*.sh")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, s := range scripts {
		name := strings.TrimSuffix(filepath.Base(s), ".sh")
		t.Run(name, func(t *testing.T) {
			golden := filepath.Join("testdata", name+".golden")
			want, err := os.ReadFile(golden)
			stock := ""
			if b.stock != "" {
				got := runScript(t, b.oracle, s, b.stock)
				stock = got
				if *update {
					if err := os.WriteFile(golden, []byte(anywhere(got)), 0o644); err != nil {
						t.Fatal(err)
					}
					want, err = []byte(got), nil
				} else if d := diff(anywhere(string(want)), anywhere(got)); d != "" {
					t.Errorf("the docker command line prints something else than %s has:\n%s", golden, d)
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			got := runScript(t, b.oracle, s, b.ours)
			d := diff(anywhere(string(want)), anywhere(got))
			if stock != "" { // in every letter, for both ran here
				d = diff(stock, got)
			}
			if d != "" {
				t.Errorf("docker (-) and gantry (+) differ:\n%s", d)
			}
		})
	}
}

func runScript(t *testing.T, e *engine.Engine, script, bin string) string {
	t.Helper()
	body, err := os.ReadFile(script)
	if err != nil {
		t.Fatal(err)
	}
	removeAll(e) // as many containers are there whoever played before
	work := t.TempDir()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute) // a hang is a failure, not a wait
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", prelude+string(body))
	cmd.Env = []string{"PATH=" + bin + ":/usr/bin:/bin:/usr/sbin:/sbin", "DOCKER_HOST=unix://" + e.Socket, "HOME=" + work, "WORK=" + work, "LANG=C.UTF-8", "TZ=UTC", "FROM_CALLER=yes"}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out.String())
	}
	return mask(out.String(), e, work)
}

var masks = []struct {
	re *regexp.Regexp
	to string
}{
	{regexp.MustCompile(`\b[0-9a-f]{64}\b`), "<ID>"},
	{regexp.MustCompile(`\b[0-9a-f]{12}\b`), "<id>"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d| \+0000 UTC)?`), "<TIME>"},
	{regexp.MustCompile(`(Less than a second|About an? \w+|\d+ (seconds?|minutes?|hours?|days?))( ago)?`), "<AGE>"},
	{regexp.MustCompile(`"(Pid|Created)": \d+`), `"$1": <N>`},
	{regexp.MustCompile(`dial tcp: lookup registry-1\.docker\.io.*`), "<NO NETWORK>"},
	{regexp.MustCompile(`docker-import-\d+`), "docker-import-<N>"},
	// A slip of 28.2's.
	{regexp.MustCompile(`SRun 'docker`), "Run 'docker"},
	// The lists of commands and their words are each one's own.
	{regexp.MustCompile(`(?s)(! Usage:  docker (?:system|image|container) COMMAND\n).*?(! Run 'docker)`), "$1<COMMANDS>\n$2"},
	{regexp.MustCompile(`execDuration=\d+`), "execDuration=<N>"},
	// What comes of a column whose width changes with the age.
	{regexp.MustCompile(` {2,}`), "  "},
}

func mask(s string, e *engine.Engine, work string) string {
	s = strings.NewReplacer(e.Root, "<ROOT>", work, "<WORK>").Replace(s)
	for _, m := range masks {
		s = m.re.ReplaceAllString(s, m.to)
	}
	return s
}

// machine is what is the machine's own in an output, and not the command line's.
var machine = []struct {
	re *regexp.Regexp
	to string
}{
	{regexp.MustCompile(`(?m)^( *(?:Server Version|Kernel Version|Operating System|Architecture|CPUs|Total Memory|Name|ID|(?:containerd |runc |init )?[vV]ersion|Go version|Git commit|Built|OS/Arch|GitCommit|Backing Filesystem):).*`), "$1 <HERE>"},
	{regexp.MustCompile(`[A-Z2-7]{4}(:[A-Z2-7]{4}){11} \d+`), "<ENGINE> <CPUS>"},
	{regexp.MustCompile(`\b\d+\.\d+\.\d+\+dfsg\d+\b`), "<VERSION>"},
	{regexp.MustCompile(`\b\d\.\d\d\d?MB`), "<SIZE>"}, // busybox's
}

// anywhere takes away from an output, the golden one too, what differs where the tests run.
func anywhere(s string) string {
	for _, m := range machine {
		s = m.re.ReplaceAllString(s, m.to)
	}
	return s
}

func diff(want, got string) string {
	if want == got {
		return ""
	}
	dir, err := os.MkdirTemp("", "diff")
	if err != nil {
		return err.Error()
	}
	defer os.RemoveAll(dir)
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	os.WriteFile(a, []byte(want), 0o644)
	os.WriteFile(b, []byte(got), 0o644)
	out, _ := exec.Command("diff", "-U2", a, b).Output()
	_, body, _ := strings.Cut(string(out), "@@")
	return "@@" + body
}

// importBusybox gives the engine an image of the host's static busybox.
func importBusybox(e *engine.Engine) error {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	applets, err := exec.Command(path, "--list").Output()
	if err != nil {
		return err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	file := func(h tar.Header, content string) {
		h.Size = int64(len(content))
		if e := w.WriteHeader(&h); e != nil {
			err = e
		}
		io.WriteString(w, content)
	}
	for _, d := range []string{"bin", "etc", "tmp", "root"} {
		file(tar.Header{Typeflag: tar.TypeDir, Name: d + "/", Mode: 0o755}, "")
	}
	file(tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, string(program))
	for _, a := range strings.Fields(string(applets)) {
		if a != "busybox" {
			file(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + a, Linkname: "busybox", Mode: 0o777}, "")
		}
	}
	file(tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644}, "root:x:0:0:root:/root:/bin/sh\n")
	file(tar.Header{Typeflag: tar.TypeReg, Name: "etc/group", Mode: 0o644}, "root:x:0:\n")
	if err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	q := url.Values{"fromSrc": {"-"}, "repo": {"busybox"}, "tag": {"latest"}, "changes": {`CMD ["sh"]`, "ENV PATH=/bin"}}
	c := e.Client()
	defer c.CloseIdleConnections()
	resp, err := c.Post("http://engine/images/create?"+q.Encode(), "application/x-tar", &b)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		return fmt.Errorf("import busybox: %s: %s", resp.Status, text)
	}
	return nil
}
