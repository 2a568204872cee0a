package conntrack

import (
	"net/netip"
	"testing"

	"gantry/internal/kernel/netlink"
)

func FuzzRead(f *testing.F) {
	var b netlink.Batch
	b.Begin(0, 0, nil)
	head := len(b.Bytes())
	for _, way := range []uint16{tupleOrig, tupleRpl} {
		b.Nest(way, func() {
			b.Nest(tupleIP, func() { b.Attr(v4Src, []byte{10, 0, 0, byte(way)}); b.Attr(v4Dst, []byte{10, 0, 0, 9}) })
			b.Nest(tupleProto, func() {
				b.U8(protoNum, 17)
				b.Attr(srcPort, []byte{0, 53})
				b.Attr(dstPort, []byte{0, 80})
			})
		})
	}
	good := b.Bytes()[head:]
	if x, ok := read(good); !ok || x != (Flow{17, netip.MustParseAddrPort("10.0.0.9:80"), netip.MustParseAddrPort("10.0.0.2:53")}) {
		f.Fatal(x, ok)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, attrs []byte) { read(attrs) })
}
