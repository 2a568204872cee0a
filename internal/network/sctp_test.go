package network

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	api "github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"gantry/internal/kernel/netns"
	"gantry/internal/network/lab"
)

// TestSCTP: a published port of SCTP. Kernels without SCTP have no sockets of it, but route its packets; so the beginning of an association
// is sent as raw packets.
func TestSCTP(t *testing.T) {
	h := newHost(t)
	j, ns := h.join(t, &JoinRequest{Name: "a", Endpoints: on("bridge"), First: "bridge", Ports: ports("3868/sctp", " 38680", "3868/tcp", " 38680")})
	if p := j.Ports[api.MustParsePort("3868/sctp")]; len(p) == 0 || p[0].HostPort != "38680" {
		t.Fatal(j.Ports)
	}
	if _, err := h.Join(t.Context(), &JoinRequest{ID: strings.Repeat("e", 64), Name: "b", Endpoints: on("bridge"), First: "bridge", Ports: ports("3868/sctp", " 38680")}); err == nil ||
		!strings.Contains(err.Error(), "port is already allocated") {
		t.Errorf("twice: %v", err)
	}
	if _, err := exec.LookPath("nft"); err == nil {
		var out []byte
		h.Lab.Host.Do(func() error {
			out, _ = exec.Command("nft", "list", "map", "inet", "gantry-test", "port4").CombinedOutput()
			return nil
		})
		for _, proto := range []string{"sctp", "tcp"} {
			if want := proto + " . 38680 : 172.17.0.2 . 3868"; !strings.Contains(string(out), want) {
				t.Errorf("no %q in %s", want, out)
			}
		}
	}
	raw := func(ns *netns.Namespace) (fd int) {
		t.Helper()
		if err := ns.Do(func() (err error) {
			fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
			return os.NewSyscallError("socket", err)
		}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	client, server := raw(h.Outside), raw(ns)
	unix.SetsockoptTimeval(server, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 30})
	if err := unix.Sendto(client, initChunk(40000, 38680), 0, &unix.SockaddrInet4{Addr: netip.MustParseAddr(lab.HostAddr).As4()}); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); ; {
		buf := make([]byte, 2048)
		n, from, err := unix.Recvfrom(server, buf, 0)
		if err == unix.EINTR && time.Now().Before(end) {
			continue
		}
		if err != nil || n < 24 {
			t.Fatalf("the container got %d bytes, %v", n, err)
		}
		p := buf[int(buf[0]&15)*4 : n]
		got := fmt.Sprint(netip.AddrFrom4(from.(*unix.SockaddrInet4).Addr), " ", binary.BigEndian.Uint16(p), " ", binary.BigEndian.Uint16(p[2:]), " ", p[12])
		if want := lab.OutsideAddr + " 40000 3868 1"; got != want {
			t.Errorf("the container got %q, want %q", got, want)
		}
		return
	}
}

// initChunk is the first packet of an association (RFC 9260, 3.1 and 3.3.2).
func initChunk(from, to uint16) []byte {
	p := make([]byte, 32)
	binary.BigEndian.PutUint16(p, from)
	binary.BigEndian.PutUint16(p[2:], to)
	p[12] = 1                               // INIT
	binary.BigEndian.PutUint16(p[14:], 20)  // length
	binary.BigEndian.PutUint32(p[16:], 77)  // initiate tag
	binary.BigEndian.PutUint32(p[20:], 1e5) // window
	binary.BigEndian.PutUint16(p[24:], 1)   // streams out
	binary.BigEndian.PutUint16(p[26:], 1)   // and in
	binary.BigEndian.PutUint32(p[28:], 1)   // first number
	binary.LittleEndian.PutUint32(p[8:], crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)))
	return p
}
