package container

import (
	"strconv"
	"syscall"
)

// signalName returns a signal's name without SIG, as the API takes it. The names are the kernel's; the real-time ones are
// counted from the first that the C library leaves to programs.
func signalName(s syscall.Signal) string {
	if int(s) > 0 && int(s) < len(signals) {
		return signals[s]
	}
	if s >= 34 && s <= 64 {
		if s == 34 {
			return "RTMIN"
		}
		return "RTMIN+" + strconv.Itoa(int(s)-34)
	}
	return ""
}

var signals = [...]string{
	1: "HUP", 2: "INT", 3: "QUIT", 4: "ILL", 5: "TRAP", 6: "ABRT", 7: "BUS", 8: "FPE", 9: "KILL", 10: "USR1", 11: "SEGV", 12: "USR2",
	13: "PIPE", 14: "ALRM", 15: "TERM", 16: "STKFLT", 17: "CHLD", 18: "CONT", 19: "STOP", 20: "TSTP", 21: "TTIN", 22: "TTOU", 23: "URG",
	24: "XCPU", 25: "XFSZ", 26: "VTALRM", 27: "PROF", 28: "WINCH", 29: "IO", 30: "PWR", 31: "SYS",
}
