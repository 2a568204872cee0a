// Package message carries messages and file descriptors over unix stream sockets: four bytes of length (big endian), then
// the body; the descriptors travel with the first byte as SCM_RIGHTS (unix(7)). It knows nothing of package net, whose
// weight the small programs do without.
package message

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// MaxBody bounds a message, in bytes.
	MaxBody = 16 << 20
	// MaxFds bounds the descriptors of one message (the kernel's SCM_MAX_FD is 253).
	MaxFds = 128
)

// Conn is one connection. One goroutine may receive while others send.
type Conn struct {
	file  *os.File
	raw   syscall.RawConn
	write sync.Mutex
}

// New makes a Conn of a nonblocking socket, which becomes the Conn's.
func New(fd int) (*Conn, error) {
	f := os.NewFile(uintptr(fd), "conn")
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Conn{file: f, raw: raw}, nil
}

// Dial connects to the socket name in dir.
func Dial(dir, name string) (*Conn, error) {
	path, done, err := within(dir, name)
	if err != nil {
		return nil, err
	}
	defer done()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	// While the listener's queue is full, connect waits: not for one that accepts no more (EAGAIN then).
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 10})
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "connect", Path: filepath.Join(dir, name), Err: err}
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	return New(fd)
}

// Listen makes the socket name in dir, of mode 0600, and returns it, nonblocking. One that is there is replaced: whose it
// is, the caller has settled.
func Listen(dir, name string) (fd int, err error) {
	path, done, err := within(dir, name)
	if err != nil {
		return -1, err
	}
	defer done()
	os.Remove(path)
	if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	old := unix.Umask(0o177)
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	unix.Umask(old)
	if err == nil {
		err = unix.Listen(fd, 128)
	}
	if err != nil {
		unix.Close(fd)
		return -1, &os.PathError{Op: "listen", Path: filepath.Join(dir, name), Err: err}
	}
	return fd, nil
}

// within is a path to name in dir by a descriptor of dir: sun_path has room for 107 bytes only.
func within(dir, name string) (path string, done func(), err error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return "/proc/self/fd/" + strconv.Itoa(fd) + "/" + name, func() { unix.Close(fd) }, nil
}

// Close closes the connection; a Receive under way fails.
func (c *Conn) Close() error { return c.file.Close() }

// Deadline makes what waits after t fail; the zero Time is: never.
func (c *Conn) Deadline(t time.Time) { c.file.SetDeadline(t) }

// ReadDeadline is Deadline for Wait and Receive alone.
func (c *Conn) ReadDeadline(t time.Time) { c.file.SetReadDeadline(t) }

// WriteDeadline is Deadline for Send alone.
func (c *Conn) WriteDeadline(t time.Time) { c.file.SetWriteDeadline(t) }

// Control calls f with the socket, which cannot be closed meanwhile.
func (c *Conn) Control(f func(fd int)) { c.raw.Control(func(fd uintptr) { f(int(fd)) }) }

// Wait waits until a message begins, and takes nothing of it. The error is io.EOF when the other side has hung up.
func (c *Conn) Wait() error {
	var one [1]byte
	var n int
	var rerr error
	err := c.raw.Read(func(fd uintptr) bool {
		n, _, rerr = unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK)
		return rerr != unix.EAGAIN && rerr != unix.EINTR
	})
	if err = errors.Join(err, rerr); err == nil && n == 0 {
		err = io.EOF
	}
	return err
}

// Send sends a message with descriptors, which stay the caller's.
func (c *Conn) Send(body []byte, fds []int) error { return c.send(body, fds, true) }

// TrySend is Send that does not wait: unix.EAGAIN says that the socket did not take all of the message. It can only be
// closed then.
func (c *Conn) TrySend(body []byte, fds []int) error { return c.send(body, fds, false) }

func (c *Conn) send(body []byte, fds []int, wait bool) error {
	if len(body) > MaxBody || len(fds) > MaxFds {
		return errors.New("message of " + strconv.Itoa(len(body)) + " bytes and " + strconv.Itoa(len(fds)) + " fds is too large")
	}
	msg := append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body))), body...)
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	c.write.Lock()
	defer c.write.Unlock()
	var werr error
	attempt := func(fd uintptr) bool {
		for len(msg) > 0 {
			var n int
			n, werr = unix.SendmsgN(int(fd), msg, oob, nil, unix.MSG_NOSIGNAL)
			switch werr {
			case nil:
				msg, oob = msg[n:], nil
			case unix.EINTR:
			case unix.EAGAIN:
				return !wait
			default:
				return true
			}
		}
		return true
	}
	var err error
	if wait {
		err = c.raw.Write(attempt)
	} else { // whatever deadline there is
		err = c.raw.Control(func(fd uintptr) { attempt(fd) })
	}
	return errors.Join(err, werr)
}

// Receive returns the next message and its descriptors, which are the caller's then, close-on-exec. The error is
// io.EOF when the other side has hung up between two messages.
func (c *Conn) Receive() (body []byte, fds []int, err error) {
	defer func() {
		if err != nil {
			CloseAll(fds)
			fds = nil
		}
	}()
	var head [4]byte
	oob := make([]byte, unix.CmsgSpace(4*MaxFds))
	var n, oobn, flags int
	var rerr error
	err = c.raw.Read(func(fd uintptr) bool {
		n, oobn, flags, _, rerr = unix.Recvmsg(int(fd), head[:], oob, unix.MSG_CMSG_CLOEXEC)
		return rerr != unix.EAGAIN && rerr != unix.EINTR
	})
	if err = errors.Join(err, rerr); err != nil {
		return nil, nil, err
	}
	if oobn > 0 {
		msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return nil, nil, err
		}
		for i := range msgs {
			if got, err := unix.ParseUnixRights(&msgs[i]); err == nil {
				fds = append(fds, got...)
			}
		}
	}
	if flags&unix.MSG_CTRUNC != 0 {
		return nil, fds, errors.New("fds were lost: no more files can be opened")
	}
	if n == 0 {
		return nil, fds, io.EOF
	}
	if _, err := io.ReadFull(c.file, head[n:]); err != nil {
		return nil, fds, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > MaxBody {
		return nil, fds, errors.New("message of " + strconv.Itoa(int(size)) + " bytes is too large")
	}
	body = make([]byte, size)
	_, err = io.ReadFull(c.file, body)
	return body, fds, err
}

// CloseAll closes descriptors.
func CloseAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
