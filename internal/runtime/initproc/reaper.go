package initproc

import "golang.org/x/sys/unix"

func (p *program) reaper(args, env []string) error { return unix.ENOSYS }
