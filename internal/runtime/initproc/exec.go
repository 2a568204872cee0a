package initproc

import "golang.org/x/sys/unix"

func join(payload []byte) error  { return unix.ENOSYS }
func enter(payload []byte) error { return unix.ENOSYS }
