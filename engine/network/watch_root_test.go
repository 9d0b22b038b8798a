package network

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/moby/moby/api/types/network"
	"github.com/vishvananda/netlink"

	"lighter/engine/network/firewall"
)

func flushRuleset(t testing.TB) {
	t.Helper()
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	c.FlushRuleset()
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
}

// within waits for ok.
func within(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		<-tick.C
	}
}

func ruleCount(t testing.TB, prefix string) int {
	t.Helper()
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, ch := range chains {
		if !strings.HasPrefix(ch.Table.Name, prefix) {
			continue
		}
		rules, err := c.GetRules(ch.Table, ch)
		if err != nil {
			return 0 // it went meanwhile
		}
		n += len(rules)
	}
	return n
}

// CVE-2025-54388 and CVE-2025-54410: after a firewall manager has flushed the
// ruleset, ports of 127.0.0.1 stay closed to neighbours and networks stay apart,
// with nobody telling the daemon.
func TestFlushedRulesetIsRestored(t *testing.T) {
	w := newWorld(t)
	w.create("other", nil)
	web := w.run("web", publish("8080->80/tcp", "127.0.0.1:8081->80/tcp"))
	far := w.run("far", on(nil, "other"))
	full := ruleCount(t, "lighter-docker0")
	check := func() {
		t.Helper()
		w.client.do("route %s/32 %s", web.ip(), hostAddr)
		w.client.wants("tcp", hostAddr+":8080", "web sees "+nextHost)
		w.client.isRefused("tcp", hostAddr+":8081")
		w.client.isRefused("tcp", web.ip()+":80")
		far.isRefused("tcp", web.ip()+":80")
	}
	check()
	for range 3 {
		flushRuleset(t)
		within(t, "all rules are back", func() bool { return ruleCount(t, "lighter-docker0") == full })
		check()
	}

	// One rule, one element and one chain less are noticed, too.
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName(w.m.cfg)}
	c.FlushChain(&nftables.Chain{Table: table, Name: "martians"})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	within(t, "the chain's rules are back", func() bool { return ruleCount(t, "lighter-docker0") == full })
	check()
}

// Deleting a bridge cuts containers off for no longer than it takes to notice.
func TestDeletedBridgeIsRestored(t *testing.T) {
	w := newWorld(t)
	w.create("user", nil)
	web := w.run("web", publish("8080->80/tcp"))
	one, two := w.run("one", on(nil, "user")), w.run("two", on(nil, "user"))
	for _, name := range []string{"docker0", w.m.networkNamed(t, "user").Bridge} {
		br, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkDel(br); err != nil {
			t.Fatal(err)
		}
	}
	answers := func(p *peer, addr string) func() bool {
		return func() bool { _, err := p.try("ask tcp %s", addr); return err == nil }
	}
	within(t, "the published port answers", answers(w.client, hostAddr+":8080"))
	within(t, "one reaches two", answers(one.peer, two.ip()+":80"))
	hostWants(t, "tcp", "127.0.0.1:8080", "web sees")
	w.client.wants("tcp", hostAddr+":8080", "web sees "+nextHost)
	_ = web
}

func (m *Manager) networkNamed(t testing.TB, name string) *netw {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.byNameLocked(name)
	if n == nil {
		t.Fatalf("no network %s", name)
	}
	return n
}

// What the administrator puts into the table for it outlives everything we do, and
// a drop in it is final.
func TestUserTable(t *testing.T) {
	w := newWorld(t)
	web := w.run("web", publish("8080->80/tcp"))
	w.client.wants("tcp", hostAddr+":8080", "web sees")
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: firewall.UserTable}
	t.Cleanup(func() {
		c.DelTable(table)
		if err := c.Flush(); err != nil {
			t.Error(err)
		}
	})
	c.AddRule(&nftables.Rule{Table: table, Chain: &nftables.Chain{Table: table, Name: firewall.UserChain}, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: append([]byte("up0"), make([]byte, 13)...)},
		&expr.Verdict{Kind: expr.VerdictDrop}}})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	w.client.isRefused("tcp", hostAddr+":8080")
	if err := w.m.Reapply(context.Background()); err != nil {
		t.Fatal(err)
	}
	w.create("more", nil)
	w.close(true)
	w.open()
	if err := w.m.Restore(context.Background(), map[string]int{web.id: web.pid()}); err != nil {
		t.Fatal(err)
	}
	w.client.isRefused("tcp", hostAddr+":8080")
	hostWants(t, "tcp", hostAddr+":8080", "web sees")
	w.release(web)
	w.close(false)
	if n := ruleCount(t, firewall.UserTable); n != 1 {
		t.Errorf("the administrator's table has %d rules after the end of the daemon", n)
	}
}

// dropInput is a host firewall that lets nothing in from the link up0.
func dropInput(t testing.TB) {
	t.Helper()
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "host"})
	ch := c.AddChain(&nftables.Chain{Table: table, Name: "input", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter})
	c.AddRule(&nftables.Rule{Table: table, Chain: ch, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: append([]byte("up0"), make([]byte, 13)...)},
		&expr.Verdict{Kind: expr.VerdictDrop}}})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.DelTable(table)
		if err := c.Flush(); err != nil {
			t.Error(err)
		}
	})
}

// moby issue 22054: published ports pass by the host's input rules. It is said, and
// with RespectInput it is not so.
func TestRespectInput(t *testing.T) {
	t.Run("translate", func(t *testing.T) {
		w := newWorld(t)
		dropInput(t)
		if got := w.m.Warnings(); len(got) != 0 {
			t.Errorf("warnings without a published port: %q", got)
		}
		w.run("web", publish("8080->80/tcp"))
		w.client.wants("tcp", hostAddr+":8080", "web sees")
		if got := strings.Join(w.m.Warnings(), "\n"); !strings.Contains(got, "inet host input") || !strings.Contains(got, "firewall-mode=respect") {
			t.Errorf("warnings: %q", got)
		}
	})
	t.Run("respect", func(t *testing.T) {
		w := newWorld(t, func(c *Config) { c.RespectInput, c.UserlandProxy = true, false })
		web := w.run("web", publish("8080->80/tcp", "8080->80/udp"))
		w.client.wants("tcp", hostAddr+":8080", "web sees")
		w.client.wants("udp", hostAddr+":8080", "web sees")
		dropInput(t)
		w.client.isRefused("tcp", hostAddr+":8080")
		w.client.isRefused("udp", hostAddr+":8080")
		hostWants(t, "tcp", "127.0.0.1:8080", "web sees")
		if got := w.m.Warnings(); len(got) != 0 {
			t.Errorf("warnings: %q", got)
		}
		// The rest of the firewall is as ever.
		w.client.do("route %s/32 %s", web.ip(), hostAddr)
		w.client.isRefused("tcp", web.ip()+":80")
	})
}

func TestAcceptMark(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.AcceptMark, c.AcceptMask = 0x10, 0xf0 })
	web := w.run("web", nil)
	w.client.do("route %s/32 %s", web.ip(), hostAddr)
	w.client.isRefused("tcp", web.ip()+":80")
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "marks"})
	ch := c.AddChain(&nftables.Chain{Table: table, Name: "pre", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityMangle})
	c.AddRule(&nftables.Rule{Table: table, Chain: ch, Exprs: []expr.Any{
		&expr.Immediate{Register: 1, Data: []byte{0x15, 0, 0, 0}},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1}}})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.DelTable(table)
		if err := c.Flush(); err != nil {
			t.Error(err)
		}
	})
	w.client.wants("tcp", web.ip()+":80", "web sees "+nextHost)
}

// A route that the host gets later and that hides a network is told of.
func TestRouteThatAppears(t *testing.T) {
	w := newWorld(t)
	subnet := w.m.networkNamed(t, network.NetworkBridge).v4.addr.Masked()
	if _, err := obey([]string{"route", subnet.Addr().String() + "/24", nextHost}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(w.m.Warnings(), ""); !strings.Contains(got, "overlaps "+subnet.Addr().String()+"/24") {
		t.Errorf("warnings: %q", got)
	}
}
