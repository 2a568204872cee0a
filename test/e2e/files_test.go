//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gantry/test/engine"
)

// fileSessions are shell lines, run with the stock docker command line in an empty folder of their own against both engines.
// The marks of session apply: "~" compares the exit status only, "!" nothing.
var fileSessions = []session{
	{"cp into a container", []string{
		"docker run -d --name ci --network none busybox sleep 1000",
		"echo one > f; mkdir -p d/sub; echo two > d/sub/g; ln -s f l; chmod 640 f; touch -d 2020-01-02T03:04:05Z f d/sub/g d/sub d",
		"docker cp f ci:/f; docker exec ci ls -ln /f; docker exec ci cat /f",
		"docker cp f ci:/tmp; docker exec ci cat /tmp/f",
		"docker cp f ci:/tmp/; docker cp f ci:/tmp/renamed; docker exec ci ls /tmp",
		"docker cp f ci:/nosuch/; docker cp f ci:/nosuch/x; docker cp f ci:/nosuch/x/y",
		"docker cp d ci:/d1; docker exec ci find /d1",
		"docker cp d ci:/d1; docker exec ci find /d1",
		"docker cp d/. ci:/d2; docker exec ci find /d2",
		"docker cp d/. ci:/d2; docker exec ci find /d2",
		"docker cp d ci:/f; docker cp d/ ci:/tmp/dd; docker exec ci ls /tmp/dd",
		"docker cp l ci:/link; docker exec ci ls -l /link | cut -c1-10; docker cp -L l ci:/nolink; docker exec ci cat /nolink",
		"docker exec ci sh -c 'ln -s /tmp /tl; ln -s nowhere /dangling; ln -s /f /fl'",
		"docker cp f ci:/tl/viadir; docker exec ci cat /tmp/viadir",
		"docker cp f ci:/fl; docker exec ci ls -l /fl | cut -c1-1; docker exec ci cat /f",
		"docker cp f ci:/dangling; docker exec ci cat /nowhere",
		"docker cp nosuch ci:/",
		"docker cp f nosuch:/",
		"docker cp f ci:",
		"~docker cp ci: f",
		"docker cp f f2",
		"docker cp ci:/f ci:/g",
		"docker cp f ci:relative; docker exec ci cat /relative",
		"docker cp f ci:../../escape; docker exec ci cat /escape",
		"tar c f d | docker cp - ci:/home; docker exec ci find /home | sort",
		"tar c f d | docker cp - ci:/f",
		"tar c f | docker cp - ci:/nosuch",
		"~echo nonsense | docker cp - ci:/home",
		"chown 1234:5678 f; docker cp -a f ci:/own; docker cp f ci:/own2; docker exec ci ls -ln /own /own2",
		"docker rm -f ci",
	}},
	{"cp out of a container", []string{
		"docker run --name co --network none busybox sh -c 'mkdir -p /x/y; echo 1 >/x/a; echo 2 >/x/y/b; ln -s a /x/l; ln -s /x /lx; chmod 4751 /x/a; chown 12:34 /x/y/b; ln /x/a /x/hard; mkfifo /x/fifo; ln -s ../../../../etc/passwd /out; ln -s /nonexistent /x/dang; touch -d \"2021-02-03 04:05:06\" /x/a'",
		"docker cp co:/x/a .; ls -ln a | cut -c1-25; cat a; stat -c %Y a",
		"docker cp co:/x .; find x | sort; ls -ln x/y | tail -1 | cut -c1-25",
		"docker cp co:/x new; find new | sort",
		"docker cp co:/x new; find new | sort",
		"docker cp co:/x/. cont; find cont | sort",
		"docker cp co:/x/ slash; find slash | sort",
		"docker cp co:/lx lx; ls -l lx | cut -c1-1; docker cp -L co:/lx lxl; find lxl | sort",
		"docker cp co:/lx/ lxs; find lxs | sort",
		"docker cp co:/lx/. lxd; find lxd | sort",
		"docker cp co:/x/l l; readlink l; docker cp -L co:/x/l ll; cat ll",
		"docker cp -L co:/out passwd; head -1 passwd",
		"docker cp co:/x/dang dang; readlink dang; docker cp -L co:/x/dang dd",
		"docker cp co:/x/a - | tar tv --numeric-owner | tr -s ' ' | cut -d' ' -f1-4,6",
		"docker cp co:/x - | tar t | sort",
		"docker cp co:/lx/ - | tar t | sort",
		"docker cp co:/x/. - | tar t | sort",
		"docker cp co:/ - | tar t | grep -E '^(/?x/|/?etc/pass)' | sort",
		"docker cp co:/nosuch .; docker cp co:/x/nosuch/z .",
		"~docker cp co:/x/a/ .", "~docker cp co:/x/a/. .",
		"docker cp co:/x/a nodir/; docker cp co:/x/a nodir/b; docker cp co:/x/a x/y; docker cp co:/x x/a",
		"docker cp nosuch:/x .",
		"docker rm co",
		"docker cp co:/x .",
	}},
	{"cp and mounts", []string{
		"mkdir src; echo inside > src/f",
		"docker create --name cm --network none -v $PWD/src:/m -v $PWD/src:/ro:ro busybox sleep 1000",
		"docker cp cm:/m/f got; cat got",
		"echo new > n; docker cp n cm:/m/n; cat src/n; docker cp n cm:/ro/n; docker cp n cm:/ro",
		"docker start cm",
		"docker cp cm:/m/n got2; cat got2; docker cp n cm:/m/n2; cat src/n2; docker cp n cm:/ro/n",
		"docker rm -f cm",
		"docker create --name cr --network none --read-only busybox true",
		"docker cp n cr:/n; docker cp n cr:/tmp; docker cp cr:/etc/passwd p; head -1 p",
		"docker rm cr",
	}},
	{"diff", []string{
		"docker create --name d0 --network none busybox true; docker diff d0; docker start -a d0; docker diff d0; docker rm d0",
		"docker run --name d1 --network none busybox sh -c 'echo x >/etc/new; rm /etc/group; echo y >>/etc/passwd; mkdir /a /a/b; rm -r /home; mkdir /opt; touch /opt/x; chmod 700 /root'",
		"docker diff d1 | sort",
		"docker cp d1:/etc/passwd .; docker cp passwd d1:/var/p; docker diff d1 | sort",
		"docker diff nosuch",
		"docker rm d1",
		"docker run --name d2 --network none debian sh -c 'rm -r /etc/apt; mkdir /etc/apt; echo 1 > /etc/apt/one; rm -r /var/cache; mv /etc/skel /etc/skel2 2>/dev/null || cp -r /etc/skel /etc/skel3; ln /etc/hostname-x /y 2>/dev/null; touch /usr/bin; true'",
		"docker diff d2 | sort",
		"docker rm d2",
	}},
	{"commit", []string{
		"docker run --name c1 --network none -e A=1 -l l=1 busybox sh -c 'echo tool >/bin/tool; chmod 755 /bin/tool; rm /etc/group; mkdir -p /deep/er; chown 5:6 /deep/er'",
		"docker commit -q nosuch",
		"docker commit -m 'a message' -a 'An Author <a@b>' c1 com:1 | cut -c1-7",
		"docker run --rm --network none com:1 sh -c 'cat /bin/tool; ls /etc | grep -v mtab; ls -lnd /deep/er | cut -c1-30'",
		"docker inspect -f '{{json .Config.Cmd}} {{json .Config.Env}} {{json .Config.Labels}} {{.Author}} {{.Comment}} {{len .RootFS.Layers}} {{.Os}} {{.Architecture}}' com:1",
		"docker history --format '{{.CreatedBy}}|{{.Comment}}|{{.Size}}' com:1",
		`docker commit -c 'CMD ["echo","changed"]' -c 'ENV B=2 C="x y"' -c 'EXPOSE 80 53/udp' -c 'WORKDIR /deep' -c 'USER 1000' -c 'LABEL k=v' -c 'VOLUME /data' -c 'ENTRYPOINT ["sh","-c"]' -c 'ONBUILD RUN true' c1 com:2 | cut -c1-7`,
		"docker inspect -f '{{json .Config.Cmd}} {{json .Config.Env}} {{json .Config.ExposedPorts}} {{.Config.WorkingDir}} {{.Config.User}} {{json .Config.Labels}} {{json .Config.Volumes}} {{.Config.StopSignal}} {{json .Config.Entrypoint}} {{json .Config.OnBuild}}' com:2",
		"docker commit -c 'CMD echo shell form' c1 com:3 | cut -c1-7; docker run --rm --network none com:3",
		"docker commit -c 'FROM x' c1 com:4",
		"docker commit -c 'NOSUCH x' c1 com:4",
		"docker commit c1 'Bad:Name:x'",
		"docker commit c1 Bad",
		"docker rm c1",
		"docker run --name c2 --network none com:1 sh -c 'rm -r /deep; mkdir /deep; echo 2 > /deep/two'",
		"docker commit c2 com:5 | cut -c1-7; docker run --rm --network none com:5 find /deep; docker rm c2",
		"docker run -d --name c3 --network none busybox sh -c 'echo running > /r; sleep 1000'; until [ \"$(docker exec c3 cat /r 2>/dev/null)\" = running ]; do :; done",
		"docker commit -p=false c3 com:6 | cut -c1-7; docker commit c3 com:7 | cut -c1-7; docker inspect -f '{{.State.Status}}' c3; docker run --rm --network none com:7 cat /r",
		"docker rm -f c3",
		"docker create --name c4 --network none busybox true; docker commit c4 com:8 | cut -c1-7; docker inspect -f '{{len .RootFS.Layers}}' com:8; docker rm c4",
		"docker rmi com:1 com:2 com:3 com:5 com:6 com:7 com:8 | sed 's/sha256:.*//' | sort | uniq",
	}},
	{"export and import", []string{
		"docker run --name e1 --network none busybox sh -c 'echo x >/x; ln /x /y; ln -s x /z; chmod 4755 /x; chown 3:4 /root'",
		"docker export e1 > e.tar; tar tvf e.tar --numeric-owner | grep -vE ' (bin|dev|proc|sys|usr|sbin)/|dockerenv|etc/(hosts|hostname|resolv|mtab)' | tr -s ' ' | cut -d' ' -f1-3,6- | sort",
		"docker export -o e2.tar e1; cmp e.tar e2.tar && echo same",
		"docker export nosuch",
		"docker import e.tar imp:1 | cut -c1-7; docker run --rm --network none imp:1 sh -c 'ls -ln /x /y | tr -s \" \" | cut -d\" \" -f1-5; cat /z'",
		"docker inspect -f '{{json .Config.Cmd}} {{.Comment}} {{len .RootFS.Layers}}' imp:1",
		"docker import -m 'from a file' -c 'CMD [\"cat\",\"/x\"]' -c 'ENV Q=1' e.tar imp:2 | cut -c1-7; docker run --rm --network none imp:2",
		"docker inspect -f '{{.Comment}} {{json .Config.Env}}' imp:2",
		"gzip -k e.tar; docker import e.tar.gz imp:3 | cut -c1-7; docker run --rm --network none imp:3 cat /x",
		"cat e.tar | docker import - imp:4 | cut -c1-7; docker history --format '{{.CreatedBy}}|{{.Comment}}' imp:4",
		"docker import e.tar | cut -c1-7",
		"docker import nosuch.tar imp:5",
		"docker import -c 'BAD x' e.tar imp:5",
		"docker import e.tar 'Bad Name'",
		"~echo nonsense | docker import - imp:6",
		"docker rm e1",
		"docker rmi imp:1 imp:2 imp:3 imp:4 | sed 's/sha256:.*//' | sort | uniq",
		"docker image prune -f | grep -c deleted | sed 's/[1-9].*/some/'",
	}},
	{"save and load", []string{
		"docker tag busybox sv:1; docker tag busybox sv:2",
		"docker save sv:1 > s.tar; docker save -o s2.tar sv:1; tar xOf s.tar manifest.json | tr ',' '\\n' | grep sv",
		"docker save nosuch; docker save sv:1 nosuch > /dev/null",
		"docker rmi sv:1 sv:2; docker load -q -i s.tar; docker images --format '{{.Repository}}:{{.Tag}}' sv",
		"docker tag sv:1 sv:2; docker save sv > s3.tar; docker rmi sv:1 sv:2; docker load -i s3.tar | sort; docker run --rm --network none sv:2 echo ran",
		"docker rmi sv:1 sv:2",
		"docker history nosuch",
	}},
	{"top and df", []string{
		"docker run -d --name t1 --network none busybox sleep 1000; until docker top t1 | grep ' sleep 1000' >/dev/null; do :; done; docker top t1 | tr -s ' ' | sed 's/ [0-9][0-9]* [0-9][0-9]* [0-9][0-9]* / PIDS /; s/ [0-9][0-9]:[0-9][0-9] / TIME /g; s/ [A-Z][a-z][a-z][0-9][0-9] / TIME /; s/[0-9][0-9]:[0-9]*:[0-9]* /TIME /'",
		"docker top t1 -o pid,args | sed 's/^[0-9]*/PID/' | tr -s ' '; docker top t1 -o args; docker top nosuch",
		"sleep 1.1; docker events --since 5m --until 0s --filter container=t1 --filter event=top --format '{{.Action}}' | sort -u",
		"docker rm -f t1; docker top t1",
		"docker create --name t2 --network none busybox; docker top t2; docker rm t2",
		"docker system df --format '{{.Type}} {{.TotalCount}}' | grep -v -e Images -e Containers -e Build",
		"docker system df | head -1 | tr -s ' '; docker system df -v | grep usage | grep -v Build",
	}},
	{"pause, rename, prune", []string{
		"!docker container prune -f", // of other tests
		"docker run -d --name p1 --network none busybox sleep 1000",
		"docker pause p1; docker pause p1; docker inspect -f '{{.State.Status}} {{.State.Paused}} {{.State.Running}}' p1; docker start p1; docker rm p1",
		"docker unpause p1; docker unpause p1; docker pause nosuch; docker unpause nosuch",
		"docker pause p1; docker stop -t 1 p1; docker inspect -f '{{.State.Status}} {{.State.ExitCode}}' p1; docker pause p1",
		"docker start p1; docker pause p1; docker kill p1; docker inspect -f '{{.State.Status}}' p1",
		"docker rename p1 p2; docker inspect -f '{{.Name}}' p2; docker rename p1 p3; docker rename p2 p2; docker rename p2 'bad name'; docker create --name p4 --network none busybox; docker rename p2 p4",
		"docker run --name p1 --network none busybox true",
		"docker rm p1 p2 p4",
		"docker create --name q1 --network none --label keep=1 busybox; docker create --name q2 --network none --label a=b busybox",
		"docker container prune -f --filter label=a=b | grep -v reclaimed; docker ps -aq --filter name=q2",
		"docker container prune -f --filter label!=keep | grep -v reclaimed; docker ps -a --filter name=q1 --format '{{.Names}}'",
		"docker container prune -f --filter nosuch=1",
		"docker container prune -f --filter until=nonsense",
		"docker rm q1",
	}},
}

// fileMask takes away besides what differs from run to run: the client's own log of a copy that it gave up.
func fileMask(s string) string {
	s = regexp.MustCompile(`(?m)^time="[^"]*" level=error msg="Can't (add file|close tar writer).*\n`).ReplaceAllString(mask(s), "")
	return strings.ReplaceAll(s, "Invalid filter", "invalid filter")
}

// newerWords reports errors that the stock client of 2022 words by itself, and today's otherwise.
func newerWords(err string) bool {
	for _, s := range []string{"No such container:path", "Error: No such image: ", "invalid reference format", "No such network", "No such volume", "No public port", "No such container: ", "strconv.ParseUint", "Invalid ", "See 'docker "} {
		if strings.Contains(err, s) {
			return true
		}
	}
	return false
}

// TestFilesDifferential holds what moves files in and out of containers and images against a real dockerd: first with the
// stock command line, then with Gantry's own.
func TestFilesDifferential(t *testing.T) {
	shellDifferential(t, fileSessions, gantry, oracle(t), fileMask)
}

// everything is a script that makes what is hard to keep: links, devices, holes, odd names, deleted and replaced directories.
const everything = `set -e
mkdir -p /keep/dir; echo a >/keep/a; ln /keep/a /keep/hard; ln -s a /keep/soft; mkfifo /keep/fifo; mknod /keep/null c 1 3
chmod 4751 /keep/a; chown 123:456 /keep/dir; dd if=/dev/zero of=/keep/hole bs=1 count=1 seek=10000000 2>/dev/null
echo x >"/keep/$(printf 'bad\377name')"; echo y >/keep/$(printf '%0200d' 7)
rm -r /etc/skel /var/cache; mkdir /etc/skel; echo new >/etc/skel/new; rm /etc/debian_version
touch -d 2001-02-03T04:05:06Z /keep/a`

// look prints what everything made.
const look = `cd /; { ls -lnR --time-style=+%s keep | grep -v ^total; stat -c '%n %h %s %t:%T' keep/* ; md5sum keep/a keep/hole; ls -a etc/skel; ls var etc/debian_version; } 2>&1; true`

// TestImagesTravel: an image that Gantry commits and saves is loaded and run by a real Docker, under the same ID, and the
// other way round.
func TestImagesTravel(t *testing.T) {
	docker := oracle(t)
	run := func(e *engine.Engine, args ...string) string {
		t.Helper()
		r := must(t, e.StockCLI(args...))
		if r.Code != 0 {
			t.Fatal(r)
		}
		return r.Out
	}
	dir := t.TempDir()
	for _, way := range []struct{ from, to *engine.Engine }{{gantry, docker}, {docker, gantry}} {
		name := "travel-" + way.from.Name
		run(way.from, "run", "--name", name, "--network", "none", "--cap-add", "MKNOD", "debian", "sh", "-c", everything)
		run(way.from, "commit", "-c", "ENV T=1", name, name)
		want := run(way.from, "run", "--rm", "--network", "none", name, "sh", "-c", look)
		run(way.from, "rm", name)
		file, again := filepath.Join(dir, name+".tar"), filepath.Join(dir, name+"-again.tar")
		run(way.from, "save", "-o", file, name)
		id := run(way.from, "inspect", "-f", "{{.Id}} {{json .RootFS.Layers}}", name)
		if way.from == gantry {
			run(way.from, "save", "-o", again, name)
			a, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(again)
			if err != nil || string(a) != string(b) {
				t.Errorf("saved twice, the archives differ (%v)", err)
			}
			skopeo(t, file, dir)
		}
		run(way.to, "load", "-i", file)
		if got := run(way.to, "inspect", "-f", "{{.Id}} {{json .RootFS.Layers}}", name); got != id {
			t.Errorf("from %s to %s: the image is another: %s, was %s", way.from.Name, way.to.Name, got, id)
		}
		if got := run(way.to, "run", "--rm", "--network", "none", name, "sh", "-c", look); got != want {
			t.Errorf("from %s to %s:\n%s\nwas\n%s", way.from.Name, way.to.Name, got, want)
		}
		run(way.from, "rmi", name)
		run(way.to, "rmi", name)
	}
}

// skopeo reads the archive both as a layout and as a docker-archive.
func skopeo(t *testing.T, file, dir string) {
	t.Helper()
	program, err := exec.LookPath("skopeo")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Log("skopeo is not here")
		return
	}
	for _, kind := range []string{"oci-archive:", "docker-archive:"} {
		if r := must(t, exec.Command(program, "inspect", "--config", kind+file)); r.Code != 0 || !strings.Contains(r.Out, `"T=1"`) {
			t.Error(r)
		}
		if r := must(t, exec.Command(program, "--insecure-policy", "copy", kind+file, "dir:"+filepath.Join(dir, "copy"))); r.Code != 0 {
			t.Error(r)
		}
	}
}
