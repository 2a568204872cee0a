package firewall

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/xtables"
)

// Where Docker, ufw or a firewalld of before 2018 write by iptables-legacy, what drops forwarded packets is no chain of nf_tables, but one
// of the kernel's older tables. Accepts for our bridges go in front there as well, each with a comment that names our table. Only
// iptables-legacy itself can write them; it is run when they must change, and never where nobody uses such tables.

// lockFile is what every run of iptables-legacy opens; when one ends the rules may have changed. The kernel does not tell.
const lockFile = "/run/xtables.lock"

// legacyPatience bounds a run that hangs, whatever in.
const legacyPatience = 30 * time.Second

// PassLegacy puts accepts into the older tables for the networks that there are, and takes away what is not wanted any more. It
// may wait for other runs of iptables, for seconds where rules are many; so it is no part of AddNetwork and its like, and belongs
// where no start of a container waits. Whoever comes last sees the networks that there are last, so changes may overtake each other.
func (t *Table) PassLegacy() {
	t.passing.Lock()
	defer t.passing.Unlock()
	for _, v6 := range []bool{false, true} {
		if err := t.host.Do(func() error { return t.adjustLegacy(v6) }); err != nil {
			t.log.Warn("an older packet filter (iptables-legacy) may drop what containers send and get; -I FORWARD -i BRIDGE -j ACCEPT and -o BRIDGE would let it pass", "err", err)
		}
	}
}

func (t *Table) adjustLegacy(v6 bool) error {
	chain, err := t.forward(v6)
	if err != nil || chain == nil {
		return err
	}
	t.mu.Lock()
	script := t.legacyScript(chain)
	t.mu.Unlock()
	return t.runLegacy(v6, script)
}

// runLegacy has iptables-legacy-restore read the script. What it refused is not tried again before the rules have changed: its own
// run looks to watchLegacy like everybody's, and one would follow the other for ever. t.passing is held.
func (t *Table) runLegacy(v6 bool, script string) error {
	refused := &t.refused[0]
	if v6 {
		refused = &t.refused[1]
	}
	if script == "" || script != *refused {
		*refused = ""
	}
	if script == *refused {
		return nil
	}
	program, err := legacyProgram(v6)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), legacyPatience)
	defer cancel()
	// -w: others may be writing.
	cmd := exec.CommandContext(ctx, program, "--noflush", "-w", "10")
	cmd.WaitDelay = time.Second
	cmd.Stdin = strings.NewReader(script)
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	const busy = 4 // RESOURCE_PROBLEM of xtables.h: the lock was not had in time; who has it will end
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != busy {
		*refused = script
	}
	return fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(string(out)))
}

// legacyProgram finds iptables-legacy-restore, also by the names that it has where there is nothing but it.
func legacyProgram(v6 bool) (string, error) {
	name := "iptables"
	if v6 {
		name = "ip6tables"
	}
	for _, dir := range []string{"", "/usr/sbin/", "/sbin/", "/usr/local/sbin/"} {
		if p, err := exec.LookPath(dir + name + "-legacy-restore"); err == nil {
			return p, nil
		}
	}
	p, err := exec.LookPath(name + "-restore")
	if err != nil {
		return "", fmt.Errorf("%s-legacy-restore is not installed: %w", name, err)
	}
	if out, err := exec.Command(p, "-V").Output(); err != nil || strings.Contains(string(out), "nf_tables") {
		return "", fmt.Errorf("%s-legacy-restore is not installed", name)
	}
	return p, nil
}

// plainName are interfaces that mean themselves to iptables: "br+" would be all that begin so.
var plainName = regexp.MustCompile(`^[A-Za-z0-9_.][A-Za-z0-9_.-]*$`)

// legacyScript is what iptables-legacy-restore is to read; "" when all is as it should be.
func (t *Table) legacyScript(chain *xtables.Chain) string {
	var want, have, lines []string
	if chain.Drops || chain.Refuses {
		for bridge := range t.nets {
			if plainName.MatchString(bridge) {
				want = append(want, "from "+bridge+" "+t.mine, "to "+bridge+" "+t.mine)
			}
		}
	}
	slices.Sort(want)
	line := func(verb, comment string) {
		way, bridge, _ := strings.Cut(strings.TrimSuffix(comment, " "+t.mine), " ")
		flag := map[string]string{"from": "-i", "to": "-o"}[way]
		if flag == "" || !plainName.MatchString(bridge) {
			return
		}
		lines = append(lines, fmt.Sprintf("%s FORWARD %s %s -m comment --comment %q -j ACCEPT", verb, flag, bridge, comment))
	}
	for _, c := range chain.Comments {
		if !strings.HasSuffix(c, " "+t.mine) {
			continue
		}
		if slices.Contains(want, c) && !slices.Contains(have, c) {
			have = append(have, c)
			continue
		}
		line("-D", c)
	}
	for _, c := range want {
		if !slices.Contains(have, c) {
			line("-I", c)
		}
	}
	if len(lines) == 0 {
		return ""
	}
	return "*filter\n" + strings.Join(lines, "\n") + "\nCOMMIT\n"
}

// watchLegacy looks after the accepts whenever a run of iptables-legacy has ended. It ends when the file is closed.
func (t *Table) watchLegacy(fd int, events *os.File) {
	defer close(t.legacyEnded)
	buf := make([]byte, 16<<10)
	for run := -1; ; {
		run = watchLock(fd, run)
		if _, err := events.Read(buf); err != nil {
			return
		}
		t.mu.Lock()
		some := len(t.nets) > 0
		t.mu.Unlock()
		if some {
			t.PassLegacy()
		}
	}
}

// watchLock watches the lock, or as long as there is none the folder that it will be in. It takes and returns the watch of that.
func watchLock(fd, run int) int {
	lock := func() bool {
		_, err := unix.InotifyAddWatch(fd, lockFile, unix.IN_CLOSE)
		return err == nil
	}
	if !lock() && run < 0 {
		run, _ = unix.InotifyAddWatch(fd, filepath.Dir(lockFile), unix.IN_CREATE|unix.IN_ONLYDIR)
		lock() // it may have been made in between
	} else if run >= 0 && lock() {
		unix.InotifyRmWatch(fd, uint32(run))
		run = -1
	}
	return run
}
