package firewall

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
)

// UserTable is the administrator's table, in family inet. Its chain UserChain sees
// forwarded packets before the tables of daemons do. It is made once, empty, and
// never changed: what is in it is the administrator's alone, and as long as there is
// something it is not removed. A drop in it is final.
const (
	UserTable = "lighter-user"
	UserChain = "forward"
	// userPriority is before a Table's forward chain.
	userPriority = nftables.ChainPriority(-5)
)

// EnsureUserTable makes UserTable unless it exists.
func (t *Table) EnsureUserTable() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.kernel.ensureUserTable(); err != nil {
		return fmt.Errorf("make firewall table %q: %w", UserTable, err)
	}
	return nil
}

func (n *nft) ensureUserTable() (err error) {
	defer n.end(&err)
	c, err := n.begin(0)
	if err != nil {
		return err
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return err
	}
	for _, have := range tables {
		if have.Name == UserTable {
			return nil
		}
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: UserTable})
	policy, priority := nftables.ChainPolicyAccept, userPriority
	c.AddChain(&nftables.Chain{
		Table: table, Name: UserChain, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: &priority, Policy: &policy,
	})
	return c.Flush()
}

// RemoveUserTable removes UserTable if nobody has put anything into it.
func (t *Table) RemoveUserTable() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.kernel.removeUserTable(); err != nil {
		return fmt.Errorf("remove firewall table %q: %w", UserTable, err)
	}
	return nil
}

func (n *nft) removeUserTable() (err error) {
	defer n.end(&err)
	c, err := n.begin(0)
	if err != nil {
		return err
	}
	all, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return err
	}
	chains := slices.DeleteFunc(all, func(ch *nftables.Chain) bool { return ch.Table.Name != UserTable })
	if len(chains) != 1 || chains[0].Name != UserChain {
		return nil
	}
	rules, err := c.GetRules(chains[0].Table, chains[0])
	if err != nil || len(rules) > 0 {
		return err
	}
	sets, err := c.GetSets(chains[0].Table)
	if err != nil || len(sets) > 0 {
		return err
	}
	c.DelTable(chains[0].Table)
	return c.Flush()
}

// InputChains lists the chains of others ("family table chain") that decide about
// packets for the host: those that drop by default or have rules. Published ports
// do not pass them. Chains of the old iptables (xtables) it does not see.
func (t *Table) InputChains() ([]string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.kernel.inputChains()
}

func (n *nft) inputChains() (_ []string, err error) {
	defer n.end(&err)
	c, err := n.begin(0)
	if err != nil {
		return nil, err
	}
	var found []string
	for family, name := range hostFamilies {
		chains, err := c.ListChainsOfTableFamily(family)
		if err != nil {
			return nil, err
		}
		for _, ch := range chains {
			if ch.Type != nftables.ChainTypeFilter || ch.Hooknum == nil || *ch.Hooknum != *nftables.ChainHookInput {
				continue
			}
			decides := ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop
			if !decides {
				rules, err := c.GetRules(ch.Table, ch)
				if err != nil {
					return nil, errors.Join(fmt.Errorf("list rules of chain %s", ch.Name), err)
				}
				decides = len(rules) > 0
			}
			if decides {
				found = append(found, name+" "+ch.Table.Name+" "+ch.Name)
			}
		}
	}
	return found, nil
}

// hostFamilies are those whose chains see packets for the host.
var hostFamilies = map[nftables.TableFamily]string{
	nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet",
}
