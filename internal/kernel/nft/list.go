package nft

import (
	"encoding/binary"
	"strings"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/netlink"
)

// BaseChain is a chain that is hooked into the kernel.
type BaseChain struct {
	Family byte
	Table  string
	Name   string
	Hook   Hook
	Drops  bool // by its policy
}

// BaseChains lists all base chains of all tables.
func (c *Conn) BaseChains() (list []BaseChain, err error) {
	var tx Tx
	tx.begin(unix.NFT_MSG_GETCHAIN, 0, unix.NFPROTO_UNSPEC)
	err = c.Dump(&tx.batch, func() { list = nil }, func(m netlink.Message) {
		if len(m.Data) < 4 {
			return
		}
		ch, hooked := BaseChain{Family: m.Data[0]}, false
		netlink.Attrs(m.Data[4:], func(typ uint16, data []byte) {
			switch {
			case typ == unix.NFTA_CHAIN_TABLE:
				ch.Table = netlink.Text(data)
			case typ == unix.NFTA_CHAIN_NAME:
				ch.Name = netlink.Text(data)
			case typ == unix.NFTA_CHAIN_TYPE:
				ch.Hook.Type = netlink.Text(data)
			case typ == unix.NFTA_CHAIN_POLICY && len(data) == 4:
				ch.Drops = binary.BigEndian.Uint32(data) == drop
			case typ == unix.NFTA_CHAIN_HOOK:
				hooked = true
				netlink.Attrs(data, func(typ uint16, data []byte) {
					switch {
					case typ == unix.NFTA_HOOK_HOOKNUM && len(data) == 4:
						ch.Hook.Num = binary.BigEndian.Uint32(data)
					case typ == unix.NFTA_HOOK_PRIORITY && len(data) == 4:
						ch.Hook.Priority = int32(binary.BigEndian.Uint32(data))
					}
				})
			}
		})
		if hooked {
			list = append(list, ch)
		}
	})
	return list, err
}

// Rule is a rule that is there.
type Rule struct {
	Family       byte
	Table, Chain string
	Handle       uint64
	Comment      string
	Refuses      bool // whatever comes to it: it matches everything, and drops or rejects
}

// Rules lists the rules of a table, or of all with family unix.NFPROTO_UNSPEC and no table.
func (c *Conn) Rules(family byte, table string) (list []Rule, err error) {
	var tx Tx
	tx.begin(unix.NFT_MSG_GETRULE, 0, family)
	if table != "" {
		tx.batch.String(unix.NFTA_RULE_TABLE, table)
	}
	err = c.Dump(&tx.batch, func() { list = nil }, func(m netlink.Message) {
		if len(m.Data) < 4 {
			return
		}
		r := Rule{Family: m.Data[0]}
		netlink.Attrs(m.Data[4:], func(typ uint16, data []byte) {
			if typ == unix.NFTA_RULE_EXPRESSIONS {
				r.Refuses = refuses(data)
			}
			r.read(typ, data)
		})
		list = append(list, r)
	})
	return list, err
}

// read takes in one attribute of a rule.
func (r *Rule) read(typ uint16, data []byte) {
	switch {
	case typ == unix.NFTA_RULE_TABLE:
		r.Table = netlink.Text(data)
	case typ == unix.NFTA_RULE_CHAIN:
		r.Chain = netlink.Text(data)
	case typ == unix.NFTA_RULE_HANDLE && len(data) == 8:
		r.Handle = binary.BigEndian.Uint64(data)
	case typ == unix.NFTA_RULE_USERDATA:
		if len(data) > 2 && data[0] == 0 && int(data[1]) <= len(data)-2 {
			r.Comment = strings.TrimRight(string(data[2:2+int(data[1])]), "\x00")
		}
	}
}

// refuses reads a rule's expressions: nothing may come before the verdict that could end the rule.
func refuses(expressions []byte) (yes bool) {
	matches := false
	netlink.Attrs(expressions, func(_ uint16, data []byte) {
		var name string
		var body []byte
		netlink.Attrs(data, func(typ uint16, data []byte) {
			switch typ {
			case unix.NFTA_EXPR_NAME:
				name = netlink.Text(data)
			case unix.NFTA_EXPR_DATA:
				body = data
			}
		})
		switch name {
		case "counter", "log":
		case "reject":
			yes = !matches
		case "immediate":
			yes = !matches && verdictOf(body) == drop
		default:
			matches = true
		}
	})
	return yes
}

// verdictOf reads the verdict that an "immediate" gives, accept if it loads a value instead.
func verdictOf(body []byte) (code uint32) {
	code = uint32(accept)
	netlink.Attrs(body, func(typ uint16, data []byte) {
		if typ != unix.NFTA_IMMEDIATE_DATA {
			return
		}
		netlink.Attrs(data, func(typ uint16, data []byte) {
			if typ != unix.NFTA_DATA_VERDICT {
				return
			}
			netlink.Attrs(data, func(typ uint16, data []byte) {
				if typ == unix.NFTA_VERDICT_CODE && len(data) == 4 {
					code = binary.BigEndian.Uint32(data)
				}
			})
		})
	})
	return code
}

// Elements lists the keys of a set.
func (c *Conn) Elements(family byte, table, set string) (keys [][]byte, err error) {
	var tx Tx
	tx.begin(unix.NFT_MSG_GETSETELEM, 0, family)
	tx.batch.String(unix.NFTA_SET_ELEM_LIST_TABLE, table)
	tx.batch.String(unix.NFTA_SET_ELEM_LIST_SET, set)
	err = c.Dump(&tx.batch, func() { keys = nil }, func(m netlink.Message) {
		if len(m.Data) < 4 {
			return
		}
		netlink.Attrs(m.Data[4:], func(typ uint16, data []byte) {
			if typ != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				return
			}
			netlink.Attrs(data, func(_ uint16, data []byte) {
				netlink.Attrs(data, func(typ uint16, data []byte) {
					if typ != unix.NFTA_SET_ELEM_KEY {
						return
					}
					netlink.Attrs(data, func(typ uint16, data []byte) {
						if typ == unix.NFTA_DATA_VALUE {
							keys = append(keys, append([]byte(nil), data...))
						}
					})
				})
			})
		})
	})
	return keys, err
}

// Monitor waits for changes to any table of the calling thread's namespace.
func Monitor() (*netlink.Conn, error) {
	return netlink.Dial(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
}

// Took reports whether a message of a Monitor tells that something was taken away, or that there is a new chain.
func Took(m netlink.Message) bool {
	if m.Type>>8 != unix.NFNL_SUBSYS_NFTABLES {
		return false
	}
	switch m.Type & 0xff {
	case unix.NFT_MSG_DELTABLE, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_DELRULE, unix.NFT_MSG_DELSET, unix.NFT_MSG_DELSETELEM:
		return true
	case unix.NFT_MSG_NEWCHAIN: // it may drop what is ours
		return true
	}
	return false
}
