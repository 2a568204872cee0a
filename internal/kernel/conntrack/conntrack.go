// Package conntrack forgets connections that the kernel has in mind, by ctnetlink (linux/netfilter/nfnetlink_conntrack.h). Where a
// rule has led the first packet of one all others follow, whatever the rules say by then; UDP has no end by which it would be over.
package conntrack

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/netlink"
)

// Flow is a connection as its sender sees it, and whom it really goes to.
type Flow struct {
	Proto  uint8
	To     netip.AddrPort // as it was sent
	Target netip.AddrPort // who answers
}

const (
	msgGet, msgDelete   = 1, 2 // IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE
	tupleOrig, tupleRpl = 1, 2 // CTA_TUPLE_ORIG, CTA_TUPLE_REPLY
	ctID, ctZone        = 12, 18
	tupleIP, tupleProto = 1, 2 // CTA_TUPLE_IP, CTA_TUPLE_PROTO
	v4Src, v4Dst        = 1, 2
	v6Src, v6Dst        = 3, 4
	protoNum            = 1
	srcPort, dstPort    = 2, 3
)

// maxForgotten bounds what one call forgets; there is nobody who has more clients that wait than that.
const maxForgotten = 1 << 16

// Forget has the calling thread's namespace forget the flows of a family (unix.AF_INET, unix.AF_INET6) that match. A kernel without
// ctnetlink is no error: it can't be asked what it has in mind.
func Forget(family uint8, match func(*Flow) bool) error {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer c.Close()
	var found [][]byte // what names them
	var b netlink.Batch
	b.Begin(unix.NFNL_SUBSYS_CTNETLINK<<8|msgGet, 0, []byte{family, 0, 0, 0})
	err = c.Dump(&b, func() { found = nil }, func(m netlink.Message) {
		if len(m.Data) < 4 || len(found) >= maxForgotten {
			return
		}
		if f, ok := read(m.Data[4:]); ok && match(&f) {
			found = append(found, append([]byte(nil), m.Data[4:]...))
		}
	})
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, attrs := range found {
		var d netlink.Batch
		d.Begin(unix.NFNL_SUBSYS_CTNETLINK<<8|msgDelete, 0, []byte{family, 0, 0, 0})
		netlink.Attrs(attrs, func(typ uint16, data []byte) {
			switch typ {
			case tupleOrig:
				d.Attr(typ|unix.NLA_F_NESTED, data)
			case ctID, ctZone: // by its number it is this very one, not a later one alike
				d.Attr(typ, data)
			}
		})
		if derr := c.Do(&d); derr != nil && !errors.Is(derr, unix.ENOENT) && err == nil {
			err = derr
		}
	}
	return err
}

// read reads a flow's attributes.
func read(attrs []byte) (f Flow, ok bool) {
	var sent, answer tuple
	netlink.Attrs(attrs, func(typ uint16, data []byte) {
		switch typ {
		case tupleOrig:
			sent = readTuple(data)
		case tupleRpl:
			answer = readTuple(data)
		}
	})
	f = Flow{Proto: sent.proto, To: sent.dst, Target: answer.src}
	return f, f.To.IsValid() && f.Target.IsValid()
}

type tuple struct {
	src, dst netip.AddrPort
	proto    uint8
}

func readTuple(data []byte) (t tuple) {
	var src, dst netip.Addr
	var sport, dport uint16
	netlink.Attrs(data, func(typ uint16, data []byte) {
		netlink.Attrs(data, func(inner uint16, data []byte) {
			switch {
			case typ == tupleIP && (inner == v4Src || inner == v6Src):
				src, _ = netip.AddrFromSlice(data)
			case typ == tupleIP && (inner == v4Dst || inner == v6Dst):
				dst, _ = netip.AddrFromSlice(data)
			case typ == tupleProto && inner == protoNum && len(data) == 1:
				t.proto = data[0]
			case typ == tupleProto && inner == srcPort && len(data) == 2:
				sport = binary.BigEndian.Uint16(data)
			case typ == tupleProto && inner == dstPort && len(data) == 2:
				dport = binary.BigEndian.Uint16(data)
			}
		})
	})
	t.src, t.dst = netip.AddrPortFrom(src, sport), netip.AddrPortFrom(dst, dport)
	return t
}
