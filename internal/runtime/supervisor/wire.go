package supervisor

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"gantry/internal/runtime/supervisor/protocol"

	"golang.org/x/sys/unix"
)

// send writes one message; the fds travel with its first byte.
func send(conn *net.UnixConn, body []byte, fds []int) error {
	if len(body) > protocol.MaxMessage || len(fds) > protocol.MaxFds {
		return fmt.Errorf("message of %d bytes and %d fds is too large", len(body), len(fds))
	}
	msg := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body)))
	msg = append(msg, body...)
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	n, _, err := conn.WriteMsgUnix(msg, oob, nil)
	for err == nil && n < len(msg) {
		msg = msg[n:]
		n, err = conn.Write(msg)
	}
	return err
}

// receive reads one reply and the fds that came with it.
func receive(conn *net.UnixConn) (_ *protocol.Reply, fds []int, err error) {
	defer func() {
		if err != nil {
			for _, fd := range fds {
				unix.Close(fd)
			}
			fds = nil
		}
	}()
	var head [4]byte
	oob := make([]byte, unix.CmsgSpace(4*protocol.MaxFds))
	n, oobn, flags, _, err := conn.ReadMsgUnix(head[:], oob)
	if err != nil {
		return nil, nil, err
	}
	if fds, err = rights(oob[:oobn]); err != nil {
		return nil, fds, err
	}
	if n == 0 {
		return nil, fds, io.ErrUnexpectedEOF
	}
	if flags&unix.MSG_CTRUNC != 0 {
		return nil, fds, errors.New("fds were lost: no more files can be opened")
	}
	if _, err := io.ReadFull(conn, head[n:]); err != nil {
		return nil, fds, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > protocol.MaxMessage {
		return nil, fds, fmt.Errorf("message of %d bytes is too large", size)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(conn, body); err != nil {
		return nil, fds, err
	}
	var r protocol.Reply
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, fds, err
	}
	return &r, fds, nil
}

// rights returns the fds of control messages, all close-on-exec (net sets MSG_CMSG_CLOEXEC).
func rights(oob []byte) (fds []int, err error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for i := range msgs {
		if got, err := unix.ParseUnixRights(&msgs[i]); err == nil {
			fds = append(fds, got...)
		}
	}
	return fds, nil
}

// Memfd returns a sealed memfd with the given content; executable ones can be executed also where
// the sysctl vm.memfd_noexec (Linux 6.3) forbids it by default.
func Memfd(name string, content []byte, executable bool) (*os.File, error) {
	flags := unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	mode := unix.MFD_NOEXEC_SEAL
	if executable {
		mode = unix.MFD_EXEC
	}
	fd, err := unix.MemfdCreate(name, flags|mode)
	if err == unix.EINVAL { // before Linux 6.3
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(content); err != nil {
		f.Close()
		return nil, fmt.Errorf("write memfd %s: %w", name, err)
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		f.Close()
		return nil, fmt.Errorf("seal memfd %s: %w", name, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
