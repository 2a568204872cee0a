//go:build e2e

package e2e

import (
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestADefaultContainerIsClosed(t *testing.T) {
	status := ok(t, "run", "--rm", "--network", "none", "busybox", "cat", "/proc/self/status")
	for _, want := range []string{"CapPrm:\t00000000a80425fb", "CapEff:\t00000000a80425fb", "CapBnd:\t00000000a80425fb", "CapInh:\t0000000000000000", "CapAmb:\t0000000000000000", "Seccomp:\t2"} {
		if !strings.Contains(status, want) {
			t.Errorf("/proc/self/status lacks %q:\n%s", want, status)
		}
	}
	// 0, 1, 2, and the one that ls itself has open.
	if fds := ok(t, "run", "--rm", "--network", "none", "busybox", "ls", "/proc/self/fd"); fds != "0\n1\n2\n3" {
		t.Errorf("open files: %q", fds)
	}
	if ps := ok(t, "run", "--rm", "--network", "none", "busybox", "ps"); strings.Count(ps, "\n") != 1 {
		t.Errorf("processes seen:\n%s", ps)
	}
	for _, try := range []string{
		"mount -t tmpfs none /tmp", "mount -o remount,rw /sys", "mount --bind /tmp /etc", "umount /proc/kcore",
		"echo 1 > /proc/sys/kernel/panic", "echo x > /proc/sysrq-trigger", "cat /proc/kcore | head -c 1 | grep -q .",
		"mknod /tmp/vda b 254 0 && head -c 1 /tmp/vda", "chroot /proc/1/root true && ls /proc/1/root/../../var/lib/gantry",
		"hostname x", "unshare -m true", "nsenter -t 1 -m ls /var/lib",
		"echo 1 > /sys/fs/cgroup/memory/memory.limit_in_bytes", "dmesg", "swapoff -a && false", "reboot -f",
	} {
		if r := cli(t, "run", "--rm", "--network", "none", "busybox", "sh", "-c", try); r.Code == 0 {
			t.Errorf("%q succeeded: %v", try, r)
		}
	}
}

func TestTheHostIsOutOfReach(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("host secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	name := "jail"
	ok(t, "run", "-d", "--name", name, "--network", "none", "--cap-add", "SYS_PTRACE", "busybox", "sleep", "1000")
	defer ok(t, "rm", "-f", name)
	for _, path := range []string{secret, "/proc/1/root" + secret, "/../../../.." + secret, "/proc/self/cwd/../../.." + secret} {
		if r := cli(t, "exec", name, "cat", path); r.Code == 0 {
			t.Errorf("%s: %v", path, r)
		}
	}
}

// CVE-2024-21626: a working directory that leads through a leaked file descriptor to the host.
func TestWorkingDirectoryThroughAFileDescriptor(t *testing.T) {
	name := "wd"
	ok(t, "run", "-d", "--name", name, "--network", "none", "busybox", "sleep", "1000")
	defer ok(t, "rm", "-f", name)
	for fd := range 24 {
		wd := "/proc/self/fd/" + strconv.Itoa(fd)
		for _, args := range [][]string{
			{"run", "--rm", "--network", "none", "-w", wd, "busybox", "cat", "../../../../../../../proc/sys/kernel/hostname"},
			{"run", "--rm", "--network", "none", "-w", wd, "busybox", "ls", "../../../../../var/lib/dpkg/status"},
			{"exec", "-w", wd, name, "ls", "../../../../../var/lib/dpkg/status"},
		} {
			if r := cli(t, args...); r.Code == 0 && !strings.HasSuffix(args[len(args)-1], "hostname") {
				t.Errorf("%v: %v", args, r)
			}
		}
	}
}

// CVE-2019-5736: a container that runs /proc/self/exe, or opens it for writing, to overwrite the engine's program.
func TestTheEnginesProgramCannotBeOverwritten(t *testing.T) {
	name := "exe"
	ok(t, "run", "-d", "--name", name, "--network", "none", "--cap-add", "SYS_PTRACE", "busybox", "sh", "-c", `
		while :; do for p in /proc/[0-9]*; do
			exe=$(readlink $p/exe) || continue
			case $exe in *busybox*) ;; ?*) echo seen $exe; echo overwritten > $p/exe && echo WROTE $exe;; esac
		done; done 2>/dev/null`)
	defer ok(t, "rm", "-f", name)
	for range 20 {
		cli(t, "exec", name, "true")
	}
	if log := ok(t, "logs", name); strings.Contains(log, "WROTE") {
		t.Fatalf("a program of the host was overwritten:\n%s", log)
	}
	if r := cli(t, "exec", name, "/proc/self/exe", "--help"); strings.Contains(r.Out+r.Err, "supervisor") {
		t.Fatal(r)
	}
	ok(t, "run", "--rm", "--network", "none", "busybox", "true")
}

// Image content may put links where the engine mounts: they must not lead out of the root.
func TestSymlinkedMountTargets(t *testing.T) {
	dir := t.TempDir()
	marker := filepath.Join(dir, "marker")
	if err := os.WriteFile(marker, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	name := "links"
	ok(t, "create", "--name", name, "--network", "none", "-v", dir+":/mnt/link/inside", "-v", marker+":/etc/evil/marker", "busybox", "sh", "-c", "ls /mnt/link/inside; ls -d /outside")
	defer ok(t, "rm", "-f", name)
	id := ok(t, "inspect", "-f", "{{.Id}}", name)
	upper := filepath.Join(gantry.Root, "data", "containers", id, "upper")
	if _, err := os.Stat(upper); err != nil {
		t.Fatalf("the writable layer is not where this test expects it: %v", err)
	}
	target := filepath.Join(dir, "host")
	if err := os.Mkdir(target, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"mnt", "etc"} {
		os.MkdirAll(filepath.Join(upper, d), 0o755)
	}
	for link, to := range map[string]string{"mnt/link": target, "etc/evil": "../../../../../../../.." + target} {
		if err := os.Symlink(to, filepath.Join(upper, link)); err != nil {
			t.Fatal(err)
		}
	}
	cli(t, "start", "-a", name)
	entries, _ := os.ReadDir(target)
	if len(entries) != 0 {
		t.Fatalf("mount targets were made on the host: %v", entries)
	}
}

// What the engine and the supervisor hold in memory cannot be seen by a container that traces all that appears in it. It does
// see the process that an exec begins as, between its fork and its execve(2): that must hold nothing but the exec's own.
func TestTheSupervisorsMemoryIsOutOfReach(t *testing.T) {
	tracer := filepath.Join(t.TempDir(), "tracer")
	build := exec.Command("go", "build", "-o", tracer, "./testdata/tracer")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	secret := "supervisors-secret-" + strconv.Itoa(os.Getpid())
	disguised := []byte(secret)
	for i := range disguised {
		disguised[i] ^= 0x55
	}
	// The engine has it as a label and a variable, the supervisor as an attribute of each line of the log.
	ok(t, "run", "-d", "--name", "secretive", "--network", "none", "--label", "x="+secret, "--log-opt", "labels=x", "-e", "X="+secret, "busybox", "sleep", "1000")
	defer ok(t, "rm", "-f", "secretive")
	ok(t, "run", "-d", "--name", "tracer", "--network", "none", "--cap-add", "SYS_PTRACE", "-v", tracer+":/tracer:ro", "busybox", "/tracer", hex.EncodeToString(disguised))
	defer ok(t, "rm", "-f", "tracer")
	// What is traced may be held for ever by its tracer, which is the tracer's good right: then it is let be.
	lure := func(args ...string) {
		cmd := gantry.CLI(args...)
		timer := time.AfterFunc(5*time.Second, func() { cmd.Process.Kill() })
		defer timer.Stop()
		must(t, cmd)
	}
	for range 40 {
		lure("exec", "tracer", "true")
	}
	for i := range 3 { // born outside, too
		name := "lure" + strconv.Itoa(i)
		lure("run", "--name", name, "--network", "none", "--pid", "container:tracer", "--label", "y="+secret, "busybox", "true")
		defer ok(t, "rm", "-f", name)
	}
	log := ok(t, "logs", "tracer")
	if strings.Contains(log, "FOUND") {
		t.Fatalf("the container has read what is not its own:\n%s", log)
	}
	for line := range strings.Lines(log) {
		// Besides its streams it has the socket by which it tells of a failure, until it execs.
		if f := strings.Fields(line); f[0] == "open" && (len(f) < 3 || (len(f[1]) > 1 || f[1] > "2") && !strings.HasPrefix(f[2], "socket:")) {
			t.Errorf("the child of an exec had %s", line)
		}
	}
	t.Logf("caught %d before their execve", strings.Count(log, "memfd:gantry-init"))
}
