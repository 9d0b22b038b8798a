package harness

import (
	"net"
	"os"
	"runtime"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// OnHostNetwork runs f, and the programs that it starts, in the machine's network
// namespace.
func OnHostNetwork(t testing.TB, f func()) {
	t.Helper()
	if os.Getenv(isolated) == "" {
		f()
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	if err := netns.Set(netns.NsHandle(hostNetnsFD)); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := netns.Set(own); err != nil {
			panic(err) // the thread must not serve other goroutines
		}
	}()
	f()
}

// Uplink joins the test's network namespace to the machine's: a veth pair, a
// default route, and masquerading on the other side until the test ends.
func Uplink(t testing.TB) {
	t.Helper()
	if os.Getenv(isolated) == "" {
		return // the machine's own network
	}
	const inside, outside, table = "lighter-up", "lighter-host", "lighter-test"
	own, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	subnet := net.IPNet{IP: net.IPv4(10, 199, 53, 0).To4(), Mask: net.CIDRMask(30, 32)}
	address := func(last byte) *netlink.Addr {
		return &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 199, 53, last), Mask: subnet.Mask}}
	}
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	masquerade := func(c *nftables.Conn) *nftables.Table {
		tbl := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: table})
		chain := c.AddChain(&nftables.Chain{
			Name: "post", Table: tbl, Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
		})
		c.AddRule(&nftables.Rule{Table: tbl, Chain: chain, Exprs: []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4}, // source address
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: subnet.Mask, Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: subnet.IP},
			&expr.Masq{},
		}})
		return tbl
	}
	OnHostNetwork(t, func() {
		la := netlink.NewLinkAttrs()
		la.Name = outside
		must("make the uplink", netlink.LinkAdd(&netlink.Veth{LinkAttrs: la, PeerName: inside, PeerNamespace: netlink.NsFd(own)}))
		t.Cleanup(func() {
			OnHostNetwork(t, func() { netlink.LinkDel(&netlink.Veth{LinkAttrs: la}) })
		})
		link, err := netlink.LinkByName(outside)
		must("find the outer uplink", err)
		must("address the uplink", netlink.AddrAdd(link, address(1)))
		must("raise the uplink", netlink.LinkSetUp(link))
		const forward = "/proc/sys/net/ipv4/ip_forward"
		old, err := os.ReadFile(forward)
		must("read ip_forward", err)
		must("forward", os.WriteFile(forward, []byte("1"), 0))
		t.Cleanup(func() {
			OnHostNetwork(t, func() { os.WriteFile(forward, old, 0) })
		})
		c, err := nftables.New()
		must("nftables", err)
		tbl := masquerade(c)
		must("masquerade", c.Flush())
		t.Cleanup(func() {
			OnHostNetwork(t, func() {
				if c, err := nftables.New(); err == nil {
					c.DelTable(tbl)
					c.Flush()
				}
			})
		})
	})
	link, err := netlink.LinkByName(inside)
	must("find the inner uplink", err)
	t.Cleanup(func() { netlink.LinkDel(link) })
	must("address the inner uplink", netlink.AddrAdd(link, address(2)))
	must("raise the inner uplink", netlink.LinkSetUp(link))
	must("default route", netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.IPv4(10, 199, 53, 1)}))
}
