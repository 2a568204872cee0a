package nft

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/netlink"
)

// Expr is one expression of a rule.
type Expr struct {
	name string
	fill func(*netlink.Batch)
}

// Meta loads a fact about the packet (unix.NFT_META_*).
func Meta(key, dreg uint32) Expr {
	return Expr{"meta", func(b *netlink.Batch) {
		b.BE32(unix.NFTA_META_DREG, dreg)
		b.BE32(unix.NFTA_META_KEY, key)
	}}
}

// SetMark gives the packet the mark that is in the register, by which rules of routing find it.
func SetMark(sreg uint32) Expr {
	return Expr{"meta", func(b *netlink.Batch) {
		b.BE32(unix.NFTA_META_SREG, sreg)
		b.BE32(unix.NFTA_META_KEY, unix.NFT_META_MARK)
	}}
}

// Transparent loads whether the socket that the packet is for is bound to an address that need not be the host's
// (IP_TRANSPARENT, ip(7)). The rule ends where there is no socket. Linux 4.18.
func Transparent(dreg uint32) Expr {
	const key, reg, transparent = 1, 2, 0 // NFTA_SOCKET_KEY, NFTA_SOCKET_DREG, NFT_SOCKET_TRANSPARENT
	return Expr{"socket", func(b *netlink.Batch) {
		b.BE32(key, transparent)
		b.BE32(reg, dreg)
	}}
}

// Payload loads bytes of a header: base is unix.NFT_PAYLOAD_*.
func Payload(base, offset, size, dreg uint32) Expr {
	return Expr{"payload", func(b *netlink.Batch) {
		b.BE32(unix.NFTA_PAYLOAD_DREG, dreg)
		b.BE32(unix.NFTA_PAYLOAD_BASE, base)
		b.BE32(unix.NFTA_PAYLOAD_OFFSET, offset)
		b.BE32(unix.NFTA_PAYLOAD_LEN, size)
	}}
}

// Ct loads a fact about the connection (unix.NFT_CT_*).
func Ct(key, dreg uint32) Expr {
	return Expr{"ct", func(b *netlink.Batch) {
		b.BE32(unix.NFTA_CT_DREG, dreg)
		b.BE32(unix.NFTA_CT_KEY, key)
	}}
}

// Mask keeps the set bits of a register.
func Mask(reg uint32, mask []byte) Expr {
	return Expr{"bitwise", func(b *netlink.Batch) {
		b.BE32(unix.NFTA_BITWISE_SREG, reg)
		b.BE32(unix.NFTA_BITWISE_DREG, reg)
		b.BE32(unix.NFTA_BITWISE_LEN, uint32(len(mask)))
		b.Nest(unix.NFTA_BITWISE_MASK, func() { b.Attr(unix.NFTA_DATA_VALUE, mask) })
		b.Nest(unix.NFTA_BITWISE_XOR, func() { b.Attr(unix.NFTA_DATA_VALUE, make([]byte, len(mask))) })
	}}
}

// Equal goes on when the register holds data, and NotEqual when it does not.
func Equal(reg uint32, data []byte) Expr    { return compare(unix.NFT_CMP_EQ, reg, data) }
func NotEqual(reg uint32, data []byte) Expr { return compare(unix.NFT_CMP_NEQ, reg, data) }

func compare(op, reg uint32, data []byte) Expr {
	return Expr{"cmp", func(b *netlink.Batch) {
		b.BE32(unix.NFTA_CMP_SREG, reg)
		b.BE32(unix.NFTA_CMP_OP, op)
		b.Nest(unix.NFTA_CMP_DATA, func() { b.Attr(unix.NFTA_DATA_VALUE, data) })
	}}
}

// In goes on when the set holds what begins at the register, and NotIn when it does not.
func In(set string, reg uint32) Expr    { return lookup(set, reg, none, 0) }
func NotIn(set string, reg uint32) Expr { return lookup(set, reg, none, unix.NFT_LOOKUP_F_INV) }

// Map loads what the map has for the register's key into dreg, and goes on when there is something.
func Map(set string, reg, dreg uint32) Expr { return lookup(set, reg, dreg, 0) }

func lookup(set string, sreg, dreg, flags uint32) Expr {
	return Expr{"lookup", func(b *netlink.Batch) {
		b.String(unix.NFTA_LOOKUP_SET, set)
		b.BE32(unix.NFTA_LOOKUP_SREG, sreg)
		if dreg != none {
			b.BE32(unix.NFTA_LOOKUP_DREG, dreg)
		}
		if flags != 0 {
			b.BE32(unix.NFTA_LOOKUP_FLAGS, flags)
		}
	}}
}

// Load puts data into a register.
func Load(dreg uint32, data []byte) Expr {
	return Expr{"immediate", func(b *netlink.Batch) {
		b.BE32(unix.NFTA_IMMEDIATE_DREG, dreg)
		b.Nest(unix.NFTA_IMMEDIATE_DATA, func() { b.Attr(unix.NFTA_DATA_VALUE, data) })
	}}
}

// Verdicts end or turn the way through the rules.
func Accept() Expr           { return verdict(accept, "") }
func Drop() Expr             { return verdict(drop, "") }
func Return() Expr           { return verdict(unix.NFT_RETURN, "") }
func Jump(chain string) Expr { return verdict(unix.NFT_JUMP, chain) }

func verdict(code int32, chain string) Expr {
	return Expr{"immediate", func(b *netlink.Batch) {
		b.BE32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
		b.Nest(unix.NFTA_IMMEDIATE_DATA, func() {
			b.Nest(unix.NFTA_DATA_VERDICT, func() {
				b.BE32(unix.NFTA_VERDICT_CODE, uint32(code))
				if chain != "" {
					b.String(unix.NFTA_VERDICT_CHAIN, chain)
				}
			})
		})
	}}
}

// Counter counts packets and bytes.
func Counter() Expr { return Expr{"counter", func(*netlink.Batch) {}} }

// DNAT sends the packet to the address and port in the registers.
func DNAT(family, addr, port uint32) Expr {
	return Expr{"nat", func(b *netlink.Batch) {
		b.BE32(unix.NFTA_NAT_TYPE, unix.NFT_NAT_DNAT)
		b.BE32(unix.NFTA_NAT_FAMILY, family)
		b.BE32(unix.NFTA_NAT_REG_ADDR_MIN, addr)
		b.BE32(unix.NFTA_NAT_REG_PROTO_MIN, port)
	}}
}

// SNAT gives the packet the address in the register as its sender's.
func SNAT(family, addr uint32) Expr {
	return Expr{"nat", func(b *netlink.Batch) {
		b.BE32(unix.NFTA_NAT_TYPE, unix.NFT_NAT_SNAT)
		b.BE32(unix.NFTA_NAT_FAMILY, family)
		b.BE32(unix.NFTA_NAT_REG_ADDR_MIN, addr)
	}}
}

// Masquerade gives the packet the address of the interface it leaves by.
func Masquerade() Expr { return Expr{"masq", func(*netlink.Batch) {}} }

// AddrType loads the kind of the destination address (unix.RTN_LOCAL, …), of the whole host or of the interface
// it came in by alone.
func AddrType(ofInterface bool, dreg uint32) Expr {
	flags := uint32(unix.NFTA_FIB_F_DADDR)
	if ofInterface {
		flags |= unix.NFTA_FIB_F_IIF
	}
	return Expr{"fib", func(b *netlink.Batch) {
		b.BE32(unix.NFTA_FIB_DREG, dreg)
		b.BE32(unix.NFTA_FIB_RESULT, unix.NFT_FIB_RESULT_ADDRTYPE)
		b.BE32(unix.NFTA_FIB_FLAGS, flags)
	}}
}

// Number is a number in the machine's byte order, as registers of the kernel's own facts hold it.
func Number(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

// Ifname is an interface's name, as registers hold it.
func Ifname(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

// The kernel's verdicts NF_DROP and NF_ACCEPT.
const (
	drop   = 0
	accept = 1
)
