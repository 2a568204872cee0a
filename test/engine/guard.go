package engine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// guardScript waits for the end of its input and then ends, with SIGKILL, what is in the containers' cgroups, and what names one of the
// roots on its command line: the engine and those that outlive it. Its own does not name them.
const guardScript = `cat >/dev/null
for k in /sys/fs/cgroup/unified"$PARENT"/*/cgroup.kill /sys/fs/cgroup"$PARENT"/*/cgroup.kill; do
	[ -e "$k" ] && echo 1 >"$k"
done
for p in $(echo "$ROOTS" | grep -lsaF -f - /proc/[0-9]*/cmdline); do
	p=${p%/cmdline}
	kill -9 "${p#/proc/}"
done
exit 0`

// guard leaves a process behind that ends the engine, its supervisor and its containers should this process end without having done so:
// killed by a timeout, say. (PR_SET_PDEATHSIG would not do: it goes by the thread that forked, and only to the engine.) After an end in
// good order it finds nothing.
func (e *Engine) guard() error {
	if e.guarded {
		return nil
	}
	roots := e.Root
	for i, a := range e.args[:len(e.args)-1] {
		if a == "--exec-root" { // the last one counts, which need not lie below Root
			roots += "\n" + e.args[i+1]
		}
	}
	for r := range strings.Lines(roots) {
		if !filepath.IsAbs(r) || strings.Count(r, "/") < 3 { // it would meet others
			return fmt.Errorf("an engine at %q", r)
		}
	}
	cmd := exec.Command("sh", "-c", guardScript)
	cmd.Env = append(os.Environ(), "PARENT="+CgroupParent(e.Root), "ROOTS="+roots)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // ctrl-c is not for it
	if _, err := cmd.StdinPipe(); err != nil {           // closed by the end of this process alone
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	e.guarded = true
	go cmd.Wait()
	return nil
}
