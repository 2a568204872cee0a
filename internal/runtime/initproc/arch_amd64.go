package initproc

import "golang.org/x/sys/unix"

const (
	sysFstatat = unix.SYS_NEWFSTATAT
	elfMachine = 62 // EM_X86_64
)
