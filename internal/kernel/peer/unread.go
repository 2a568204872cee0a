// Package peer tells what the kernel knows of the other end of a connection: whether it has hung up (Watcher),
// and whether it has read what was sent (Unread).
package peer

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// Unread reports whether something that was written to conn has not been read by the other end yet. It is known for
// unix sockets only, where the bytes wait in the sender's account (SIOCOUTQ, unix(7)); for others it is false.
func Unread(conn net.Conn) bool {
	c, ok := conn.(*net.UnixConn)
	if !ok {
		return false
	}
	var raw syscall.RawConn
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	n := 0
	err = raw.Control(func(fd uintptr) {
		if k, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ); err == nil {
			n = k
		}
	})
	return err == nil && n > 0
}
