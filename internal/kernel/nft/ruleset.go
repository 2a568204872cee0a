package nft

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/netlink"
)

// Ruleset is all rules of a namespace, read to ask what would become of a packet ([Ruleset.Judge]). Sets are read when a
// rule asks them.
type Ruleset struct {
	// Index is what rules by number ask for; the caller sets it.
	Index map[string]uint32

	conn  *Conn
	bases []BaseChain // in the order of their priorities
	rules map[chainKey][]*readRule
	sets  map[setKey]*readSet
}

type chainKey struct {
	family       byte
	table, chain string
}

type setKey struct {
	family     byte
	table, set string
}

// readRule is a rule with its expressions.
type readRule struct {
	Rule
	exprs []readExpr
}

type readExpr struct {
	name  string
	attrs map[uint16][]byte
}

func (e *readExpr) be32(typ uint16) uint32 {
	if v := e.attrs[typ]; len(v) == 4 {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

// data returns the bytes that a nested attribute holds.
func (e *readExpr) data(typ uint16) (value []byte) {
	netlink.Attrs(e.attrs[typ], func(t uint16, d []byte) {
		if t == unix.NFTA_DATA_VALUE {
			value = d
		}
	})
	return value
}

type readSet struct {
	flags  uint32
	keyLen int
	fields []int // lengths in bytes of a joined key's parts, as far as the kernel tells
	loaded bool
	unread bool // it could not be read, or is too big
	elems  []readElement
}

type readElement struct {
	key, end, data []byte
	code           int32 // of a verdict map
	chain          string
	verdict        bool
	flags          uint32
}

// maxRead bounds the elements of one set that are looked at; what a larger one holds is taken for unknown.
const maxRead = 1 << 16

const (
	setConcat    = 1 << 7 // NFT_SET_CONCAT
	elemCatchAll = 1 << 1 // NFT_SET_ELEM_CATCHALL
	setDescParts = 2      // NFTA_SET_DESC_CONCAT
	setFieldLen  = 1      // NFTA_SET_FIELD_LEN
	setElemEnd   = 10     // NFTA_SET_ELEM_KEY_END
)

// Ruleset reads all chains and rules.
func (c *Conn) Ruleset() (*Ruleset, error) {
	r := &Ruleset{conn: c}
	var err error
	if r.bases, err = c.BaseChains(); err != nil {
		return nil, err
	}
	slices.SortStableFunc(r.bases, func(a, b BaseChain) int { return cmp.Compare(a.Hook.Priority, b.Hook.Priority) })
	var tx Tx
	tx.begin(unix.NFT_MSG_GETRULE, 0, unix.NFPROTO_UNSPEC)
	err = c.Dump(&tx.batch, func() { r.rules = map[chainKey][]*readRule{} }, func(m netlink.Message) {
		if rule, ok := readOne(m); ok {
			k := chainKey{rule.Family, rule.Table, rule.Chain}
			r.rules[k] = append(r.rules[k], rule)
		}
	})
	if err != nil {
		return nil, err
	}
	var st Tx
	st.begin(unix.NFT_MSG_GETSET, 0, unix.NFPROTO_UNSPEC)
	err = c.Dump(&st.batch, func() { r.sets = map[setKey]*readSet{} }, func(m netlink.Message) {
		if len(m.Data) < 4 {
			return
		}
		k, s := setKey{family: m.Data[0]}, &readSet{}
		netlink.Attrs(m.Data[4:], func(typ uint16, data []byte) {
			switch {
			case typ == unix.NFTA_SET_TABLE:
				k.table = netlink.Text(data)
			case typ == unix.NFTA_SET_NAME:
				k.set = netlink.Text(data)
			case typ == unix.NFTA_SET_FLAGS && len(data) == 4:
				s.flags = binary.BigEndian.Uint32(data)
			case typ == unix.NFTA_SET_KEY_LEN && len(data) == 4:
				s.keyLen = int(binary.BigEndian.Uint32(data))
			case typ == unix.NFTA_SET_DESC:
				s.fields = fieldsOf(data)
			}
		})
		r.sets[k] = s
	})
	return r, err
}

func fieldsOf(desc []byte) (list []int) {
	netlink.Attrs(desc, func(typ uint16, data []byte) {
		if typ != setDescParts {
			return
		}
		netlink.Attrs(data, func(_ uint16, data []byte) {
			netlink.Attrs(data, func(typ uint16, data []byte) {
				if typ == setFieldLen && len(data) == 4 {
					list = append(list, int(binary.BigEndian.Uint32(data)))
				}
			})
		})
	})
	return list
}

func readOne(m netlink.Message) (*readRule, bool) {
	if len(m.Data) < 4 {
		return nil, false
	}
	r := &readRule{Rule: Rule{Family: m.Data[0]}}
	netlink.Attrs(m.Data[4:], func(typ uint16, data []byte) {
		if typ == unix.NFTA_RULE_EXPRESSIONS {
			r.exprs = readExprs(data)
		}
		r.read(typ, data)
	})
	return r, true
}

func readExprs(expressions []byte) (list []readExpr) {
	netlink.Attrs(expressions, func(_ uint16, data []byte) {
		e := readExpr{attrs: map[uint16][]byte{}}
		netlink.Attrs(data, func(typ uint16, data []byte) {
			switch typ {
			case unix.NFTA_EXPR_NAME:
				e.name = netlink.Text(data)
			case unix.NFTA_EXPR_DATA:
				netlink.Attrs(data, func(typ uint16, data []byte) { e.attrs[typ] = append([]byte(nil), data...) })
			}
		})
		list = append(list, e)
	})
	return list
}

// verdictIn reads a nested verdict.
func verdictIn(data []byte) (code int32, chain string, ok bool) {
	netlink.Attrs(data, func(typ uint16, data []byte) {
		if typ != unix.NFTA_DATA_VERDICT {
			return
		}
		netlink.Attrs(data, func(typ uint16, data []byte) {
			switch {
			case typ == unix.NFTA_VERDICT_CODE && len(data) == 4:
				code, ok = int32(binary.BigEndian.Uint32(data)), true
			case typ == unix.NFTA_VERDICT_CHAIN:
				chain = netlink.Text(data)
			}
		})
	})
	return code, chain, ok
}

// set returns a set with its elements, nil where it cannot be read.
func (r *Ruleset) set(k setKey) *readSet {
	s := r.sets[k]
	if s == nil || s.loaded {
		return s
	}
	s.loaded = true
	var tx Tx
	tx.begin(unix.NFT_MSG_GETSETELEM, 0, k.family)
	tx.batch.String(unix.NFTA_SET_ELEM_LIST_TABLE, k.table)
	tx.batch.String(unix.NFTA_SET_ELEM_LIST_SET, k.set)
	err := r.conn.Dump(&tx.batch, func() { s.elems, s.unread = nil, false }, func(m netlink.Message) {
		if len(m.Data) < 4 || s.unread {
			return
		}
		netlink.Attrs(m.Data[4:], func(typ uint16, data []byte) {
			if typ != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				return
			}
			netlink.Attrs(data, func(_ uint16, data []byte) { s.elems = append(s.elems, readElem(data)) })
		})
		if len(s.elems) > maxRead {
			s.elems, s.unread = nil, true
		}
	})
	if err != nil {
		s.unread = true
	}
	if s.flags&unix.NFT_SET_INTERVAL != 0 {
		// Where one range ends the next may begin: the end comes first.
		slices.SortStableFunc(s.elems, func(a, b readElement) int {
			if c := slices.Compare(a.key, b.key); c != 0 {
				return c
			}
			return cmp.Compare(b.flags&unix.NFT_SET_ELEM_INTERVAL_END, a.flags&unix.NFT_SET_ELEM_INTERVAL_END)
		})
	}
	return s
}

func readElem(data []byte) (e readElement) {
	value := func(data []byte) (v []byte) {
		netlink.Attrs(data, func(typ uint16, data []byte) {
			if typ == unix.NFTA_DATA_VALUE {
				v = append([]byte(nil), data...)
			}
		})
		return v
	}
	netlink.Attrs(data, func(typ uint16, data []byte) {
		switch {
		case typ == unix.NFTA_SET_ELEM_KEY:
			e.key = value(data)
		case typ == setElemEnd:
			e.end = value(data)
		case typ == unix.NFTA_SET_ELEM_DATA:
			if e.code, e.chain, e.verdict = verdictIn(data); !e.verdict {
				e.data = value(data)
			}
		case typ == unix.NFTA_SET_ELEM_FLAGS && len(data) == 4:
			e.flags = binary.BigEndian.Uint32(data)
		}
	})
	return e
}

// Leads returns what a map of ours has for a key; nil where it has nothing, or cannot be read.
func (r *Ruleset) Leads(family byte, table, set string, key []byte) []byte {
	s := r.set(setKey{family, table, set})
	if s == nil || s.unread {
		return nil
	}
	for i := range s.elems {
		if slices.Equal(s.elems[i].key, key) {
			return s.elems[i].data
		}
	}
	return nil
}

// Place names a rule, or a chain's policy where Handle is 0.
type Place struct {
	Family       byte
	Table, Chain string
	Handle       uint64
	Comment      string
	Verdict      string // "accept", "drop", "reject"
}

// FamilyName is how the nft program calls a family.
func FamilyName(f byte) string {
	switch f {
	case Inet:
		return "inet"
	case IPv4:
		return "ip"
	case IPv6:
		return "ip6"
	}
	return fmt.Sprintf("family %d", f)
}

func (p Place) String() string {
	where := fmt.Sprintf("chain %s %s %s", FamilyName(p.Family), p.Table, p.Chain)
	if p.Handle == 0 {
		return fmt.Sprintf("the policy %s of %s", p.Verdict, where)
	}
	s := fmt.Sprintf("the rule with handle %d of %s (%s)", p.Handle, where, p.Verdict)
	if p.Comment != "" {
		s += fmt.Sprintf(", %q", p.Comment)
	}
	return s
}
