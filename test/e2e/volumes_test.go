//go:build e2e

package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gantry/test/engine"
)

// volumeSessions are shell lines for shellDifferential.
var volumeSessions = []session{
	{"volumes by name", []string{
		"!docker container prune -f; docker volume prune -f", // of other tests
		"docker volume create v1", "docker volume create v1", "docker volume ls --format '{{.Driver}} {{.Name}} {{.Scope}}'",
		"docker volume create --label a=1 --label b -d local v2",
		"docker volume inspect -f '{{.Name}} {{.Driver}} {{.Scope}} {{len .Labels}}' v1 v2",
		"docker volume ls -q", "docker volume ls -q -f label=a", "docker volume ls -q -f label=a=2", "docker volume ls -q -f name=1",
		"docker volume ls -q -f driver=local", "docker volume ls -q -f driver=other", "~docker volume ls -f nosuch=1", "~docker volume ls -f dangling=maybe",
		"docker volume create -d nosuch v3",
		"docker volume create x", "docker volume create 'bad name'", "docker volume create /abs",
		"~docker volume create -o nosuch=1 v3", "~docker volume create -o type=tmpfs v3", "~docker volume create -o o=bind v3", "docker volume create -o size=nonsense v3",
		"docker volume inspect nosuch", "docker volume rm nosuch", "docker volume rm -f nosuch", "docker inspect nosuch", "docker inspect -f '{{.Name}}' --type volume v1",
		"docker volume rm v1 nosuch v2",
		"docker volume ls -q",
	}},
	{"volumes in containers", []string{
		"!docker volume prune -f",
		"docker run --rm --network none -v data:/data busybox sh -c 'echo kept >/data/f; ls -ldn /data | cut -c1-20'",
		"docker run --rm --network none -v data:/data:ro busybox sh -c 'cat /data/f; touch /data/g; mount | grep \" /data \" | sed \"s/.*(//; s/,.*//\"'",
		"docker run --rm --network none --mount type=volume,src=data,dst=/m,readonly busybox sh -c 'cat /m/f; touch /m/g'",
		"docker run --name c1 --network none -v data:/data -v /anon busybox sh -c 'echo a >/anon/a'",
		"docker inspect -f '{{range .Mounts}}{{.Type}} {{.Destination}} {{.Driver}} {{.Mode}} {{.RW}} {{.Propagation}};{{end}}' c1 | tr ';' '\\n' | sort",
		"docker inspect -f '{{json .HostConfig.Binds}} {{json .Config.Volumes}}' c1",
		"docker volume rm data", "docker volume rm -f data",
		"docker volume ls -q -f dangling=true", "docker volume ls -q -f dangling=false | grep data",
		"docker ps -a --filter volume=data --format '{{.Names}}'", "docker ps -a --filter volume=/anon --format '{{.Names}}'", "docker ps -a --filter volume=nosuch",
		"docker ps -a --filter name=c1 --format '{{.LocalVolumes}}'",
		"docker run --rm --network none --volumes-from c1 busybox cat /anon/a /data/f",
		"docker run --rm --network none --volumes-from c1:ro busybox sh -c 'touch /anon/b; touch /data/b'",
		"docker run --name c2 --network none --volumes-from c1 busybox true",
		"docker rm -v c1; docker volume ls -q | wc -l",
		"docker run --rm --network none --volumes-from c2 busybox cat /anon/a /data/f; docker volume ls -q | wc -l",
		"docker rm -v c2; docker volume ls -q",
		"docker run --rm --network none -v /anon busybox true; docker volume ls -q",
		"docker run --name c3 --network none -v /anon busybox true; docker rm c3; docker volume ls -q | wc -l",
		"!docker volume prune -f", // what goes depends on the version of the API
		"docker volume rm data >/dev/null 2>&1; docker volume ls -q",
		"docker run --rm --network none --volumes-from nosuch busybox true", "docker run --rm --network none --volumes-from c1:xx busybox true",
		"docker volume ls -q",
	}},
	{"content of the image", []string{
		"docker create --name mk --network none busybox true; mkdir -p t/sub; echo f >t/f; echo g >t/sub/g; ln -s f t/l; ln t/f t/hard; chmod 4750 t/sub/g; chown -R 12:34 t; chmod 1771 t; mkfifo t/p",
		"docker cp -a t mk:/tree; docker commit -c 'VOLUME /tree' -c 'VOLUME [\"/new\", \"/etc\"]' mk vimg | cut -c1-7; docker rm mk",
		"docker run --rm --network none vimg sh -c 'ls -lnR /tree | tr -s \" \" | cut -d\" \" -f1-4; ls -dln /tree /new /etc | cut -c1-20; cat /etc/passwd | head -1'",
		"docker run --rm --network none -v full:/tree vimg true; docker run --rm --network none -v full:/x busybox sh -c 'ls -ln /x | tr -s \" \" | cut -d\" \" -f1-4; cat /x/hard'",
		"docker run --rm --network none -v full:/etc vimg ls /etc",
		"docker run --rm --network none -v bare:/tree:nocopy vimg ls /tree", "docker run --rm --network none --mount type=volume,src=bare2,dst=/tree,volume-nocopy vimg ls /tree",
		"docker run --rm --network none -v sub:/tree/sub vimg ls /tree/sub",
		"~docker run --rm --network none -v link:/tree/l vimg true", "~docker run --rm --network none -v /tree/f vimg true", // Docker names its own folders
		"docker run --rm --network none --tmpfs /tree vimg ls /tree",
		"docker run --name vc --network none vimg true; docker inspect -f '{{range .Mounts}}{{.Destination}} {{.Type}} {{len .Name}};{{end}}' vc | tr ';' '\\n' | sort; docker cp vc:/tree/f out; cat out; docker rm -v vc",
		"docker volume ls -q | sort",
		"docker volume rm full bare bare2 sub; docker volume rm link; docker rmi vimg | sed 's/sha256:.*//' | uniq",
	}},
	{"what is refused", []string{
		"docker run --rm --network none -v x busybox true", "docker run --rm --network none -v vv:x busybox true", "docker run --rm --network none -v vv:/ busybox true",
		"docker run --rm --network none -v v1:/x:bad busybox true", "docker run --rm --network none -v v1:/x:ro,rw busybox true", "docker run --rm --network none -v /h:/x:nocopy busybox true",
		"docker run --rm --network none -v 'b@d:/x' busybox true", "docker run --rm --network none -v v1:/x -v v2:/x busybox true",
		"docker run --rm --network none -v $PWD/made:/x busybox true; ls -d made",
		"docker run --rm --network none --mount type=bind,src=$PWD/notmade,dst=/x busybox true; ls -d notmade 2>/dev/null",
		"docker run --rm --network none --mount type=volume,dst=/x,readonly busybox true", "docker run --rm --network none --mount type=nosuch,dst=/x busybox true",
		"docker run --rm --network none --mount type=volume,src=v1 busybox true", "docker run --rm --network none --mount type=tmpfs,src=x,dst=/x busybox true",
		"docker run --rm --network none --mount type=bind,src=$PWD,dst=/x,volume-nocopy busybox true", "docker run --rm --network none --mount type=bind,src=$PWD,dst=/x,bind-propagation=nosuch busybox true",
		"~docker run --rm --network none --volume-driver nosuch -v v1:/x busybox true",
		"!docker volume rm v1", // Docker makes it for a container that it then refuses
	}},
	{"driver options and tmpfs", []string{
		"mkdir host; echo on host >host/f; docker volume create -o type=none -o o=bind -o device=$PWD/host bv; docker run --rm --network none -v bv:/x busybox sh -c 'cat /x/f; echo 2 >/x/g'; cat host/g",
		"docker volume inspect -f '{{.Options.type}} {{.Options.o}}' bv",
		"docker volume create -o type=tmpfs -o device=tmpfs -o o=size=1m,uid=12 tv; docker run --rm --network none -v tv:/x busybox sh -c 'ls -ldn /x | cut -c1-20; df -k /x | tail -1 | tr -s \" \" | cut -d\" \" -f2'",
		"docker run -d --name t1 --network none -v tv:/x busybox sh -c 'echo shared >/x/s; sleep 1000' >/dev/null; until docker exec t1 grep shared /x/s 2>/dev/null; do :; done; docker run --rm --network none -v tv:/y busybox cat /y/s; docker rm -f t1; docker run --rm --network none -v tv:/y busybox ls /y",
		"docker run --rm --network none --mount type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=700 busybox sh -c 'stat -c %a /t; df -k /t | tail -1 | tr -s \" \" | cut -d\" \" -f2'",
		"docker run --rm --network none --mount type=volume,src=labelled,dst=/x,volume-label=k=v,volume-driver=local,volume-opt=type=tmpfs,volume-opt=device=tmpfs busybox sh -c 'mount | grep \" /x \" | cut -d\" \" -f1'; docker volume inspect -f '{{json .Labels}} {{json .Options}}' labelled",
		"docker create --name cb --network none -v bv:/x busybox true | wc -c; echo 3 >three; docker cp three cb:/x/three; cat host/three; docker rm cb",
		"docker volume create -o type=none -o o=bind -o device=$PWD/gone gv; docker run --rm --network none -v gv:/x:nocopy busybox true 2>&1 | grep -o 'error while.*' | sed 's/[.]$//'",
		"docker volume rm bv tv labelled gv",
	}},
	{"content of the image in a bound folder", []string{
		"mkdir hb; docker volume create -o type=none -o o=bind -o device=$PWD/hb hv; docker run --rm --network none -v hv:/etc busybox true; ls -A hb | grep -v mtab | sort; docker run --rm --network none -v hv:/etc:ro busybox head -1 /etc/passwd",
		"~docker run --rm --network none -v hv:/bin busybox ls /bin; ls -A hb | sort",
		"mkdir hn; docker volume create -o type=none -o o=bind -o device=$PWD/hn hnv; docker run --rm --network none -v hnv:/etc:nocopy busybox ls -A /etc; ls -A hn | sort",
		"docker volume rm hv hnv; ls hb/passwd",
	}},
	{"file systems of their own", []string{
		"truncate -s 8M img; /sbin/mkfs.ext4 -q img; losetup -f --show img >dev; docker volume create -o type=ext4 -o device=$(cat dev) fsv; docker volume create -o type=ext4 -o o=noexec,noatime -o device=$(cat dev) fso; docker volume create -o type=ext4 -o o=ro -o device=$(cat dev) fsr",
		"docker run --rm --network none -v fsv:/x:nocopy busybox sh -c 'echo on the device >/x/f; mount | grep \" /x \" | cut -d\" \" -f5; ls /x'",
		"docker run --rm --network none -v fso:/y:nocopy busybox sh -c 'cat /y/f; cp /bin/busybox /y/b; /y/b true; mount | grep \" /y \" | grep -o noexec'",
		"docker run --rm --network none --mount type=volume,src=fsv,dst=/x,volume-nocopy,readonly busybox sh -c 'cat /x/f; touch /x/g'",
		"docker create --name cd --network none -v fsv:/x:nocopy busybox cat /x/g | cut -c1-3 | tr -d 0-9a-f; echo by cp >g; docker cp g cd:/x/g; docker cp cd:/x/f out; cat out; docker start -a cd; docker rm cd",
		"losetup -d $(cat dev); mkdir rd; echo on the device >rd/f; truncate -s 8M img2; /sbin/mkfs.ext4 -q -d rd img2; losetup -r -f --show img2 >dev2; docker volume create -o type=ext4 -o o=ro -o device=$(cat dev2) fsr2; docker run --rm --network none -v fsr2:/x:nocopy busybox sh -c 'cat /x/f; touch /x/g'; losetup -d $(cat dev2)",
		"docker volume create -o type=ext4 -o device=/dev/nosuch bad1; docker run --rm --network none -v bad1:/x:nocopy busybox true 2>&1 | grep -o 'error while.*' | sed 's/[.]$//'",
		"docker volume create -o type=nosuchfs -o o=ro,noexec,a=b -o device=what bad2; docker run --rm --network none -v bad2:/x:nocopy busybox true 2>&1 | grep -o 'error while.*' | sed 's/[.]$//'",
		"docker volume create -o type=tmpfs -o device=tmpfs -o o=nosuchoption=1 bad3; docker run --rm --network none -v bad3:/x:nocopy busybox true 2>&1 | grep -o 'error while.*' | sed 's/[.]$//'",
		"docker volume create -o type=nfs -o device=:/export -o o=addr=nosuch.invalid,nolock bad4; docker run --rm --network none -v bad4:/x:nocopy busybox true 2>&1 | grep -o 'error while.*' | sed 's/[.]$//'",
		"docker volume create -o type=nfs -o device=:/export -o o=addr=127.0.0.1,nolock,soft,timeo=1,retrans=1,vers=3 bad5; docker run --rm --network none -v bad5:/x:nocopy busybox true 2>&1 | grep -o 'error while.*' | sed 's/[.]$//'",
		"docker volume rm fsv fso fsr fsr2 bad1 bad2 bad3 bad4 bad5",
	}},
	{"labels for SELinux", []string{
		"docker run --rm --network none -v $PWD:/x:z busybox true; docker create --name cz --network none -v $PWD:/x:ro,Z -v zv:/y:Z busybox >/dev/null; docker inspect -f '{{range .Mounts}}{{.Type}} {{.Mode}} {{.RW}};{{end}}' cz | tr ';' '\n' | sort; docker rm -v cz; docker volume rm zv",
		"docker run --rm --network none -v $PWD:/x:z,Z busybox true",
	}},
}

func volumeMask(s string) string {
	s = mask(s)
	for _, m := range []struct{ re, to string }{
		{`/var/tmp/[^ "]*?/data/volumes`, "<volumes>"},
		{`/dev/loop[0-9]+`, "/dev/loopN"},
		{`lookup nosuch.invalid.*`, "lookup nosuch.invalid"}, // whom the resolver asked
		{`(?m)^Total reclaimed space:.*`, "Total reclaimed space"},
		{`WARNING! This will remove .*\n`, ""},
	} {
		s = regexp.MustCompile(m.re).ReplaceAllString(s, m.to)
	}
	return s
}

// TestVolumesDifferential holds volumes and mounts against a real dockerd.
func TestVolumesDifferential(t *testing.T) {
	shellDifferential(t, volumeSessions, ownEngine(t, "busybox"), oracle(t), volumeMask)
}

// fails runs Gantry's command line against e, which must end with an error that holds want.
func fails(t *testing.T, e *engine.Engine, want string, args ...string) {
	t.Helper()
	if r := must(t, e.CLI(args...)); r.Code == 0 || !strings.Contains(r.Err, want) {
		t.Errorf("want %q: %v", want, r)
	}
}

func equal(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n%s\nwant:\n%s", what, got, want)
	}
}

// TestVolumesBeyondDocker is what Docker's volumes can't do, by the command line.
func TestVolumesBeyondDocker(t *testing.T) {
	e := ownEngine(t, "busybox", "debian")
	in := func(args ...string) string { t.Helper(); return okOn(t, e, args...) }
	sh := func(volume, script string) string {
		t.Helper()
		return in("run", "--rm", "--network", "none", "-v", volume+":/v", "debian", "sh", "-c", "cd /v; "+script)
	}
	const list = "find . ! -name . | sort | xargs ls -lnd --time-style=+%s; cat a"
	sh("data", "echo one >a; ln a hard; mkdir -p d/e; chown 12:34 d; chmod 2750 d; mkfifo d/p; ln -s /etc/passwd l; truncate -s 1000000 hole; touch -d @1000000000 a; chmod 1777 .")
	before := sh("data", list+"; stat -c %a .")

	r := must(t, e.CLI("volume", "clone", "data", "copy"))
	if r.Code != 0 || !strings.Contains(r.Err, "copied: the file system cannot share blocks") && !strings.Contains(r.Err, "sharing") {
		t.Error(r)
	}
	equal(t, "clone", sh("copy", list+"; stat -c %a ."), before)
	fails(t, e, "there is a volume copy already", "volume", "clone", "data", "copy")
	fails(t, e, "get nosuch: no such volume", "volume", "clone", "nosuch", "copy2")

	in("volume", "snapshot", "create", "data", "first")
	sh("data", "echo two >a; rm -r d; echo new >n")
	in("volume", "snapshot", "create", "data", "second")
	equal(t, "snapshots", in("volume", "snapshot", "ls", "-q", "data"), "first\nsecond")
	fails(t, e, "has a snapshot first already", "volume", "snapshot", "create", "data", "first")
	in("run", "-d", "--name", "user", "--network", "none", "-v", "data:/v", "busybox", "sleep", "1000")
	fails(t, e, "volume is mounted in running containers", "volume", "snapshot", "restore", "data", "first")
	if r := must(t, e.CLI("volume", "clone", "data", "live")); r.Code != 0 || !strings.Contains(r.Err, "WARNING: containers had data mounted meanwhile") {
		t.Error(r)
	}
	in("stop", "-t", "0", "user")
	in("volume", "snapshot", "restore", "data", "first")
	equal(t, "restored", sh("data", list+"; stat -c %a ."), before)
	in("start", "user")
	equal(t, "a container of before sees it", in("exec", "user", "cat", "/v/a"), "one")
	in("rm", "-f", "user")
	in("volume", "snapshot", "restore", "data", "second")
	equal(t, "restored again", sh("data", "cat a n"), "two\nnew")
	in("volume", "snapshot", "rm", "data", "second")
	fails(t, e, "has no snapshot second", "volume", "snapshot", "restore", "data", "second")

	file := filepath.Join(t.TempDir(), "v.tar")
	in("volume", "export", "-o", file, "copy")
	in("volume", "import", "imported", file)
	equal(t, "exported and imported", sh("imported", list+"; stat -c %a ."), before)
	if r := must(t, exec.Command("gzip", file)); r.Code != 0 {
		t.Fatal(r)
	}
	in("volume", "create", "empty")
	in("volume", "import", "empty", file+".gz")
	equal(t, "compressed, into an empty volume", sh("empty", list+"; stat -c %a ."), before)
	fails(t, e, "volume empty is not empty", "volume", "import", "empty", file+".gz")
	fails(t, e, "archive", "volume", "import", "broken", "/etc/passwd")
	fails(t, e, "no such volume", "volume", "inspect", "broken")

	in("volume", "rm", "imported")
	fails(t, e, "no such volume", "volume", "inspect", "imported")
	in("undo", "imported")
	equal(t, "removed and brought back", sh("imported", list+"; stat -c %a ."), before)
	in("volume", "rm", "data")
	in("volume", "create", "data")
	fails(t, e, "there is one of that name", "undo", "data")
	in("undo", "--as", "back", "data")
	equal(t, "under another name, with its snapshots", in("volume", "snapshot", "ls", "-q", "back"), "first")
	in("run", "--name", "with", "--network", "none", "-v", "/anon", "busybox", "sh", "-c", "echo x >/anon/x")
	in("rm", "-v", "with")
	in("undo", "with")
	in("cp", "with:/anon/x", filepath.Join(t.TempDir(), "x"))
	in("rm", "-v", "--now", "with")

	in("volume", "create", "--protect", "safe")
	fails(t, e, "volume safe is protected", "volume", "rm", "-f", "safe")
	in("volume", "prune", "-a", "-f")
	equal(t, "after a prune", in("volume", "ls", "-q"), "safe")
	in("volume", "update", "--protect=false", "safe")
	in("volume", "rm", "safe")
	fails(t, e, "no such volume", "volume", "update", "safe")
}

// TestMountKinds is what the stock command line of 2022 cannot say: parts of volumes, images as mounts, mapped owners.
func TestMountKinds(t *testing.T) {
	e := ownEngine(t, "busybox", "debian")
	in := func(args ...string) string { t.Helper(); return okOn(t, e, args...) }
	run := func(args ...string) string {
		t.Helper()
		return in(append([]string{"run", "--rm", "--network", "none"}, args...)...)
	}
	run("-v", "parts:/v", "busybox", "sh", "-c", "mkdir -p /v/a/b; echo deep >/v/a/b/f; ln -s /etc /v/out; ln -s a /v/in")
	equal(t, "a part of a volume", run("--mount", "type=volume,src=parts,dst=/p,volume-subpath=a/b", "busybox", "cat", "/p/f"), "deep")
	equal(t, "a file of a volume", run("--mount", "type=volume,src=parts,dst=/p,volume-subpath=in/b/f,readonly", "busybox", "cat", "/p"), "deep")
	fails(t, e, "no such file", "run", "--rm", "--network", "none", "--mount", "type=volume,src=parts,dst=/p,volume-subpath=out", "busybox", "true") // not the host's /etc
	fails(t, e, "subpath must be a relative path within the volume", "run", "--rm", "--mount", "type=volume,src=parts,dst=/p,volume-subpath=../x", "busybox", "true")

	equal(t, "an image", run("--mount", "type=image,src=debian,dst=/i", "busybox", "sh", "-c", "head -1 /i/etc/os-release; touch /i/x 2>&1; true"), run("debian", "head", "-1", "/etc/os-release")+"\ntouch: /i/x: Read-only file system")
	equal(t, "a part of an image", run("--mount", "type=image,src=busybox,dst=/i,image-subpath=etc/group", "debian", "head", "-1", "/i"), run("busybox", "head", "-1", "/etc/group"))
	in("create", "--name", "holder", "--network", "none", "--mount", "type=image,src=busybox,dst=/i", "debian", "true")
	fails(t, e, "is using", "rmi", "busybox")
	in("rm", "holder")

	dir := t.TempDir()
	if err := errors.Join(os.Chown(dir, 1234, 5678), os.WriteFile(filepath.Join(dir, "mine"), nil, 0o600), os.Chown(filepath.Join(dir, "mine"), 1234, 5678)); err != nil {
		t.Fatal(err)
	}
	owner := func(name string) string {
		t.Helper()
		return strings.TrimSpace(must(t, exec.Command("stat", "-c", "%u:%g", filepath.Join(dir, name))).Out)
	}
	for _, c := range []struct{ user, mode, name, inside string }{
		{"", "map", "asroot", "0:0"}, {"1000:1000", "map", "asuser", "1000:1000"}, {"nobody", "map", "byname", "65534:65534"},
		{"77:88", "map=77:88", "given", "77:88"}, {"1234:5678", "map", "same", "1234:5678"},
	} {
		args := []string{"-v", dir + ":/app:" + c.mode, "-w", "/app"}
		if c.user != "" {
			args = append(args, "-u", c.user)
		}
		equal(t, "inside, as "+c.user, run(append(args, "debian", "sh", "-c", "stat -c %u:%g mine && touch "+c.name+" && stat -c %u:%g "+c.name)...), c.inside+"\n"+c.inside)
		equal(t, "on the host, by "+c.user, owner(c.name), "1234:5678")
	}
	fails(t, e, "owners cannot be mapped on its file system, sysfs", "run", "--rm", "--network", "none", "-u", "5", "-v", "/sys/kernel:/app:map", "busybox", "true")
	if r := must(t, e.CLI("run", "--rm", "--network", "none", "-v", dir+":/app:map=x", "busybox", "true")); r.Code != 125 {
		t.Error(r)
	}
	in("volume", "rm", "parts")
}

// TestVolumesOutliveTheDaemon: content comes into a volume that a running container has; what is mounted follows a restart
// of the engine.
func TestVolumesOutliveTheDaemon(t *testing.T) {
	e := ownEngine(t, "busybox")
	in := func(args ...string) string { t.Helper(); return okOn(t, e, args...) }
	in("run", "-d", "--name", "first", "--network", "none", "-v", "shared:/v", "-v", "/anon", "busybox", "sleep", "1000")
	in("run", "--rm", "--network", "none", "-v", "shared:/etc", "busybox", "true")
	if got := in("exec", "first", "cat", "/v/group"); got == "" {
		t.Error("the content of the image did not come into the volume that the first container has")
	}
	e.Kill()
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	fails(t, e, "volume is in use", "volume", "rm", "shared")
	in("volume", "snapshot", "create", "shared", "one")
	fails(t, e, "volume is mounted in running containers", "volume", "snapshot", "restore", "shared", "one")
	equal(t, "dangling", in("volume", "ls", "-q", "-f", "dangling=true"), "")
	in("rm", "-f", "-v", "first")
	in("volume", "snapshot", "restore", "shared", "one")
	equal(t, "left", in("volume", "ls", "-q"), "shared")
	in("volume", "rm", "shared")
}

// TestPythonVolumes runs the same program against both engines.
func TestPythonVolumes(t *testing.T) {
	for _, e := range []*engine.Engine{oracle(t), gantry} {
		cmd := exec.Command("/usr/bin/python3", "testdata/volumes.py")
		cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+e.Socket)
		if r := must(t, cmd); r.Out != "ok\n" {
			t.Errorf("%s: %v", e.Name, r)
		}
	}
}
