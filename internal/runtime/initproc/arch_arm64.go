package initproc

import "golang.org/x/sys/unix"

const (
	sysFstatat = unix.SYS_FSTATAT
	elfMachine = 183 // EM_AARCH64
)
