package nft

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Packet is the first packet of a connection, as far as it is known.
type Packet struct {
	In, Out   string         // interfaces; "" where there is none, as with the host's own
	Src       netip.Addr     // invalid: anybody's
	Dst       netip.AddrPort // always known
	Proto     uint8
	DNAT      bool // it was led here by a rule
	Local     bool // Dst is an address of this host
	LocalHere bool // and of the interface In
}

// Judgement is what would become of a packet at a hook.
type Judgement struct {
	Passes bool
	// Sure: no rule could decide otherwise that asks what is not known of the packet, or that cannot be read.
	Sure bool
	// By decided: what refuses the packet, or the rules by which it passes (none where nobody minds).
	By []Place
	// Unless are the rules that may decide otherwise.
	Unless []Place
}

// And is what becomes of a packet that has to pass both.
func (j Judgement) And(next Judgement) Judgement {
	switch {
	case !j.Passes && j.Sure:
		return j
	case !next.Passes && next.Sure:
		return next
	}
	return Judgement{j.Passes && next.Passes, j.Sure && next.Sure, slices.Concat(j.By, next.By), slices.Concat(j.Unless, next.Unless)}
}

// Judge asks all filter chains of a hook (unix.NF_INET_*). A rule that asks for what the packet does not tell (its
// sender, where that is open) or that this package cannot read may match or not: the answer is not sure then.
func (r *Ruleset) Judge(hook uint32, p *Packet) Judgement {
	j := Judgement{Passes: true, Sure: true}
	for i := range r.bases {
		c := &r.bases[i]
		if c.Hook.Num != hook || c.Hook.Type != "filter" && c.Hook.Type != "route" ||
			c.Family != Inet && c.Family != IPv4 && c.Family != IPv6 || c.Family == IPv4 && p.Dst.Addr().Is6() || c.Family == IPv6 && p.Dst.Addr().Is4() {
			continue
		}
		w := walk{r: r, p: p}
		end := w.chain(chainKey{c.Family, c.Table, c.Name}, 0)
		if !end.final {
			end = outcome{final: true, passes: !c.Drops, by: Place{Family: c.Family, Table: c.Table, Chain: c.Name, Verdict: verdictName(!c.Drops)}}
		}
		one := Judgement{Passes: end.passes, Sure: true}
		if !end.passes || end.by.Handle != 0 {
			one.By = []Place{end.by}
		}
		for _, m := range w.maybe {
			if !m.final || m.passes != end.passes {
				one.Sure = false
				one.Unless = append(one.Unless, m.by)
			}
		}
		j = j.And(one)
	}
	return j
}

// Elsewhere lists the rules of nat chains, but those of one table of family inet, that lead the packet to another address, or may. Which
// of several such chains is the first is not always to be seen: where their priorities are the same it is the one made last.
func (r *Ruleset) Elsewhere(hook uint32, p *Packet, but string) (list []Place) {
	for _, c := range r.bases {
		if c.Hook.Num != hook || c.Hook.Type != "nat" || c.Family == Inet && c.Table == but ||
			c.Family != Inet && c.Family != IPv4 && c.Family != IPv6 || c.Family == IPv4 && p.Dst.Addr().Is6() || c.Family == IPv6 && p.Dst.Addr().Is4() {
			continue
		}
		w := walk{r: r, p: p}
		end := w.chain(chainKey{c.Family, c.Table, c.Name}, 0)
		for _, m := range append(w.maybe, end) {
			if m.final && m.by.Verdict == dnat {
				list = append(list, m.by)
			}
		}
	}
	return list
}

const dnat = "dnat"

func verdictName(passes bool) string {
	if passes {
		return "accept"
	}
	return "drop"
}

// outcome is how a chain ends: with a verdict, or by falling through.
type outcome struct {
	final  bool
	passes bool
	by     Place
}

// walk is the way of one packet through one base chain.
type walk struct {
	r     *Ruleset
	p     *Packet
	maybe []outcome // verdicts of rules that may have matched
	steps int
}

const (
	maxDepth = 16 // NFT_JUMP_STACK_SIZE
	maxSteps = 1 << 16
)

func (w *walk) chain(k chainKey, depth int) outcome {
	if depth > maxDepth {
		return outcome{}
	}
	for _, rule := range w.r.rules[k] {
		if w.steps++; w.steps > maxSteps {
			return outcome{}
		}
		m := machine{w: w, rule: rule}
		sure := m.run()
		if sure == no || !m.decided {
			continue
		}
		place := Place{rule.Family, rule.Table, rule.Chain, rule.Handle, rule.Comment, m.name}
		var end outcome
		leaves := false // the chain, without a verdict
		switch {
		case m.name != "":
			end = outcome{true, m.code == accept, place}
		case m.code == unix.NFT_RETURN:
			leaves = true
		case m.code == unix.NFT_JUMP || m.code == unix.NFT_GOTO:
			end = w.chain(chainKey{rule.Family, rule.Table, m.chain}, depth+1)
			leaves = m.code == unix.NFT_GOTO && !end.final
		}
		if sure == perhaps {
			if end.final {
				w.maybe = append(w.maybe, end)
			} else if leaves {
				place.Verdict = "return"
				w.maybe = append(w.maybe, outcome{by: place})
			}
			continue
		}
		if end.final {
			return end
		}
		if leaves {
			break
		}
	}
	return outcome{}
}

// tri is an answer that may be open.
type tri int8

const (
	no tri = iota
	perhaps
	yes
)

func and(a, b tri) tri { return min(a, b) }

func of(b bool) tri {
	if b {
		return yes
	}
	return no
}

// machine is nf_tables' own, for one rule: registers of bytes that are known or not.
type machine struct {
	w     *walk
	rule  *readRule
	val   [64]byte
	known [64]bool

	decided bool
	code    int32
	chain   string
	name    string // of a verdict that ends the way: accept, drop, reject
}

func register(n uint32) int {
	if n >= 8 {
		return int(n-8) * 4
	}
	return int(n-1) * 16
}

func (m *machine) store(reg uint32, v []byte, known bool) {
	at := register(reg)
	if reg == 0 || at < 0 || len(v) > len(m.val) || at > len(m.val)-len(v) {
		return
	}
	n := (len(v) + 3) &^ 3
	for i := range n {
		if at+i >= len(m.val) {
			break
		}
		m.val[at+i], m.known[at+i] = 0, known || i >= len(v)
		if i < len(v) {
			m.val[at+i] = v[i]
		}
	}
}

func (m *machine) load(reg uint32, n int) (v []byte, known []bool) {
	at := register(reg)
	n = min(max(n, 0), len(m.val))
	if at < 0 || at > len(m.val)-n {
		return make([]byte, n), make([]bool, n) // nothing is known of it
	}
	return m.val[at : at+n], m.known[at : at+n]
}

// run tells whether the rule matches, and what it decides then.
func (m *machine) run() tri {
	sure := yes
	for i := range m.rule.exprs {
		e := &m.rule.exprs[i]
		switch e.name {
		case "counter", "log", "notrack", "dynset", "objref", "dup", "last":
		case "meta":
			if _, sets := e.attrs[unix.NFTA_META_SREG]; !sets {
				v, known := m.meta(e.be32(unix.NFTA_META_KEY))
				m.store(e.be32(unix.NFTA_META_DREG), v, known)
			}
		case "payload":
			if _, sets := e.attrs[unix.NFTA_PAYLOAD_SREG]; !sets {
				m.payload(e.be32(unix.NFTA_PAYLOAD_BASE), int(e.be32(unix.NFTA_PAYLOAD_OFFSET)), int(e.be32(unix.NFTA_PAYLOAD_LEN)), e.be32(unix.NFTA_PAYLOAD_DREG))
			}
		case "ct":
			if _, sets := e.attrs[unix.NFTA_CT_SREG]; !sets {
				v, known := m.ct(e.be32(unix.NFTA_CT_KEY))
				m.store(e.be32(unix.NFTA_CT_DREG), v, known)
			}
		case "fib":
			m.fib(e)
		case "immediate":
			if e.be32(unix.NFTA_IMMEDIATE_DREG) != unix.NFT_REG_VERDICT {
				m.store(e.be32(unix.NFTA_IMMEDIATE_DREG), e.data(unix.NFTA_IMMEDIATE_DATA), true)
				continue
			}
			code, chain, ok := verdictIn(e.attrs[unix.NFTA_IMMEDIATE_DATA])
			if !ok {
				return no
			}
			return and(sure, m.decide(code, chain))
		case "nat", "redir":
			if e.name == "nat" && e.be32(unix.NFTA_NAT_TYPE) != unix.NFT_NAT_DNAT {
				continue
			}
			m.decided, m.code, m.name = true, accept, dnat
			return sure
		case "reject":
			m.decided, m.code, m.name = true, drop, "reject"
			return sure
		case "bitwise":
			m.bitwise(e)
		case "cmp":
			sure = and(sure, m.compare(e))
		case "range":
			sure = and(sure, m.inRange(e))
		case "lookup":
			t, done := m.lookup(e)
			sure = and(sure, t)
			if done {
				return sure
			}
		case "match":
			sure = and(sure, m.match(e))
		case "target":
			switch text(e.attrs[unix.NFTA_TARGET_NAME]) {
			case "REJECT":
				m.decided, m.code, m.name = true, drop, "reject"
				return sure
			case "DNAT", "REDIRECT":
				m.decided, m.code, m.name = true, accept, dnat
				return sure
			case "LOG", "NFLOG", "MARK", "CONNMARK", "CT", "TCPMSS":
			default:
				sure = and(sure, perhaps)
			}
		default: // limit, socket, numgen, exthdr, …: whatever it loads is open, and so is whether it matches
			for i := range m.known {
				m.known[i] = false
			}
			sure = and(sure, perhaps)
		}
		if sure == no {
			return no
		}
	}
	return sure
}

func text(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// decide takes a verdict; no: it is none that turns the way.
func (m *machine) decide(code int32, chain string) tri {
	m.decided, m.code, m.chain = true, code, chain
	switch {
	case code == accept:
		m.name = "accept"
	case code == drop:
		m.name = "drop"
	case code == unix.NFT_CONTINUE:
		return no
	case code == unix.NFT_RETURN || code == unix.NFT_JUMP || code == unix.NFT_GOTO:
	case code&0xff == nfQueue: // somebody's program decides
		m.code, m.name = drop, "queue"
		return perhaps
	default:
		return no
	}
	return yes
}

const nfQueue = 3 // NF_QUEUE

func (m *machine) meta(key uint32) (v []byte, known bool) {
	p := m.w.p
	switch key {
	case unix.NFT_META_NFPROTO:
		if p.Dst.Addr().Is6() {
			return []byte{IPv6}, true
		}
		return []byte{IPv4}, true
	case unix.NFT_META_PROTOCOL:
		if p.Dst.Addr().Is6() {
			return []byte{0x86, 0xdd}, true
		}
		return []byte{0x08, 0}, true
	case unix.NFT_META_L4PROTO:
		return []byte{p.Proto}, true
	case unix.NFT_META_IIFNAME:
		return Ifname(p.In), p.In != "?"
	case unix.NFT_META_OIFNAME:
		return Ifname(p.Out), p.Out != "?"
	case unix.NFT_META_IIF:
		return Number(m.w.r.index(p.In)), p.In != "?" && p.In != ""
	case unix.NFT_META_OIF:
		return Number(m.w.r.index(p.Out)), p.Out != "?" && p.Out != ""
	case unix.NFT_META_PKTTYPE:
		return []byte{0}, true // PACKET_HOST
	case unix.NFT_META_MARK:
		return make([]byte, 4), false
	case unix.NFT_META_IIFTYPE, unix.NFT_META_OIFTYPE:
		return make([]byte, 2), false
	}
	return make([]byte, 16), false
}

func (m *machine) ct(key uint32) (v []byte, known bool) {
	switch key {
	case unix.NFT_CT_STATE:
		return Number(1 << 3), true // new
	case unix.NFT_CT_STATUS:
		var status uint32
		if m.w.p.DNAT {
			status = 1 << 5 // IPS_DST_NAT
		}
		return Number(status), true
	case unix.NFT_CT_DIRECTION:
		return []byte{0}, true
	}
	return make([]byte, 16), false
}

// payload reads headers as far as they are known.
func (m *machine) payload(base uint32, offset, n int, dreg uint32) {
	if n <= 0 || n > 16 || offset < 0 || offset > 1<<16 {
		return
	}
	p := m.w.p
	head, known := make([]byte, offset+n), make([]bool, offset+n)
	put := func(at int, v []byte) {
		for i, b := range v {
			if at+i < len(head) {
				head[at+i], known[at+i] = b, true
			}
		}
	}
	switch base {
	case unix.NFT_PAYLOAD_NETWORK_HEADER:
		src, dst, proto := 12, 16, 9
		if p.Dst.Addr().Is6() {
			src, dst, proto = 8, 24, 6
		}
		put(proto, []byte{p.Proto})
		put(dst, p.Dst.Addr().AsSlice())
		if p.Src.IsValid() {
			put(src, p.Src.AsSlice())
		}
	case unix.NFT_PAYLOAD_TRANSPORT_HEADER:
		put(2, binary.BigEndian.AppendUint16(nil, p.Dst.Port()))
		if p.Proto == unix.IPPROTO_TCP {
			put(13, []byte{2}) // SYN
		}
	}
	at := register(dreg)
	m.store(dreg, head[offset:], true)
	for i := range n {
		if at >= 0 && at+i < len(m.known) {
			m.known[at+i] = known[offset+i]
		}
	}
}

func (m *machine) fib(e *readExpr) {
	p := m.w.p
	flags := e.be32(unix.NFTA_FIB_FLAGS)
	if e.be32(unix.NFTA_FIB_RESULT) == unix.NFT_FIB_RESULT_ADDRTYPE && flags&unix.NFTA_FIB_F_DADDR != 0 {
		kind, local := uint32(unix.RTN_UNICAST), p.Local
		if flags&unix.NFTA_FIB_F_IIF != 0 {
			local = p.LocalHere
		}
		if local {
			kind = unix.RTN_LOCAL
		}
		m.store(e.be32(unix.NFTA_FIB_DREG), Number(kind), true)
		return
	}
	m.store(e.be32(unix.NFTA_FIB_DREG), make([]byte, 16), false)
}

func (m *machine) bitwise(e *readExpr) {
	n := int(e.be32(unix.NFTA_BITWISE_LEN))
	mask, xor := e.data(unix.NFTA_BITWISE_MASK), e.data(unix.NFTA_BITWISE_XOR)
	const op = 6 // NFTA_BITWISE_OP; 0 is bool
	v, known := m.load(e.be32(unix.NFTA_BITWISE_SREG), n)
	out, sure := make([]byte, len(v)), make([]bool, len(v))
	for i := range v {
		if e.be32(op) != 0 || i >= len(mask) || i >= len(xor) {
			continue
		}
		out[i], sure[i] = v[i]&mask[i]^xor[i], known[i] || mask[i] == 0
	}
	dreg := e.be32(unix.NFTA_BITWISE_DREG)
	m.store(dreg, out, true)
	at := register(dreg)
	for i := range sure {
		if at >= 0 && at+i < len(m.known) {
			m.known[at+i] = sure[i]
		}
	}
}

// equal compares what is known.
func equal(v []byte, known []bool, to []byte) tri {
	t := yes
	for i := range to {
		switch {
		case i >= len(v):
			return no
		case !known[i]:
			t = and(t, perhaps)
		case v[i] != to[i]:
			return no
		}
	}
	return t
}

func not(t tri) tri { return yes - t }

func (m *machine) compare(e *readExpr) tri {
	to := e.data(unix.NFTA_CMP_DATA)
	v, known := m.load(e.be32(unix.NFTA_CMP_SREG), len(to))
	switch op := e.be32(unix.NFTA_CMP_OP); op {
	case unix.NFT_CMP_EQ:
		return equal(v, known, to)
	case unix.NFT_CMP_NEQ:
		return not(equal(v, known, to))
	default:
		if slices.Contains(known, false) {
			return perhaps
		}
		c := slices.Compare(v, to)
		switch op {
		case unix.NFT_CMP_LT:
			return of(c < 0)
		case unix.NFT_CMP_LTE:
			return of(c <= 0)
		case unix.NFT_CMP_GT:
			return of(c > 0)
		}
		return of(c >= 0)
	}
}

func (m *machine) inRange(e *readExpr) tri {
	from, to := e.data(unix.NFTA_RANGE_FROM_DATA), e.data(unix.NFTA_RANGE_TO_DATA)
	v, known := m.load(e.be32(unix.NFTA_RANGE_SREG), len(from))
	if slices.Contains(known, false) {
		return perhaps
	}
	in := of(slices.Compare(v, from) >= 0 && slices.Compare(v, to) <= 0)
	if e.be32(unix.NFTA_RANGE_OP) == unix.NFT_RANGE_NEQ {
		return not(in)
	}
	return in
}

// lookup asks a set. done: it was a map of verdicts, and gave one.
func (m *machine) lookup(e *readExpr) (t tri, done bool) {
	s := m.w.r.set(setKey{m.rule.Family, m.rule.Table, text(e.attrs[unix.NFTA_LOOKUP_SET])})
	dreg, maps := e.be32(unix.NFTA_LOOKUP_DREG), e.attrs[unix.NFTA_LOOKUP_DREG] != nil
	if s == nil || s.unread || s.flags&unix.NFT_SET_EVAL != 0 {
		if maps && dreg != unix.NFT_REG_VERDICT {
			m.store(dreg, make([]byte, 16), false)
		}
		return perhaps, false
	}
	v, known := m.load(e.be32(unix.NFTA_LOOKUP_SREG), s.keyLen)
	t, found := s.holds(v, known)
	if e.be32(unix.NFTA_LOOKUP_FLAGS)&unix.NFT_LOOKUP_F_INV != 0 {
		return not(t), false
	}
	switch {
	case t == no || !maps:
		return t, false
	case dreg != unix.NFT_REG_VERDICT:
		if found != nil {
			m.store(dreg, found.data, true)
		} else {
			m.store(dreg, make([]byte, 16), false)
		}
		return t, false
	case found == nil:
		return perhaps, false
	}
	return and(t, m.decide(found.code, found.chain)), true
}

// holds tells whether the set has a key, and the element if it is known which.
func (s *readSet) holds(v []byte, known []bool) (t tri, found *readElement) {
	var all *readElement
	intervals := s.flags&unix.NFT_SET_INTERVAL != 0
	open := slices.Contains(known, false)
	if intervals && s.flags&setConcat == 0 {
		if open {
			return min(of(len(s.elems) > 0), perhaps), nil
		}
		for i := range s.elems {
			x := &s.elems[i]
			switch {
			case x.flags&elemCatchAll != 0:
				all = x
			case slices.Compare(x.key, v) <= 0:
				if found = x; x.flags&unix.NFT_SET_ELEM_INTERVAL_END != 0 {
					found = nil
				}
			}
		}
		if found == nil {
			found = all
		}
		return of(found != nil), found
	}
	for i := range s.elems {
		x := &s.elems[i]
		if x.flags&elemCatchAll != 0 {
			all = x
			continue
		}
		one := no
		if len(x.end) == 0 {
			one = equal(v, known, x.key)
		} else {
			one = s.between(v, known, x)
		}
		if one == yes {
			return yes, x
		}
		t = max(t, one)
	}
	if t == no && all != nil {
		return yes, all
	}
	return t, nil
}

// between compares the parts of a joined key with an element of ranges.
func (s *readSet) between(v []byte, known []bool, x *readElement) tri {
	t, at := yes, 0
	for _, n := range s.fields {
		if at+n > len(v) || at+n > len(x.key) || at+n > len(x.end) {
			return perhaps
		}
		if slices.Contains(known[at:at+n], false) {
			t = and(t, perhaps)
		} else if slices.Compare(v[at:at+n], x.key[at:at+n]) < 0 || slices.Compare(v[at:at+n], x.end[at:at+n]) > 0 {
			return no
		}
		at += (n + 3) &^ 3
	}
	if len(s.fields) == 0 {
		return perhaps
	}
	return t
}

// match reads the matches of iptables-nft that its users' rules are mostly made of.
func (m *machine) match(e *readExpr) tri {
	b := e.attrs[unix.NFTA_MATCH_INFO]
	p := m.w.p
	switch name := text(e.attrs[unix.NFTA_MATCH_NAME]); {
	case name == "comment":
		return yes
	case (name == "tcp" || name == "udp") && len(b) >= 9:
		// struct xt_tcp, xt_udp: source and destination ports from and to; inversions are the last byte's.
		if name == "tcp" && p.Proto != unix.IPPROTO_TCP || name == "udp" && p.Proto != unix.IPPROTO_UDP {
			return no
		}
		lo, hi := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:])
		inv, flags := b[8], yes
		if name == "tcp" {
			if len(b) < 12 {
				return perhaps
			}
			inv = b[11]
			if b[9] != 0 { // --syn and its like, of the first packet
				flags = of((2&b[9] == b[10]) != (inv&4 != 0))
			}
			if b[8] != 0 {
				flags = and(flags, perhaps)
			}
		}
		in := of((p.Dst.Port() >= lo && p.Dst.Port() <= hi) != (inv&2 != 0))
		if binary.NativeEndian.Uint16(b) != 0 || binary.NativeEndian.Uint16(b[2:]) != 0xffff {
			in = and(in, perhaps)
		}
		return and(in, flags)
	case name == "multiport" && len(b) >= 48:
		return m.multiport(b)
	case name == "conntrack" && len(b) >= 152:
		// struct xt_conntrack_mtinfo2 and 3: what is asked for, what of that is inverted, and which states.
		asked, inverted, states := binary.NativeEndian.Uint16(b[146:]), binary.NativeEndian.Uint16(b[148:]), binary.NativeEndian.Uint16(b[150:])
		const state, isNew, isDNAT = 1, 1 << 3, 1 << 7
		if asked != state {
			return perhaps
		}
		is := states&isNew != 0 || p.DNAT && states&isDNAT != 0
		return of(is != (inverted&state != 0))
	}
	return perhaps
}

// multiport is struct xt_multiport_v1: which ports are meant, how many, the ports, which of them begin a range.
func (m *machine) multiport(b []byte) tri {
	const source, destination = 0, 1
	if b[0] == source || int(b[1]) > 15 {
		return perhaps
	}
	port, is := m.w.p.Dst.Port(), false
	for i := 0; i < int(b[1]); i++ {
		from := binary.NativeEndian.Uint16(b[2+2*i:])
		to := from
		if b[32+i] != 0 && i+1 < int(b[1]) {
			i++
			to = binary.NativeEndian.Uint16(b[2+2*i:])
		}
		is = is || port >= from && port <= to
	}
	if b[0] != destination && !is {
		return perhaps
	}
	return of(is != (b[47] != 0))
}

// index is that of an interface by name, in the thread's namespace.
func (r *Ruleset) index(name string) uint32 {
	return r.Index[name]
}
