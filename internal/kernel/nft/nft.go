// Package nft writes nf_tables rules by netlink: whole tables in one transaction, and single elements of maps.
//
// It knows the few expressions that Gantry's own tables are made of, in the kernel's own form (what `nft --debug=netlink`
// shows): registers, comparisons, look-ups. A register is 16 bytes wide as 1…4, or 4 bytes as 8…23; the same memory.
package nft

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/netlink"
)

// Address families of tables.
const (
	Inet = unix.NFPROTO_INET
	IPv4 = unix.NFPROTO_IPV4
	IPv6 = unix.NFPROTO_IPV6
)

// Registers.
const (
	R1   = unix.NFT_REG_1
	R32  = unix.NFT_REG32_00 // the first 4 bytes of R1; R32+n is the n-th 4 bytes behind
	none = 0
)

// Tx is a transaction in the making.
type Tx struct {
	batch netlink.Batch
	setID uint32
}

// Conn speaks to one network namespace's nf_tables.
type Conn struct{ *netlink.Conn }

// Dial opens a connection to the calling thread's namespace.
func Dial() (*Conn, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	return &Conn{c}, nil
}

// Commit carries out all of the transaction, or nothing.
func (c *Conn) Commit(tx *Tx) error { return c.Transact(unix.NFNL_SUBSYS_NFTABLES, &tx.batch) }

func (t *Tx) begin(msg, flags uint16, family byte) {
	t.batch.Begin(unix.NFNL_SUBSYS_NFTABLES<<8|msg, flags, []byte{family, 0, 0, 0})
}

// Table makes a table, if it is not there.
func (t *Tx) Table(family byte, name string) {
	t.begin(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, family)
	t.batch.String(unix.NFTA_TABLE_NAME, name)
}

// DeleteTable deletes a table and everything in it.
func (t *Tx) DeleteTable(family byte, name string) {
	t.begin(unix.NFT_MSG_DELTABLE, 0, family)
	t.batch.String(unix.NFTA_TABLE_NAME, name)
}

// Hook is where a base chain sees packets.
type Hook struct {
	Type     string // "filter" or "nat"
	Num      uint32 // unix.NF_INET_*
	Priority int32
}

// Chain makes a chain, if it is not there; a base chain (that accepts what falls through) with a hook.
func (t *Tx) Chain(family byte, table, name string, hook *Hook) {
	t.begin(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, family)
	t.batch.String(unix.NFTA_CHAIN_TABLE, table)
	t.batch.String(unix.NFTA_CHAIN_NAME, name)
	if hook == nil {
		return
	}
	t.batch.Nest(unix.NFTA_CHAIN_HOOK, func() {
		t.batch.BE32(unix.NFTA_HOOK_HOOKNUM, hook.Num)
		t.batch.BE32(unix.NFTA_HOOK_PRIORITY, uint32(hook.Priority))
	})
	t.batch.BE32(unix.NFTA_CHAIN_POLICY, accept)
	t.batch.String(unix.NFTA_CHAIN_TYPE, hook.Type)
}

// Flush deletes the rules of a chain.
func (t *Tx) Flush(family byte, table, chain string) {
	t.begin(unix.NFT_MSG_DELRULE, 0, family)
	t.batch.String(unix.NFTA_RULE_TABLE, table)
	t.batch.String(unix.NFTA_RULE_CHAIN, chain)
}

// DeleteChain deletes a chain, with its rules.
func (t *Tx) DeleteChain(family byte, table, chain string) {
	t.Flush(family, table, chain)
	t.begin(unix.NFT_MSG_DELCHAIN, 0, family)
	t.batch.String(unix.NFTA_CHAIN_TABLE, table)
	t.batch.String(unix.NFTA_CHAIN_NAME, chain)
}

// Types of keys and data as the nft program numbers them; the kernel keeps them for it. Joined types are shifted by six bits each.
const (
	TypeIPv4    = 7
	TypeIPv6    = 8
	TypeProto   = 12
	TypeService = 13
	TypeIfname  = 41
)

// Join numbers a joined type.
func Join(types ...uint32) (t uint32) {
	for _, x := range types {
		t = t<<6 | x
	}
	return t
}

// Set is a set, or with DataLen a map.
type Set struct {
	Name              string
	KeyType, KeyLen   uint32 // length in bytes; joined keys are padded to 4 each
	DataType, DataLen uint32
}

// Set makes a set, if it is not there.
func (t *Tx) Set(family byte, table string, s *Set) {
	t.setID++
	t.begin(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, family)
	t.batch.String(unix.NFTA_SET_TABLE, table)
	t.batch.String(unix.NFTA_SET_NAME, s.Name)
	var flags uint32
	if s.DataLen > 0 {
		flags = unix.NFT_SET_MAP
	}
	t.batch.BE32(unix.NFTA_SET_FLAGS, flags)
	t.batch.BE32(unix.NFTA_SET_KEY_TYPE, s.KeyType)
	t.batch.BE32(unix.NFTA_SET_KEY_LEN, s.KeyLen)
	if s.DataLen > 0 {
		t.batch.BE32(unix.NFTA_SET_DATA_TYPE, s.DataType)
		t.batch.BE32(unix.NFTA_SET_DATA_LEN, s.DataLen)
	}
	t.batch.BE32(unix.NFTA_SET_ID, t.setID)
	// For the nft program: in which order to read the keys' bytes (struct nftnl_udata, NFTNL_UDATA_SET_KEYBYTEORDER).
	order := uint32(2) // network byte order
	if s.KeyType&(1<<6-1) == TypeIfname {
		order = 1 // the machine's
	}
	t.batch.Attr(unix.NFTA_SET_USERDATA, append([]byte{0, 4}, Number(order)...))
}

// Element is an element of a set, or with Data of a map.
type Element struct{ Key, Data []byte }

// maxElements bounds one message: an attribute's length is 16 bits.
const maxElements = 256

// Add adds elements. One that is there with the same data stays; with other data it fails (EEXIST).
func (t *Tx) Add(family byte, table, set string, list []Element) {
	t.elements(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, family, table, set, list)
}

// Remove removes elements, which must be there.
func (t *Tx) Remove(family byte, table, set string, list []Element) {
	t.elements(unix.NFT_MSG_DELSETELEM, 0, family, table, set, list)
}

// Empty removes all elements.
func (t *Tx) Empty(family byte, table, set string) {
	t.begin(unix.NFT_MSG_DELSETELEM, 0, family)
	t.batch.String(unix.NFTA_SET_ELEM_LIST_TABLE, table)
	t.batch.String(unix.NFTA_SET_ELEM_LIST_SET, set)
}

func (t *Tx) elements(msg, flags uint16, family byte, table, set string, list []Element) {
	for len(list) > 0 {
		n := min(len(list), maxElements)
		t.begin(msg, flags, family)
		t.batch.String(unix.NFTA_SET_ELEM_LIST_TABLE, table)
		t.batch.String(unix.NFTA_SET_ELEM_LIST_SET, set)
		t.batch.Nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func() {
			for _, e := range list[:n] {
				t.batch.Nest(unix.NFTA_LIST_ELEM, func() {
					t.value(unix.NFTA_SET_ELEM_KEY, e.Key)
					if e.Data != nil {
						t.value(unix.NFTA_SET_ELEM_DATA, e.Data)
					}
				})
			}
		})
		list = list[n:]
	}
}

func (t *Tx) value(typ uint16, data []byte) {
	t.batch.Nest(typ, func() { t.batch.Attr(unix.NFTA_DATA_VALUE, data) })
}

// Rule adds a rule to the end of a chain.
func (t *Tx) Rule(family byte, table, chain string, exprs ...Expr) {
	t.rule(unix.NLM_F_APPEND, family, table, chain, "", exprs)
}

// Insert adds a rule to the beginning of a chain, with a comment.
func (t *Tx) Insert(family byte, table, chain, comment string, exprs ...Expr) {
	t.rule(0, family, table, chain, comment, exprs)
}

func (t *Tx) rule(flags uint16, family byte, table, chain, comment string, exprs []Expr) {
	t.begin(unix.NFT_MSG_NEWRULE, flags|unix.NLM_F_CREATE, family)
	t.batch.String(unix.NFTA_RULE_TABLE, table)
	t.batch.String(unix.NFTA_RULE_CHAIN, chain)
	t.batch.Nest(unix.NFTA_RULE_EXPRESSIONS, func() {
		for _, e := range exprs {
			t.batch.Nest(unix.NFTA_LIST_ELEM, func() {
				t.batch.String(unix.NFTA_EXPR_NAME, e.name)
				t.batch.Nest(unix.NFTA_EXPR_DATA, func() { e.fill(&t.batch) })
			})
		}
	})
	if comment != "" {
		// struct nftnl_udata: type 0 is a comment.
		t.batch.Attr(unix.NFTA_RULE_USERDATA, append([]byte{0, byte(len(comment) + 1)}, comment+"\x00"...))
	}
}

// DeleteRule deletes one rule.
func (t *Tx) DeleteRule(family byte, table, chain string, handle uint64) {
	t.begin(unix.NFT_MSG_DELRULE, 0, family)
	t.batch.String(unix.NFTA_RULE_TABLE, table)
	t.batch.String(unix.NFTA_RULE_CHAIN, chain)
	t.batch.Attr(unix.NFTA_RULE_HANDLE, binary.BigEndian.AppendUint64(nil, handle))
}
