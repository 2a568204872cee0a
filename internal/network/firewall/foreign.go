package firewall

import (
	"errors"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/nft"
)

// foreign is a rule of ours in a chain of somebody else.
type foreign struct {
	family       byte
	table, chain string
	comment      string
}

// passForeign puts accepts for our bridges in front of every chain of another table that drops forwarded packets by
// its policy (Docker's, ufw's), or refuses by its last rule what it does not know (firewalld's), and takes away those that
// are no longer wanted. An accept there is no more than what would be without that chain: our own still decides.
func (t *Table) passForeign() error {
	chains, err := t.conn.BaseChains()
	if err != nil {
		return err
	}
	rules, err := t.conn.Rules(unix.NFPROTO_UNSPEC, "")
	if err != nil {
		return err
	}
	refuse := map[foreign]bool{} // chains, by their last rules
	for _, r := range rules {
		refuse[foreign{family: r.Family, table: r.Table, chain: r.Chain}] = r.Refuses
	}
	want := map[foreign]bool{}
	for _, c := range chains {
		if c.Hook.Type != "filter" || c.Hook.Num != unix.NF_INET_FORWARD ||
			!c.Drops && !refuse[foreign{family: c.Family, table: c.Table, chain: c.Name}] || c.Table == t.name && c.Family == nft.Inet ||
			c.Family != nft.Inet && c.Family != nft.IPv4 && c.Family != nft.IPv6 {
			continue
		}
		for bridge := range t.nets {
			for _, way := range []string{"from ", "to "} {
				want[foreign{c.Family, c.Table, c.Name, way + bridge + " " + t.mine}] = true
			}
		}
	}
	return t.adjust(want, rules)
}

// yieldForeign takes all of them back.
func (t *Table) yieldForeign() error {
	rules, err := t.conn.Rules(unix.NFPROTO_UNSPEC, "")
	if err != nil {
		return err
	}
	return t.adjust(nil, rules)
}

func (t *Table) adjust(want map[foreign]bool, rules []nft.Rule) error {
	err := t.adjustIn(want, rules, nil)
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	// One of the tables is its owner's alone (nft's flag owner, which firewalld may set on its own): the others get theirs.
	tables := map[foreign]bool{}
	for f := range want {
		tables[foreign{family: f.family, table: f.table}] = true
	}
	for _, r := range rules {
		tables[foreign{family: r.Family, table: r.Table}] = true
	}
	for only := range tables {
		err := t.adjustIn(want, rules, &only)
		if err != nil && !errors.Is(err, unix.EPERM) {
			return err
		}
		if name := nft.FamilyName(only.family) + " " + only.table; err != nil && !t.owned[name] {
			if t.owned == nil {
				t.owned = map[string]bool{}
			}
			t.owned[name] = true
			t.log.Warn("another tool's table, which lets nobody else change it, may drop what containers send and get: accept forwarded packets of their bridges there (firewalld: add the bridges to a zone, or set NftablesTableOwner=no)", "table", name)
		}
	}
	return nil
}

// adjustIn is adjust, in one table alone or in all.
func (t *Table) adjustIn(want map[foreign]bool, rules []nft.Rule, only *foreign) error {
	var tx nft.Tx
	other := func(f foreign) bool { return only != nil && (f.family != only.family || f.table != only.table) }
	have := map[foreign]bool{}
	changes := 0
	for _, r := range rules {
		if len(r.Comment) <= len(t.mine) || r.Comment[len(r.Comment)-len(t.mine):] != t.mine {
			continue
		}
		f := foreign{r.Family, r.Table, r.Chain, r.Comment}
		if other(f) {
			continue
		}
		if want[f] && !have[f] {
			have[f] = true
			continue
		}
		tx.DeleteRule(r.Family, r.Table, r.Chain, r.Handle)
		changes++
	}
	for f := range want {
		if have[f] || other(f) {
			continue
		}
		way, rest := uint32(unix.NFT_META_IIFNAME), f.comment
		if rest[:3] == "to " {
			way, rest = unix.NFT_META_OIFNAME, rest[3:]
		} else {
			rest = rest[5:]
		}
		bridge := rest[:len(rest)-len(t.mine)-1]
		tx.Insert(f.family, f.table, f.chain, f.comment, nft.Meta(way, nft.R1), nft.Equal(nft.R1, nft.Ifname(bridge)), nft.Counter(), nft.Accept())
		changes++
	}
	if changes == 0 {
		return nil
	}
	if err := t.conn.Commit(&tx); err != nil && !errors.Is(err, unix.ENOENT) { // it may be gone since
		return err
	}
	return nil
}
