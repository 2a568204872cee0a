package container

import (
	"strconv"
	"strings"
	"syscall"

	"gantry/internal/errs"
)

// signals are the names that Docker knows, without SIG (signal(7)).
var signals = map[string]syscall.Signal{
	"ABRT": syscall.SIGABRT, "ALRM": syscall.SIGALRM, "BUS": syscall.SIGBUS, "CHLD": syscall.SIGCHLD, "CLD": syscall.SIGCHLD,
	"CONT": syscall.SIGCONT, "FPE": syscall.SIGFPE, "HUP": syscall.SIGHUP, "ILL": syscall.SIGILL, "INT": syscall.SIGINT,
	"IO": syscall.SIGIO, "IOT": syscall.SIGABRT, "KILL": syscall.SIGKILL, "PIPE": syscall.SIGPIPE, "POLL": syscall.SIGIO,
	"PROF": syscall.SIGPROF, "PWR": syscall.SIGPWR, "QUIT": syscall.SIGQUIT, "SEGV": syscall.SIGSEGV, "STKFLT": syscall.SIGSTKFLT,
	"STOP": syscall.SIGSTOP, "SYS": syscall.SIGSYS, "TERM": syscall.SIGTERM, "TRAP": syscall.SIGTRAP, "TSTP": syscall.SIGTSTP,
	"TTIN": syscall.SIGTTIN, "TTOU": syscall.SIGTTOU, "URG": syscall.SIGURG, "USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2,
	"VTALRM": syscall.SIGVTALRM, "WINCH": syscall.SIGWINCH, "XCPU": syscall.SIGXCPU, "XFSZ": syscall.SIGXFSZ,
}

// The real-time signals as libc numbers them: the kernel's 32 and 33 are its own.
const (
	sigRTMin = 34
	sigRTMax = 64
)

// ParseSignal turns a number or a name, with or without SIG, in any case, into a signal. Docker's words
// for what it does not know are errs.Invalid "Invalid signal: X".
func ParseSignal(s string) (syscall.Signal, error) {
	bad := func() (syscall.Signal, error) { return 0, errs.Invalid.Errorf("Invalid signal: %s", s) }
	if n, err := strconv.Atoi(s); err == nil {
		if n <= 0 || n > sigRTMax {
			return bad()
		}
		return syscall.Signal(n), nil
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if sig, ok := signals[name]; ok {
		return sig, nil
	}
	for base, n := range map[string]int{"RTMIN": sigRTMin, "RTMAX": sigRTMax} {
		rest, ok := strings.CutPrefix(name, base)
		if !ok {
			continue
		}
		if rest != "" {
			if rest[0] != '+' && rest[0] != '-' {
				return bad()
			}
			d, err := strconv.Atoi(rest)
			if err != nil {
				return bad()
			}
			n += d
		}
		if n < sigRTMin || n > sigRTMax {
			return bad()
		}
		return syscall.Signal(n), nil
	}
	return bad()
}
