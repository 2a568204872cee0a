package initproc

import (
	"errors"
	"strconv"
	"strings"

	"gantry/internal/kernel/fs"
	"gantry/internal/kernel/mount"
	"gantry/internal/runtime/spec"

	"golang.org/x/sys/unix"
)

// join is mode join: a container that lives in the PID namespace of another one (--pid container:).
//
// Nothing but the finished process may be visible in there: a container with CAP_SYS_PTRACE could take over a
// half-made one that still has every capability, and neither being undumpable nor a start from a memfd
// protects against that capability. So init stays outside: joining a PID namespace (setns(2)) is about children
// only. All is set up here, and the last step is the fork.
func join(payload []byte) error {
	s, err := decodeInit(payload)
	if err != nil {
		return err
	}
	if s.User {
		return errors.New("a user namespace cannot be combined with another container's PID namespace")
	}
	proc, err := fs.HostProc()
	if err != nil {
		return err
	}
	t, err := findTarget(proc)
	if err != nil {
		return failed("join", err)
	}
	if err := unix.Setns(spec.FdTarget, unix.CLONE_NEWPID); err != nil {
		return explain("join pid", "join the pid namespace", err)
	}
	if err := unix.Unshare(int(s.Clone) &^ unix.CLONE_NEWPID); err != nil {
		return explain("namespaces", "make the namespaces", err)
	}
	return start(s, t)
}

// target is the running container that an exec joins.
type target struct {
	pid  int
	dir  int // its directory in the host's /proc
	root fs.Root
	user bool // it has a user namespace of its own
}

// enter is mode exec: one more process in a running container.
//
// The order is chosen so that no process that has more than the container's own privileges can be seen from
// within its PID namespace: this thread joins the namespaces, takes on the user, the capabilities and the
// filter, and then forks; what is born there has nothing left to lose. A user namespace can only be entered
// by a process with one thread, so there a first fork goes before.
func enter(payload []byte) error {
	e, err := decodeExec(payload)
	if err != nil {
		return err
	}
	if len(e.Args) == 0 {
		return errors.New("no exec command specified")
	}
	proc, err := fs.HostProc()
	if err != nil {
		return err
	}
	t, err := findTarget(proc)
	if err != nil {
		return failed("join", err)
	}
	a, err := lookupAccount(t.root, e.User, e.Groups)
	if err != nil {
		return failed("user", err)
	}
	stdio := func() error { return ownNull(t.root) }
	if e.Terminal {
		stdio = t.openTerminal
	}
	if err := stdio(); err != nil {
		return err
	}
	owner, ok := a.uid, true
	if t.user {
		owner, ok = t.hostUID(a.uid)
	}
	if ok {
		if err := chownStdio(owner); err != nil {
			return err
		}
	}
	if err := setLimits(proc, e); err != nil {
		return err
	}

	p := newProgram()
	flags := uintptr(unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWCGROUP)
	if t.user {
		flags |= unix.CLONE_NEWUSER
		p.fork(false)
	} else {
		// The other threads of this process stay outside; a root directory shared with them could not change.
		p.call("join", "unshare the root directory", unix.SYS_UNSHARE, unix.CLONE_FS)
	}
	p.call("join", "join the container's namespaces", unix.SYS_SETNS, spec.FdTarget, flags)
	p.exec(e.Args, environment(e.Env, a.home))
	p.finish(e, a, t.user, true)
	p.run()
	return nil
}

// mountProc makes a procfs of the target's PID namespace. Newer kernels are told which one (Linux 6.17); older
// ones show that of the mounting process, which this one is not in, and so the target's own instance is
// taken: only the mount itself, without what may be mounted over parts of it, and if it is what it should be.
func (t *target) mountProc(o mount.Options) (int, error) {
	ns, err := unix.Openat(t.dir, "ns/pid", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, errNotRunning
	}
	defer unix.Close(ns)
	fd, err := mount.NewProc(ns, o)
	if err != unix.EINVAL {
		return fd, err
	}
	tree, err := cloneFrom(t.dir, "/proc", "", false)
	if err != nil {
		return -1, err
	}
	if !t.ownProc(tree, ns) {
		unix.Close(tree)
		return -1, errors.New("the other container has no /proc of its PID namespace, and this kernel (before 6.17) can make none")
	}
	return tree, setAttr(tree, o.Set, 0, false)
}

// ownProc reports whether fd is the root of a procfs of the PID namespace ns.
func (t *target) ownProc(fd, ns int) bool {
	magic, err := fs.Type(fd)
	if err != nil || magic != unix.PROC_SUPER_MAGIC {
		return false
	}
	var root, want, got unix.Stat_t
	if unix.Fstat(fd, &root) != nil || root.Ino != 1 || unix.Fstat(ns, &want) != nil {
		return false
	}
	return unix.Fstatat(fd, "1/ns/pid", &got, 0) == nil && got.Ino == want.Ino && got.Dev == want.Dev
}

var errNotRunning = errors.New("the container is not running")

// findTarget looks at the process that the pidfd names. /proc goes by numbers, so that the process is asked to
// be alive after its directory has been opened: from then on the directory is its or dead.
func findTarget(proc fs.Proc) (*target, error) {
	info, err := proc.Read(strconv.Itoa(unix.Getpid())+"/fdinfo/"+strconv.Itoa(spec.FdTarget), 4096)
	if err != nil {
		return nil, err
	}
	t := new(target)
	for line := range strings.Lines(string(info)) {
		if v, ok := strings.CutPrefix(line, "Pid:"); ok {
			t.pid, _ = strconv.Atoi(strings.TrimSpace(v))
		}
	}
	if t.pid <= 0 {
		return nil, errNotRunning
	}
	if t.dir, err = proc.Open(strconv.Itoa(t.pid), unix.O_PATH|unix.O_DIRECTORY); err != nil {
		return nil, errNotRunning
	}
	if err := unix.PidfdSendSignal(spec.FdTarget, 0, nil, 0); err != nil {
		return nil, errNotRunning
	}
	fd, err := unix.Openat(t.dir, "root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, errNotRunning
	}
	t.root = fs.RootAt(fd)
	var own, its unix.Stat_t
	if err := unix.Fstatat(t.dir, "ns/user", &its, 0); err != nil {
		return nil, errNotRunning
	}
	if err := unix.Stat("/proc/self/ns/user", &own); err != nil {
		return nil, err
	}
	t.user = own.Ino != its.Ino || own.Dev != its.Dev
	return t, nil
}

// openTerminal opens a pty of the container's own devpts.
func (t *target) openTerminal() error {
	ptmx, err := t.root.Open("/dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return explain("terminal", "open the container's /dev/pts/ptmx", err)
	}
	defer unix.Close(ptmx)
	slave, err := openSlave(ptmx)
	if err != nil {
		return err
	}
	defer unix.Close(slave)
	return handOver(ptmx, slave)
}

// hostUID maps a uid of the container's user namespace to the host's (user_namespaces(7), uid_map).
func (t *target) hostUID(uid uint32) (uint32, bool) {
	b, err := fs.RootAt(t.dir).ReadFile("uid_map", 64<<10)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		inside, ok1 := parseID(f[0])
		outside, ok2 := parseID(f[1])
		size, ok3 := parseID(f[2])
		if ok1 && ok2 && ok3 && uint64(uid) >= inside && uint64(uid) < inside+size {
			return uint32(outside + uint64(uid) - inside), true
		}
	}
	return 0, false
}
