package container

import (
	"strconv"
	"strings"

	"gantry/internal/errs"
	"gantry/internal/runtime/supervisor"
)

// Signals that are sent by rule.
const (
	sigKill supervisor.Signal = 9
	sigTerm supervisor.Signal = 15
)

// signals are the names that Docker knows, without SIG, and their numbers on amd64 and arm64 alike (signal(7)).
var signals = map[string]supervisor.Signal{
	"ABRT": 6, "ALRM": 14, "BUS": 7, "CHLD": 17, "CLD": 17, "CONT": 18, "FPE": 8, "HUP": 1, "ILL": 4,
	"INT": 2, "IO": 29, "IOT": 6, "KILL": 9, "PIPE": 13, "POLL": 29, "PROF": 27, "PWR": 30, "QUIT": 3,
	"SEGV": 11, "STKFLT": 16, "STOP": 19, "SYS": 31, "TERM": 15, "TRAP": 5, "TSTP": 20, "TTIN": 21, "TTOU": 22,
	"URG": 23, "USR1": 10, "USR2": 12, "VTALRM": 26, "WINCH": 28, "XCPU": 24, "XFSZ": 25,
}

// The real-time signals as libc numbers them: the kernel's 32 and 33 are its own.
const (
	sigRTMin = 34
	sigRTMax = 64
)

// ParseSignal turns a number or a name, with or without SIG, in any case, into a signal. Docker's words
// for what it does not know are errs.Invalid "Invalid signal: X".
func ParseSignal(s string) (supervisor.Signal, error) {
	bad := func() (supervisor.Signal, error) { return 0, errs.Invalid.Errorf("Invalid signal: %s", s) }
	if n, err := strconv.Atoi(s); err == nil {
		if n <= 0 || n > sigRTMax {
			return bad()
		}
		return supervisor.Signal(n), nil
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
		return supervisor.Signal(n), nil
	}
	return bad()
}
