package link

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/netlink"
)

// Divert has packets with a mark delivered here, whatever address they are for: a rule of routing (ip-rule(8)) that leads
// them to a table of their own, in which everything is the host's. The table has the mark's number.
type Divert struct {
	Mark     uint32
	Priority uint32 // of the rule; main's is 32766
}

func (d *Divert) messages(rule, route, flags uint16, family byte) *netlink.Batch {
	var b netlink.Batch
	h := make([]byte, unix.SizeofRtMsg)
	h[0], h[5], h[6], h[7] = family, unix.RTPROT_STATIC, unix.RT_SCOPE_HOST, unix.RTN_LOCAL
	b.Begin(route, flags, h)
	b.U32(unix.RTA_TABLE, d.Mark)
	b.U32(unix.RTA_OIF, 1) // loopback's, in every namespace
	r := make([]byte, 12)  // struct fib_rule_hdr
	r[0], r[7] = family, unix.FR_ACT_TO_TBL
	b.Begin(rule, flags, r)
	b.U32(unix.FRA_PRIORITY, d.Priority)
	b.U32(unix.FRA_FWMARK, d.Mark)
	b.U32(unix.FRA_FWMASK, 1<<32-1)
	b.U32(unix.FRA_TABLE, d.Mark)
	return &b
}

// AddDivert makes rule and table for both families; what is there stays. A host without IPv6 goes without that.
func (c *Conn) AddDivert(d *Divert) error {
	for _, f := range []byte{unix.AF_INET, unix.AF_INET6} {
		// What is there already is left out, the rest is made: the kernel carries out each message by itself.
		err := c.Do(d.messages(unix.RTM_NEWRULE, unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, f))
		if err == nil || errors.Is(err, unix.EEXIST) || f == unix.AF_INET6 && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)) {
			continue
		}
		return fmt.Errorf("divert marked packets: %w", err)
	}
	return nil
}

// MonitorRouting waits for changes to rules of routing and to routes of the calling thread's namespace.
func MonitorRouting() (*netlink.Conn, error) {
	return netlink.Dial(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
}

// Took reports whether a message of a MonitorRouting tells that the rule or something of its table was taken away.
func (d *Divert) Took(m netlink.Message) (yes bool) {
	const head = unix.SizeofRtMsg // struct fib_rule_hdr is as long, and FRA_TABLE is RTA_TABLE
	if m.Type != unix.RTM_DELRULE && m.Type != unix.RTM_DELROUTE || len(m.Data) < head {
		return false
	}
	netlink.Attrs(m.Data[head:], func(typ uint16, data []byte) {
		if typ == unix.RTA_TABLE && len(data) == 4 {
			yes = binary.NativeEndian.Uint32(data) == d.Mark
		}
	})
	return yes
}

// DeleteDivert takes away what AddDivert made.
func (c *Conn) DeleteDivert(d *Divert) error {
	var first error
	for _, f := range []byte{unix.AF_INET, unix.AF_INET6} {
		err := c.Do(d.messages(unix.RTM_DELRULE, unix.RTM_DELROUTE, 0, f))
		switch {
		case err == nil, errors.Is(err, unix.ENOENT), errors.Is(err, unix.ESRCH), errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EOPNOTSUPP):
		case first == nil:
			first = fmt.Errorf("divert marked packets no longer: %w", err)
		}
	}
	return first
}
