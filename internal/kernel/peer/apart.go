// Package peer deals with what the kernel knows of the other end of a connection: whether it has hung up (Watcher),
// and where one of its reads ends (WriteApart).
package peer

import (
	"fmt"
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

// WriteApart writes p to conn so that what is written next is read by a read of its own: a reader with room for more
// gets p and not a byte behind it, however late it comes. Only unix sockets can do that, others take p as they take any bytes.
//
// The kernel ends a read behind bytes that came with a descriptor (unix(7), SCM_RIGHTS). A reader that does not ask for
// descriptors, with recvmsg(2) and room for control data, is not given it; one that does gets a pipe that is at its end.
func WriteApart(conn net.Conn, p []byte) error {
	if c, ok := conn.(*net.UnixConn); ok {
		if rights, err := token(); err == nil {
			n, _, err := c.WriteMsgUnix(p, rights, nil)
			if err == nil && n == len(p) {
				return nil
			}
			p = p[n:] // all of it when the kernel refuses descriptors just now (ETOOMANYREFS)
		}
	}
	_, err := conn.Write(p)
	return err
}

// token is a control message with a descriptor that is good for nothing: the reading end of a pipe nobody writes to. It stays open.
var token = sync.OnceValues(func() ([]byte, error) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	unix.Close(pipe[1])
	return unix.UnixRights(pipe[0]), nil
})
