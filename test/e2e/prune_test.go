//go:build e2e

package e2e

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gantry/test/engine"
)

// pruneSessions are played on engines of their own, for a prune takes what others made.
var pruneSessions = []session{
	{"rmi", []string{
		"docker tag busybox r1; docker tag busybox r2:x; docker tag busybox r2:y",
		"docker rmi r1; docker rmi r1",
		"~docker rmi $(docker inspect -f '{{.Id}}' busybox)",
		"docker rmi r2:x r2:y",
		"docker create --name user --network none busybox true",
		"docker rmi busybox",
		"docker rmi nosuch; docker rmi -f nosuch; docker rmi busybox:nosuch; docker rmi ''",
		"docker tag busybox other; docker rmi busybox; docker tag other busybox; docker rmi other",
		"docker run -d --name runs --network none busybox sleep 1000",
		"docker rmi -f $(docker inspect -f '{{.Id}}' busybox)",
		"docker rmi -f busybox; docker images -a --format '{{.Repository}}:{{.Tag}}' | grep -v debian | sort",
		"docker ps -a --format '{{.Names}} {{.Image}}' | sort",
		"docker rm -f runs user",
		"docker images -q --filter dangling=true | wc -l",
		"docker rmi -f $(docker images -q --filter dangling=true); docker images -q | wc -l",
	}},
	{"dangling", []string{
		"docker run --name d1 --network none debian sh -c 'echo 1 >/one'; docker commit d1 dang; docker commit -m again d1 dang",
		"docker images --format '{{.Repository}}:{{.Tag}}' | sort; docker images -f dangling=true --format '{{.Repository}}:{{.Tag}}'; docker images -f dangling=false --format '{{.Repository}}' | sort",
		"docker commit -c 'LABEL keep=1' d1; docker images -qf dangling=true | wc -l; docker images -qf dangling=true -f label=keep | wc -l",
		"docker image prune -f --filter label!=keep | grep -c deleted; docker images -qf dangling=true | wc -l",
		"docker image prune -f --filter until=1h; docker image prune -f --filter nosuch=1",
		"docker image prune -f | grep -c deleted; docker images -qf dangling=true | wc -l",
		"docker rmi dang | grep -c Untagged; docker rm d1",
	}},
	{"system prune", []string{
		"docker create --name s1 --label l=1 --network none busybox; docker create --name s2 --network none busybox; docker tag debian unused:1",
		"echo n | docker system prune; echo; docker ps -aq | wc -l",
		"echo n | docker system prune -a --filter label=l=1",
		"echo n | docker system prune --filter until=24h --filter label!=x",
		"~docker system prune --volumes --filter until=24h",
		"docker system prune -f --filter label=l=1 | grep -v reclaimed; docker ps -a --format '{{.Names}}'",
		"docker system prune -f | grep -v reclaimed; docker ps -aq | wc -l; docker images -q | sort -u | wc -l",
		"docker run -d --name s3 --network none busybox sleep 1000; docker system prune -af | grep -v reclaimed | grep -v sha256; docker images --format '{{.Repository}}:{{.Tag}}'",
		"docker rm -f s3",
	}},
}

// TestPruneDifferential holds rmi and the prunes against a real dockerd.
func TestPruneDifferential(t *testing.T) {
	docker := engine.Docker(filepath.Join(scratch, "own", "docker-prune"))
	if err := boot(docker, "busybox", "debian"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := docker.Stop(); err != nil {
			t.Error(err)
		}
	})
	ours := ownEngine(t, "busybox", "debian")
	for i, s := range pruneSessions {
		// Each finds the images there, whoever plays it.
		s.lines = append([]string{"!docker load -qi " + imagePath("busybox") + "; docker load -qi " + imagePath("debian")}, s.lines...)
		if i == 0 {
			s.lines = append(s.lines, "!docker rm -f runs user; docker rmi -f busybox r1 r2:x r2:y other")
		}
		shellDifferential(t, []session{s}, ours, docker, fileMask)
	}
}

// TestPruneTellsFirst: called by its own name the command line shows what a prune would take before it asks.
func TestPruneTellsFirst(t *testing.T) {
	e := ownEngine(t, "busybox", "debian")
	okOn(t, e, "create", "--name", "first", "--network", "none", "busybox")
	okOn(t, e, "network", "create", "lonely")
	okOn(t, e, "volume", "create", "data")
	t.Cleanup(func() { okOn(t, e, "volume", "rm", "--now", "data") })
	for args, want := range map[string][]string{
		"container prune": {"container  first"},
		"volume prune -a": {"volume     data", "WARNING! This will remove all local volumes"},
		"image prune -a":  {"image      debian:"},
		"system prune -a": {"container  first", "network    lonely", "image      debian:", "WARNING! This will remove:", "  - all stopped containers"},
	} {
		cmd := e.CLI(strings.Fields(args)...)
		cmd.Stdin = strings.NewReader("n\n")
		r := must(t, cmd)
		for _, w := range want {
			if !strings.Contains(r.Out, w) {
				t.Errorf("no %q in %v", w, r)
			}
		}
		if r.Code != 0 {
			t.Errorf("no is an answer, not a failure: %v", r)
		}
		if strings.Contains(r.Out, "busybox:latest") {
			t.Errorf("it would take what is used: %v", r)
		}
	}
	if got := okOn(t, e, "ps", "-aq"); got == "" {
		t.Error("a prune that was not wanted took a container")
	}
	list := func() string { return okOn(t, e, "images", "--format", "{{.Repository}}:{{.Tag}}") }
	before := list()
	okOn(t, e, "system", "prune", "-af")
	if okOn(t, e, "ps", "-aq")+okOn(t, e, "images", "-q") != "" {
		t.Error("the prune left something")
	}
	okOn(t, e, "undo")
	if got := list(); got != before || okOn(t, e, "ps", "-aq") == "" {
		t.Errorf("undo of a system prune brought back images %q of %q", got, before)
	}
	okOn(t, e, "rm", "first")
}

func TestImagesTree(t *testing.T) {
	e := ownEngine(t, "busybox")
	okOn(t, e, "tag", "busybox", "again")
	okOn(t, e, "create", "--name", "user", "--network", "none", "busybox")
	got := okOn(t, e, "images", "--tree")
	if ok, _ := regexp.MatchString(`(?m)^IMAGE +ID +DISK USAGE +CONTENT SIZE +EXTRA *\n`+`again:latest, busybox:latest +[0-9a-f]{12} +[0-9.]+[kM]B +[0-9.]+[kM]B +U\n`+`└─ linux/[a-z0-9]+ +[0-9a-f]{12} +[0-9.]+[kM]B +[0-9.]+[kM]B +U`, got); !ok {
		t.Errorf("the tree:\n%s", got)
	}
	failsOn(t, e, "form of its own", "images", "--tree", "-q")
	okOn(t, e, "rm", "user")
}

// TestImportFromURL: the engine fetches the archive itself, and says what went wrong if it can't.
func TestImportFromURL(t *testing.T) {
	e := ownEngine(t, "busybox")
	okOn(t, e, "create", "--name", "from", "--network", "none", "busybox")
	dir := t.TempDir()
	okOn(t, e, "export", "-o", filepath.Join(dir, "files.tar"), "from")
	okOn(t, e, "rm", "from")
	if err := os.WriteFile(filepath.Join(dir, "broken.tar"), []byte("this is no archive"), 0o644); err != nil {
		t.Fatal(err)
	}
	var l net.Listener
	if err := e.Inside(func() (err error) { l, err = net.Listen("tcp", "127.0.0.1:18090"); return err }); err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.FileServer(http.Dir(dir))}
	go server.Serve(l)
	defer server.Close()
	said := okOn(t, e, "import", "-c", "CMD [\"cat\", \"/etc/passwd\"]", "-m", "from a URL", "http://127.0.0.1:18090/files.tar", "imported:url")
	if !strings.Contains(said, "Downloading from http://127.0.0.1:18090/files.tar") || !strings.Contains(said, "sha256:") {
		t.Errorf("import said %q", said)
	}
	if got := okOn(t, e, "run", "--rm", "--network", "none", "imported:url"); !strings.HasPrefix(got, "root:") {
		t.Errorf("the image says %q", got)
	}
	if got := okOn(t, e, "history", "--format", "{{.Comment}}", "imported:url"); got != "from a URL" {
		t.Errorf("its history: %q", got)
	}
	failsOn(t, e, "404", "import", "http://127.0.0.1:18090/nosuch.tar", "imported:no")
	failsOn(t, e, "", "import", "http://127.0.0.1:18090/broken.tar", "imported:no")
	failsOn(t, e, "refused", "import", "http://127.0.0.1:18091/files.tar", "imported:no")
	failsOn(t, e, "No such image", "image", "inspect", "imported:no")
	okOn(t, e, "system", "check")
	okOn(t, e, "rmi", "imported:url", "busybox")
}

// TestCommitWarns: a commit says what it leaves out, as many have looked for their data in the image afterwards.
func TestCommitWarns(t *testing.T) {
	ok(t, "run", "--name", "warned", "--network", "none", "-v", "/anonymous", "-v", t.TempDir()+":/bound", "busybox", "true")
	r := cli(t, "commit", "warned", "warned:image")
	for _, w := range []string{"what is in /anonymous is not part of the image: it lies in a volume", "what is in /bound is not part of the image: it lies in a bind"} {
		if !strings.Contains(r.Err, "WARNING: "+w) {
			t.Errorf("no %q: %v", w, r)
		}
	}
	ok(t, "rm", "-v", "warned")
	ok(t, "rmi", "warned:image")
}
