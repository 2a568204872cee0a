//go:build e2e

package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"gantry/test/engine"
)

// session is a list of docker commands, run one after another by the stock docker command line against
// both engines. Of a line that starts with "~" only the exit status is compared: Docker's words are known to
// be unhelpful there (a path inside its own temporary folder, say), or to have changed since 2022. A line that starts with
// "!" is run, and not compared; it says why.
type session struct {
	name  string
	lines []string
}

var sessions = []session{
	{"run prints and ends", []string{
		"run --rm --network none busybox echo hello world",
		"run --rm --network none busybox sh -c 'echo out; echo err >&2; exit 3'",
		"run --rm --network none busybox false",
		"run --rm --network none busybox sh -c 'kill -9 $$'",
		"run --rm --network none busybox sh -c 'kill -TERM $$; echo survived'",
	}},
	{"run that cannot start", []string{
		"run --rm --network none busybox nosuchprogram",
		"run --rm --network none busybox /etc",
		"run --rm --network none busybox /no/such/file",
		"run --rm --network none --entrypoint '' busybox",
		"run --rm --network none --workdir relative busybox true",
		"run --rm --network none --user nosuchuser busybox true",
		"run --rm --network none --user :nosuchgroup busybox true",
		"run --rm --network none --cap-add NOSUCH busybox true",
		"run --rm --network none --memory 1m busybox true",
		"run --rm --network none --cpus 1000 busybox true",
		"run --rm --network none --name 'bad name' busybox true",
		"run --rm --network none --pid nonsense busybox true",
		"~run --rm --network none --ipc nonsense busybox true",
		"run --rm --network none --uts nonsense busybox true",
		"run --rm --network none --userns nonsense busybox true",
		"run --rm --network none --cgroupns nonsense busybox true",
		"run --rm --network none --restart sometimes busybox true",
		"run --rm --network none --restart always busybox true",
		"run --rm --network none --stop-signal NOSUCH busybox true",
		"~run --rm --network none -v relative:path:mode busybox true",
		"run --rm --network none -v /tmp:relative busybox true",
		"run --rm --network none --sysctl kernel.nosuch=1 busybox true",
		"run --rm --network none --security-opt nosuch=1 busybox true",
		"run --rm --network none --security-opt seccomp=/no/such/file busybox true",
		"~run --rm --network none --device /dev/nosuch busybox true",
		"run --rm --network none --ulimit nosuch=1 busybox true",
		"~run --rm --network container:nosuch busybox true",
		"~run --rm --network none --log-driver nosuch busybox true",
		"run --rm --network none --log-opt nosuch=1 busybox true",
		"run --rm --network none --log-opt mode=nosuch busybox true",
		"run --rm --network none --log-opt max-buffer-size=1m busybox true",
		"~run --rm --network none --log-opt compress=perhaps busybox true",
		"~run --rm --network none --log-opt tag={{.Nosuch}} busybox true",
		"run --rm --network none --pid container:nosuch busybox true",
		"run --rm --network none --ipc container:nosuch busybox true",
		"run --rm --network none --storage-opt nosuch=1 busybox true",
		"~run --rm --network none --storage-opt size=1g busybox true",
		"~run --rm --network none --cpu-shares -1 busybox true",
		"~run --rm --network none --ip 10.1.2.3 busybox true",
		"~run --rm --network host --ip 10.1.2.3 busybox true",
	}},
	{"a life", []string{
		"create --name life --network none --label a=b -e X=1 busybox sleep 1000",
		"ps -a --filter name=life --format '{{.Names}} {{.Image}} {{.Command}} {{.State}} {{.Labels}} {{.Ports}}'",
		"start life",
		"start life",
		"ps --filter name=life --format '{{.Names}} {{.State}}'",
		"inspect -f '{{.State.Status}} {{.State.Running}} {{.State.Paused}} {{.State.ExitCode}} {{.Path}} {{json .Args}} {{.RestartCount}} {{.Name}}' life",
		"create --name life --network none busybox",
		"rm life",
		"stop -t 1 life",
		"stop life",
		"inspect -f '{{.State.Status}} {{.State.ExitCode}}' life",
		"kill life",
		"restart -t 1 life",
		"kill -s USR1 life",
		"kill -s NOSUCH life",
		"kill life",
		"wait life",
		"rm life",
		"rm life",
		"inspect life",
		"start life",
		"stop life",
		"logs life",
		"wait life",
		"kill life",
		"exec life true",
		"attach life",
		"rm --link life",
	}},
	{"logs", []string{
		"run --name lg --network none busybox sh -c 'echo oops >&2; sleep 1; for i in 1 2 3 4 5; do echo line $i; done'",
		"logs lg",
		"logs --tail 2 lg",
		"logs --tail 0 lg",
		"logs --since 2030-01-01 lg",
		"logs --until 2000-01-01 lg",
		"logs --tail all lg",
		"logs -f lg",
		"logs --tail nonsense lg",
		"rm lg",
		"run --name lg2 --network none --log-driver none busybox echo unseen",
		"logs lg2",
		"rm lg2",
		"run --name lg3 --network none -t busybox sh -c 'echo tty; echo err >&2'",
		"logs lg3",
		"rm lg3",
		"run --name lg4 --network none busybox printf 'no newline'",
		"logs lg4",
		"rm lg4",
		"run --name lg5 --network none --log-opt tag=T/{{.Name}} --log-opt env=A --log-opt env-regex=^B --log-opt labels-regex=^q --label q1=z --label r=z -e A=1 -e B=2 -e C=3 busybox echo told",
		"logs --details lg5",
		"rm lg5",
	}},
	{"exec", []string{
		"run -d --name ex --network none -e A=1 busybox sleep 1000",
		"exec ex echo inside",
		"exec -e B=2 ex sh -c 'echo $A $B'",
		"exec -w /tmp ex pwd",
		"exec -w /nosuch ex pwd",
		"exec -u 1000:1000 ex id",
		"exec -u nobody ex id",
		"exec -u nosuch ex id",
		"exec ex sh -c 'exit 7'",
		"!exec ex nosuchprogram", // 127 today
		"exec ex /etc",
		"exec nosuch true",
		"exec -d ex true",
		"exec ex cat /proc/1/cmdline",
		"pause ex", "exec ex true", "unpause ex",
		"rm -f ex",
		"exec ex true",
	}},
	{"what a container sees", []string{
		"run --rm --network none busybox sh -c 'cat /proc/self/status | grep -E \"^(Cap|Seccomp:|NoNewPrivs)\"'",
		"run --rm --network none --cap-drop ALL --cap-add NET_ADMIN busybox sh -c 'cat /proc/self/status | grep -E \"^Cap\"'",
		"run --rm --network none --user 1000 busybox sh -c 'cat /proc/self/status | grep -E \"^(Cap|Uid|Gid|Groups)\"'",
		"run --rm --network none --security-opt no-new-privileges busybox sh -c 'cat /proc/self/status | grep NoNew'",
		"run --rm --network none --security-opt seccomp=unconfined busybox sh -c 'cat /proc/self/status | grep Seccomp:'",
		"run --rm --network none busybox ls -l /dev",
		"run --rm --network none busybox ls -a /",
		"run --rm --network none -h myhost --domainname example.org busybox sh -c 'hostname; cat /etc/hostname; grep myhost /etc/hosts'",
		"run --rm --network none --add-host dbhost:10.1.2.3 busybox grep dbhost /etc/hosts",
		"run --rm --network none busybox sh -c 'mount | grep -v \" / \" | grep -v /dev/vd | sort'",
		"run --rm --network none --read-only busybox touch /x",
		"run --rm --network none --read-only --tmpfs /t busybox sh -c 'touch /t/x && mount | grep \" /t \"'",
		"run --rm --network none --shm-size 16m busybox sh -c 'mount | grep shm'",
		"run --rm --network none --ulimit nofile=123:456 busybox sh -c 'ulimit -n; ulimit -Hn'",
		"run --rm --network none --sysctl kernel.msgmax=10000 busybox cat /proc/sys/kernel/msgmax",
		"run --rm --network none --ipc host busybox sh -c 'true'",
		"run --rm --network none --oom-score-adj 500 busybox cat /proc/self/oom_score_adj",
		"run --rm --network none --init busybox sh -c 'test $$ != 1 && echo not the first process'",
		"run --rm --network none --device /dev/loop-control busybox ls -l /dev/loop-control",
		"run --rm --network none -e FOO=bar --env BAZ busybox env",
		"run --rm --network none -t busybox sh -c 'tty; ls -l /dev/console | cut -c1-10'",
		"run --rm --network none -w /a/b/c busybox pwd",
		"run --rm --network none --user 1234:5678 --group-add 99 busybox id",
		"run --rm --network none -v /usr/share/common-licenses:/l:ro busybox sh -c 'ls /l | head -1; touch /l/x'",
		"run --rm --network none --tmpfs /t:size=1m,mode=700 busybox sh -c 'stat -c %a /t; df -k /t | tail -1 | tr -s \" \" | cut -d\" \" -f2'",
		"run --rm --network none --pids-limit 20 busybox cat /sys/fs/cgroup/pids/pids.max",
		"run --rm --network none --memory 64m busybox cat /sys/fs/cgroup/memory/memory.limit_in_bytes",
		"run --rm --network none --cpu-shares 512 --cpu-period 50000 --cpu-quota 25000 busybox sh -c 'cat /sys/fs/cgroup/cpu/cpu.shares /sys/fs/cgroup/cpu/cpu.cfs_period_us /sys/fs/cgroup/cpu/cpu.cfs_quota_us'",
		"run --rm --network none --cpuset-cpus 0 busybox grep Cpus_allowed_list /proc/self/status",
		"run --rm --network none busybox cat /proc/self/oom_score_adj",
		"run --rm --network none busybox sh -c 'cat /proc/kcore; cat /proc/timer_list; ls /proc/acpi /sys/firmware; echo x > /proc/sys/kernel/hostname; cat /proc/keys'",
		"run --rm --network none busybox sh -c 'ls /proc/self/fd'",
		"run --rm --network none busybox cat /proc/self/cgroup",
		"run --rm --network none busybox sh -c 'ulimit -a'",
		"run --rm --network none busybox umount /proc",
		"run --rm --network none busybox mount -t tmpfs none /tmp",
		"run --rm --network none busybox mknod /tmp/sda b 8 0",
		"run --rm --network none busybox sh -c 'mknod /tmp/kmsg c 1 11 && cat /tmp/kmsg'",
		"run --rm --network none busybox unshare -r true",
		"run --rm --network none busybox dmesg",
	}},
	{"images", []string{
		"images --format '{{.Repository}}:{{.Tag}}' busybox",
		"tag busybox other:v1",
		"images --format '{{.Repository}}:{{.Tag}}' other",
		"tag nosuch other:v2",
		"tag busybox 'Bad:Name'",
		"create --name user --network none other:v1",
		"rmi other:v1",
		"rm user",
		"rmi other:v1",
		"rmi nosuch",
		"inspect -f '{{json .Config.Cmd}} {{json .Config.Env}} {{.Os}} {{.Architecture}} {{len .RootFS.Layers}}' busybox",
		"image inspect nosuch",
		"inspect nosuch",
		"~load -i /dev/null",
		"~load -i /etc/passwd",
	}},
	// Names that no engine makes up: builds that fail leave containers in Docker, whose random names may begin with any letter.
	{"filters", []string{
		"run -d --name filter-a --network none --label x=1 busybox sleep 1000",
		"create --name filter-b --network none --label x=2 busybox true",
		"run --name filter-c --network none --label y=1 busybox sh -c 'exit 4'",
		"ps -a --filter label=x --format '{{.Names}}'",
		"ps -a --filter label=x=2 --format '{{.Names}}'",
		"ps -a --filter status=exited --filter name=^filter- --format '{{.Names}}'",
		"ps -a --filter status=created --filter name=^filter- --format '{{.Names}}'",
		"ps -a --filter exited=4 --format '{{.Names}}'",
		"ps -a --filter ancestor=busybox --filter name=^filter- --format '{{.Names}}'",
		"ps -a --filter before=filter-c --filter name=^filter- --format '{{.Names}}'",
		"ps -a --filter since=filter-a --filter name=^filter- --format '{{.Names}}'",
		"ps -a --filter network=none --filter name=^filter- --format '{{.Names}}'",
		"ps -a --filter name= --filter label=x --format '{{.Names}}'",
		"ps -a --filter nosuch=1",
		"ps -a --filter status=nosuch",
		"ps --filter name=^filter- --format '{{.Names}} {{.Image}} {{.Command}} {{.State}}'",
		"ps -n 2 --format '{{.Names}}'",
		"ps -l --format '{{.Names}}'",
		"rm filter-a",
		"rm -f filter-a filter-b filter-c nosuch",
	}},
}

var masks = []struct{ re, to string }{
	{`\b[0-9a-f]{64}\b`, "<id>"},
	{`\b[0-9a-f]{12}\b`, "<shortid>"},
	{`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)`, "<time>"},
	{`[A-Z][a-z]{2} +\d+ \d\d:\d\d`, "<date>"},
	{`time="<time>" level=error msg="error waiting for container: context canceled"\n`, ""},
	{`(?m)^(\d+:[a-z_,=]*:)/.*/<id>$`, "$1<cgroup>"},
	// Masks of kernel files: Gantry's are as small as can be, and newer profiles hide more.
	{`(tmpfs on /(proc/acpi|sys/firmware) type tmpfs \(ro,relatime),size=4k,nr_inodes=1\)`, "$1)"},
	{`tmpfs on /proc/interrupts .*\n`, ""},
	{`(tmpfs on /sys/fs/cgroup type tmpfs )\(r[ow],`, "$1(rw,"},
	// The oracle is a Docker of 2022; since then the same errors begin otherwise.
	{`failed to create task for container: failed to create shim task`, "failed to create shim task"},
	{`failed to create task for container`, "failed to create shim task"},
	{`is a directory: permission denied`, "permission denied"},
	{`Range of CPUs`, "range of CPUs"},
}

func mask(s string) string {
	for _, m := range masks {
		s = regexp.MustCompile(m.re).ReplaceAllString(s, m.to)
	}
	return s
}

// words splits a command line as a shell does that knows only single and double quotes.
func words(line string) []string {
	var out []string
	var cur strings.Builder
	quote, inWord := rune(0), false
	escaped := false
	for _, c := range line {
		switch {
		case escaped:
			cur.WriteRune(c)
			escaped = false
		case quote == '\'' && c == '\'', quote == '"' && c == '"':
			quote = 0
		case quote != 0:
			cur.WriteRune(c)
		case c == '\\':
			escaped = true
		case c == '\'' || c == '"':
			quote, inWord = c, true
		case c == ' ':
			if inWord {
				out = append(out, cur.String())
				cur.Reset()
				inWord = false
			}
		default:
			cur.WriteRune(c)
			inWord = true
		}
	}
	if inWord {
		out = append(out, cur.String())
	}
	return out
}

// TestStockCLIDifferential holds Gantry against a real dockerd: the stock docker command line must print the
// same and end with the same status.
func TestStockCLIDifferential(t *testing.T) {
	docker := oracle(t)
	for _, s := range sessions {
		t.Run(s.name, func(t *testing.T) {
			play := func(e *engine.Engine) (results []engine.Result) {
				for _, line := range s.lines {
					results = append(results, engine.Run(e.StockCLI(words(strings.TrimLeft(line, "~!"))...)))
				}
				return results
			}
			theirs := make(chan []engine.Result)
			go func() { theirs <- play(docker) }()
			ours, wanted := play(gantry), <-theirs
			for i, line := range s.lines {
				if strings.HasPrefix(line, "!") {
					continue
				}
				got, want := ours[i], wanted[i]
				for _, part := range []struct{ what, got, want string }{
					{"status", fmt.Sprint(got.Code), fmt.Sprint(want.Code)},
					{"stdout", mask(got.Out), mask(want.Out)},
					{"stderr", mask(got.Err), mask(want.Err)},
				} {
					if part.what != "status" && strings.HasPrefix(line, "~") {
						continue
					}
					if part.got != part.want {
						t.Errorf("docker %s\n  %s of gantry: %q\n  %s of docker: %q", line, part.what, part.got, part.what, part.want)
					}
				}
			}
		})
	}
}
