package link

import (
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/netlink"
)

// said lists what the one message of a batch says, attributes by their path.
func said(t *testing.T, b *netlink.Batch) (list []string) {
	t.Helper()
	m := b.Bytes()
	if len(m) < 16 || int(binary.NativeEndian.Uint32(m)) != len(m) {
		t.Fatalf("not one message: %x", m)
	}
	list = append(list, fmt.Sprintf("type %d flags %#x", binary.NativeEndian.Uint16(m[4:]), binary.NativeEndian.Uint16(m[6:])))
	nests := map[string]bool{"18": true, "18/2": true}
	var walk func(at string, p []byte)
	walk = func(at string, p []byte) {
		netlink.Attrs(p, func(typ uint16, data []byte) {
			name := at + fmt.Sprint(typ&^unix.NLA_F_NESTED)
			if nests[name] {
				walk(name+"/", data)
				return
			}
			list = append(list, fmt.Sprintf("%s=%x", name, data))
		})
	}
	walk("", m[16+unix.SizeofIfInfomsg:])
	return list
}

func number(n uint16) string { return fmt.Sprintf("%x", binary.NativeEndian.AppendUint16(nil, n)) }

func wide(n uint32) string { return fmt.Sprintf("%x", binary.NativeEndian.AppendUint32(nil, n)) }

// TestMessages is what the kernel is sent for interfaces that not every kernel has: `ip link add link … name … type ipvlan mode l3 vepa`, as strace
// shows it (IFLA_IFNAME 3, IFLA_MTU 4, IFLA_LINK 5, IFLA_LINKINFO 18 with its kind 1 and its data 2, IFLA_NET_NS_FD 28).
func TestMessages(t *testing.T) {
	t.Parallel()
	head := []string{"type 16 flags 0x601", "3=6574683000", "5=" + wide(7), "28=" + wide(9), "4=" + wide(1400)}
	base := Macvlan{Name: "eth0", Parent: 7, MTU: 1400, NS: 9, MAC: net.HardwareAddr{2, 1, 1, 1, 1, 1}, Kind: "ipvlan"}
	for _, c := range []struct {
		mode  uint32
		flags uint16
		want  []string
	}{
		{0, 0, []string{"18/1=6970766c616e00", "18/2/1=" + number(0)}},
		{1, 0, []string{"18/1=6970766c616e00", "18/2/1=" + number(1)}},
		{2, 1, []string{"18/1=6970766c616e00", "18/2/1=" + number(2), "18/2/2=" + number(1)}},
		{0, 2, []string{"18/1=6970766c616e00", "18/2/1=" + number(0), "18/2/2=" + number(2)}},
	} {
		m := base
		m.Mode, m.Flags = c.mode, c.flags
		// Its hardware address is its parent's.
		if got, want := said(t, m.request()), append(slices.Clone(head), c.want...); !slices.Equal(got, want) {
			t.Errorf("ipvlan of mode %d, flags %d: %q, want %q", c.mode, c.flags, got, want)
		}
	}
	m := base
	m.Kind, m.Mode = "macvlan", 8
	if got, want := said(t, m.request()), append(slices.Clone(head), "1=020101010101", "18/1=6d6163766c616e00", "18/2/1="+wide(8)); !slices.Equal(got, want) {
		t.Errorf("macvlan: %q, want %q", got, want)
	}
	v := VLAN{Name: "eth0", Parent: 7, ID: 42}
	if got, want := said(t, v.request()), append(slices.Clone(head[:3]), "18/1=766c616e00", "18/2/1="+number(42)); !slices.Equal(got, want) {
		t.Errorf("vlan: %q, want %q", got, want)
	}
}
