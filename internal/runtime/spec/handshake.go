package spec

// The supervisor and init.
//
// The supervisor forks init with argv[0] = "gantry-init", argv[1] = one of the modes below, an empty environment,
// and exactly these fds (all others are close-on-exec):
//
//	0, 1, 2  the process's stdio: pipes, or /dev/null; with a terminal all three are /dev/null, and init
//	         puts the pty's slave there
//	3        the payload: a sealed memfd, JSON of Init (modes init, join) or Exec (mode exec), read from offset 0; or a socket
//	         (SOCK_SEQPACKET) by which it comes, when everything that the process needs is there
//	4        the status socket: one end of a SOCK_SEQPACKET socketpair; init makes it close-on-exec
//	         It is born with SIGCHLD as exit signal and without setsid(2). Pipes belong to root: init gives those among
//	         0 to 2 to the user of the process (fchown(2)), or /dev/stdout could not be opened by it.
//	5        modes join and exec only: a pidfd, whose start time has been checked, of the process to join
//
// Init's own start takes longer than all the engine does for a container meanwhile, so a launch begins before the payload is made.
// The socket then carries one packet of at most TasksMax bytes: the paths of the version 1 `tasks` files of the
// process's cgroups, each with a newline behind it, which init enters before anything else, and by SCM_RIGHTS the memfd. End of file
// instead means that the engine has given up, or died: init fails.
//
// Modes:
//
//	init  init is born as a child of the supervisor inside the new namespaces Launch.Clone, its uid and gid
//	      maps written, in its cgroup, and as the process that will exec. With CLONE_NEWPID it is PID 1.
//	join  (Launch.JoinPID) as init, but init is born in the host's namespaces (and in the cgroup) and stays in
//	      the host's PID namespace: it joins that of fd 5 for its children (setns(2)), makes the namespaces
//	      Init.Clone itself (unshare(2)), mounts and prepares everything, takes on the container's user and
//	      privileges, and then clones with CLONE_PARENT the process that execs. CLONE_NEWUSER is refused by the
//	      supervisor in this mode.
//	exec  as join, but it joins all namespaces of fd 5. Where a user namespace is among them, which only a
//	      process with one thread may enter, a raw clone with CLONE_PARENT goes before.
//
// So no process bigger than init is ever forked inside a container's namespaces, and the one that execs is always a child of the
// supervisor (CLONE_PARENT twice), which alone can wait for it. The supervisor reaps the children between.
//
// Messages of init on fd 4, each one packet of at most StatusMax bytes; their order between processes does not matter:
//
//	"pid N"  modes join and exec, once, from the process that cloned the last one: N is clone's return
//	         value (the pid in the host's namespace). Before it sends that it need not wait for anything.
//	"pty"    with one fd by SCM_RIGHTS: the master of the pty that init opened through the container's own
//	         /dev/pts/ptmx (modes init and join: after mounting devpts). The supervisor sets the window size and answers
//	         one packet "ok", for which init waits before execve(2): a program must not see a size of 0×0.
//	{…}      a Failure, as JSON; the sender and all others then exit
//
// End of file (every holder of fd 4 closed it, the last by execve(2), for it is close-on-exec) without a
// Failure means that the program runs. A holder that is not going to exec closes it or exits at once.
// A process that dies by a signal (kill -9, the OOM killer) closes it too; so that this is not taken for success, init sends
//
//	"exec"   as its last act before execve(2), from the process that does it
//
// and EOF without it is a failure of stage "init". A Failure after "exec" (execve(2) itself failed) counts as one.
const (
	ModeInit = "init"
	ModeJoin = "join"
	ModeExec = "exec"

	FdPayload = 3 // in init
	FdStatus  = 4
	FdTarget  = 5

	StatusPID  = "pid "
	StatusPty  = "pty"
	StatusOK   = "ok" // the supervisor's answer to StatusPty, and with Exec.AwaitPids to StatusExec
	StatusExec = "exec"
	StatusMax  = 16 << 10

	TasksMax = 32 << 10
)
