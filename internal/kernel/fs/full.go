package fs

import (
	"errors"

	"golang.org/x/sys/unix"
)

// IsFull reports whether err is that of a disk without room (ENOSPC).
func IsFull(err error) bool { return errors.Is(err, unix.ENOSPC) }
