package nft

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/netlink"
)

// expressions are those of a rule, as the kernel tells them.
func expressions(list ...Expr) []byte {
	var b netlink.Batch
	b.Begin(0, 0, nil)
	before := len(b.Bytes())
	for _, e := range list {
		b.Nest(unix.NFTA_LIST_ELEM, func() {
			b.String(unix.NFTA_EXPR_NAME, e.name)
			b.Nest(unix.NFTA_EXPR_DATA, func() { e.fill(&b) })
		})
	}
	return b.Bytes()[before:]
}

func syn(dst string) *Packet {
	return &Packet{In: "eth0", Out: "br0", Dst: netip.MustParseAddrPort(dst), Proto: unix.IPPROTO_TCP, DNAT: true}
}

// judged is what one chain of these rules makes of a packet.
func judged(p *Packet, drops bool, rules ...[]byte) Judgement {
	r := &Ruleset{bases: []BaseChain{{Family: Inet, Table: "t", Name: "c", Hook: Hook{Type: "filter", Num: unix.NF_INET_FORWARD}, Drops: drops}}, rules: map[chainKey][]*readRule{}}
	k := chainKey{Inet, "t", "c"}
	for i, x := range rules {
		r.rules[k] = append(r.rules[k], &readRule{Rule: Rule{Family: Inet, Table: "t", Chain: "c", Handle: uint64(i + 1)}, exprs: readExprs(x)})
	}
	return r.Judge(unix.NF_INET_FORWARD, p)
}

func TestJudge(t *testing.T) {
	src := func(a ...byte) []Expr {
		return []Expr{Payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 12, 4, R1), Equal(R1, a)}
	}
	port := func(n byte) []Expr {
		return []Expr{Payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, R1), Equal(R1, []byte{0, n})}
	}
	then := func(e []Expr, v Expr) []byte { return expressions(append(e, v)...) }
	established := []Expr{Ct(unix.NFT_CT_STATE, R1), Mask(R1, Number(6)), NotEqual(R1, Number(0))}
	for _, c := range []struct {
		name         string
		drops        bool
		rules        [][]byte
		passes, sure bool
		by, unless   int
	}{
		{"nothing", false, nil, true, true, 0, 0},
		{"a policy", true, nil, false, true, 1, 0},
		{"an accept", true, [][]byte{then(port(80), Accept())}, true, true, 1, 0},
		{"another's accept", true, [][]byte{then(port(81), Accept()), then(established, Accept())}, false, true, 1, 0},
		{"who sends is open", false, [][]byte{then(src(1, 2, 3, 4), Drop())}, true, false, 0, 1},
		{"but not what else is asked", false, [][]byte{then(append(src(1, 2, 3, 4), port(81)...), Drop())}, true, true, 0, 0},
		{"who sends does not matter", true, [][]byte{then(src(1, 2, 3, 4), Drop()), then(port(80), Accept())}, true, false, 1, 1},
		{"a rule behind", true, [][]byte{then(port(80), Accept()), then(nil, Drop())}, true, true, 1, 0},
		{"led here", false, [][]byte{then([]Expr{Ct(unix.NFT_CT_STATUS, R1), Mask(R1, Number(1<<5)), NotEqual(R1, Number(0))}, Drop())}, false, true, 1, 0},
		{"interfaces", true, [][]byte{then([]Expr{Meta(unix.NFT_META_IIFNAME, R1), Equal(R1, []byte("eth"))}, Accept())}, true, true, 1, 0},
		{"a set that cannot be read", false, [][]byte{then([]Expr{Meta(unix.NFT_META_IIFNAME, R1), In("nosuch", R1)}, Drop())}, true, false, 0, 1},
		{"what is not known", true, [][]byte{then([]Expr{{"limit", func(*netlink.Batch) {}}}, Accept())}, false, false, 1, 1},
		{"return", true, [][]byte{then(port(80), Return()), then(nil, Accept())}, false, true, 1, 0},
	} {
		j := judged(syn("10.0.0.2:80"), c.drops, c.rules...)
		if j.Passes != c.passes || j.Sure != c.sure || len(j.By) != c.by || len(j.Unless) != c.unless {
			t.Errorf("%s: %+v", c.name, j)
		}
	}
}

// FuzzJudge: whatever rules others have written, asking them ends, and hurts nobody.
func FuzzJudge(f *testing.F) {
	f.Add(expressions(Meta(unix.NFT_META_IIFNAME, R1), In("bridges", R1), Counter(), Jump("c")), false)
	f.Add(expressions(Payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 16, 4, R1), Mask(R1, []byte{255, 0, 0, 0}), Equal(R1, []byte{127, 0, 0, 0}), Drop()), true)
	f.Add(expressions(AddrType(true, R1), Load(R32+15, []byte{1, 2, 3, 4}), Transparent(R1), SetMark(R1), Jump("c")), true)
	f.Add(expressions(Payload(9, 1<<20, 1<<30, 1<<31), Mask(1<<31, make([]byte, 64)), Equal(0, nil), Return()), false)
	f.Fuzz(func(t *testing.T, rule []byte, v6 bool) {
		p := syn("10.0.0.2:80")
		if v6 {
			p = syn("[fd00::2]:80")
		}
		judged(p, false, rule, rule)
	})
}
