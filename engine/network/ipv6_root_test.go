package network

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/network"
)

const (
	hostAddr6 = "2001:db8::1"
	nextHost6 = "2001:db8::2"
)

// newWorld6 is newWorld with IPv6 between the host and the next one.
func newWorld6(t *testing.T, change ...func(*Config)) *world {
	w := newWorld(t, change...)
	if _, err := obey([]string{"addr", "up0", hostAddr6 + "/64"}); err != nil {
		t.Fatal(err)
	}
	w.client.do("addr up0 %s/64", nextHost6)
	w.client.do("serve tcp 80 next")
	return w
}

func ptr[T any](v T) *T { return &v }

func options4(kv ...string) func(*network.CreateRequest) {
	return func(r *network.CreateRequest) {
		r.Options = map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			r.Options[kv[i]] = kv[i+1]
		}
	}
}

func dualStack(kv ...string) func(*network.CreateRequest) {
	return func(r *network.CreateRequest) {
		options4(kv...)(r)
		r.EnableIPv6 = ptr(true)
	}
}

func (b *box) addr6(net string) string {
	return b.alloc.Endpoints[net].GlobalIPv6Address.String()
}

func TestDualStack(t *testing.T) {
	w := newWorld6(t)
	w.create("both", dualStack())
	w.create("other", dualStack())
	both := func(ports ...string) func(*Request) {
		return func(r *Request) { publish(ports...)(r); on(nil, "both")(r) }
	}
	a := w.run("a", both("8080->80/tcp", "8080->80/udp", "[::1]:8081->80/tcp", "["+hostAddr6+"]:8082->80/tcp"))
	b := w.run("b", both())
	c := w.run("c", on(nil, "other"))

	in, err := w.m.Inspect(context.Background(), "both")
	if err != nil || !in.EnableIPv6 || len(in.IPAM.Config) != 2 || !strings.HasPrefix(in.IPAM.Config[1].Subnet.String(), "fd") || in.IPAM.Config[1].Subnet.Bits() != 64 {
		t.Fatalf("inspect: %+v, %v", in.IPAM, err)
	}
	ep := a.alloc.Endpoints["both"]
	if ep.IPv6Gateway != in.IPAM.Config[1].Gateway || ep.GlobalIPv6PrefixLen != 64 || in.Containers[a.id].IPv6Address.Addr() != ep.GlobalIPv6Address || len(in.Status.IPAM.Subnets) != 2 {
		t.Errorf("endpoint = %+v, inspect %+v", ep, in)
	}
	if got := a.do("links"); !strings.Contains(got, ep.GlobalIPv6Address.String()+"/64") || !strings.Contains(got, "via="+ep.IPv6Gateway.String()) {
		t.Errorf("links = %s", got)
	}
	a6 := a.addr6("both")
	b.wants("tcp6", "["+a6+"]:80", "a sees "+b.addr6("both"))
	b.looksUp("a. AAAA", "OK "+a6)
	b.wants("tcp6", "["+nextHost6+"]:80", "next sees "+hostAddr6) // behind the host's address

	// Published: from the next host with its address, from the host, from the
	// network itself and from another one.
	w.client.wants("tcp6", "["+hostAddr6+"]:8080", "a sees "+nextHost6)
	w.client.wants("udp6", "["+hostAddr6+"]:8080", "a sees "+nextHost6)
	w.client.wants("tcp6", "["+hostAddr6+"]:8082", "a sees "+nextHost6)
	hostWants(t, "tcp6", "["+hostAddr6+"]:8080", "a sees ")
	hostWants(t, "tcp6", "[::1]:8080", "a sees ")
	hostWants(t, "tcp6", "[::1]:8081", "a sees ")
	hostWants(t, "tcp4", "127.0.0.1:8080", "a sees ")
	b.wants("tcp6", "["+hostAddr6+"]:8080", "a sees ")
	c.wants("tcp6", "["+hostAddr6+"]:8080", "a sees ")
	a.wants("tcp6", "["+hostAddr6+"]:8080", "a sees ")
	for _, binding := range a.alloc.Ports[network.MustParsePort("80/tcp")] {
		if binding.HostIP == netip.IPv6Unspecified() && binding.HostPort != "8080" {
			t.Errorf("binding = %+v", binding)
		}
	}

	// What is not published cannot be reached: directly, from the next host or
	// from another network.
	w.client.do("route %s %s", in.IPAM.Config[1].Subnet, hostAddr6)
	w.client.isRefused("tcp6", "["+a6+"]:80")
	w.client.isRefused("tcp6", "["+b.addr6("both")+"]:80")
	c.isRefused("tcp6", "["+a6+"]:80")
	w.client.isRefused("tcp6", "["+hostAddr6+"]:8081")

	// All of it is there after a restart, and gone with the container.
	live := map[string]int{a.id: a.pid(), b.id: b.pid(), c.id: c.pid()}
	w.close(true)
	w.client.wants("tcp6", "["+hostAddr6+"]:8080", "a sees "+nextHost6)
	w.open()
	if err := w.m.Restore(context.Background(), live); err != nil {
		t.Fatal(err)
	}
	w.client.wants("tcp6", "["+hostAddr6+"]:8080", "a sees "+nextHost6)
	w.release(a)
	w.client.isRefused("tcp6", "["+hostAddr6+"]:8080")
	if err := w.m.Remove(context.Background(), "both"); err == nil || !strings.Contains(err.Error(), "has active endpoints") {
		t.Errorf("remove a network in use: %v", err)
	}
}

func TestIPv6Only(t *testing.T) {
	w := newWorld6(t)
	w.create("six", func(r *network.CreateRequest) {
		r.EnableIPv4 = ptr(false)
		r.IPAM = &network.IPAM{Config: []network.IPAMConfig{{Subnet: netip.MustParsePrefix("fd12:3456::/64")}}}
	})
	a := w.run("a", func(r *Request) {
		publish("8080->80/tcp")(r)
		on(&network.EndpointSettings{IPAMConfig: &network.EndpointIPAMConfig{IPv6Address: netip.MustParseAddr("fd12:3456::77")}}, "six")(r)
	})
	b := w.run("b", on(nil, "six"))
	if got := b.do("links"); strings.Contains(got, "172.") || strings.Contains(got, "10.") {
		t.Errorf("links = %s", got)
	}
	b.wants("tcp6", "[fd12:3456::77]:80", "a sees ")
	b.looksUp("a. AAAA", "OK fd12:3456::77")
	b.looksUp("a. A", "OK")
	w.client.wants("tcp6", "["+hostAddr6+"]:8080", "a sees "+nextHost6)
	w.client.isRefused("tcp4", hostAddr+":8080")
	if !strings.Contains(string(a.alloc.Hosts), "fd12:3456::77\ta\n") {
		t.Errorf("hosts = %s", a.alloc.Hosts)
	}
}

func TestGatewayModes(t *testing.T) {
	w := newWorld6(t)
	subnets := map[string][2]string{
		"routed": {"10.80.1.0/24", "fd80:1::/64"}, "open": {"10.80.2.0/24", "fd80:2::/64"},
		"isolated": {"10.80.3.0/24", "fd80:3::/64"}, "trusting": {"10.80.4.0/24", "fd80:4::/64"}, "source": {"10.80.5.0/24", "fd80:5::/64"},
	}
	create := func(name string, kv ...string) {
		t.Helper()
		w.create(name, func(r *network.CreateRequest) {
			dualStack(kv...)(r)
			r.Internal = name == "isolated"
			r.IPAM = &network.IPAM{}
			for _, s := range subnets[name] {
				r.IPAM.Config = append(r.IPAM.Config, network.IPAMConfig{Subnet: netip.MustParsePrefix(s)})
			}
		})
		if name != "isolated" {
			w.client.do("route %s %s", subnets[name][0], hostAddr)
			w.client.do("route %s %s", subnets[name][1], hostAddr6)
		}
	}
	create("routed", optGatewayMode4, "routed", optGatewayMode6, "routed")
	create("open", optGatewayMode4, "nat-unprotected", optGatewayMode6, "nat-unprotected")
	create("isolated", optGatewayMode4, "isolated", optGatewayMode6, "isolated")
	create("trusting", optTrusted, "up0")
	if _, err := obey([]string{"addr", "up0", "192.0.2.9/32"}); err != nil {
		t.Fatal(err)
	}
	create("source", optHost4, "192.0.2.9")
	run := func(net string) *box {
		return w.run(net, func(r *Request) {
			publish("8080->80/tcp")(r)
			if net == "open" || net == "trusting" {
				publish("8081->80/tcp")(r)
			}
			if net == "source" || net == "isolated" {
				r.PortBindings = nil
			}
			on(nil, net)(r)
		})
	}
	direct := func(b *box, net string) [2]string {
		return [2]string{b.alloc.Endpoints[net].IPAddress.String() + ":", "[" + b.addr6(net) + "]:"}
	}
	families := [2]string{"tcp4", "tcp6"}

	routed := run("routed")
	routed.do("serve tcp 81 closed")
	for i, addr := range direct(routed, "routed") {
		w.client.wants(families[i], addr+"80", "routed sees ")
		w.client.isRefused(families[i], addr+"81")
	}
	w.client.isRefused("tcp4", hostAddr+":8080")
	routed.wants("tcp6", "["+nextHost6+"]:80", "next sees "+routed.addr6("routed"))
	if got := routed.alloc.Ports[network.MustParsePort("80/tcp")]; len(got) != 2 || got[0].HostPort != "" {
		t.Errorf("ports = %+v", got)
	}

	open := run("open")
	open.do("serve tcp 81 open81")
	for i, addr := range direct(open, "open") {
		w.client.wants(families[i], addr+"81", "open81 sees ")
	}
	w.client.wants("tcp4", hostAddr+":8081", "open sees ")

	isolated := run("isolated")
	other := w.run("other", on(nil, "isolated"))
	for i, addr := range direct(isolated, "isolated") {
		other.wants(families[i], addr+"80", "isolated sees ")
		hostIsRefused(t, families[i], addr+"80")
	}
	if got := isolated.do("links"); strings.Contains(got, "via=") {
		t.Errorf("links = %s", got)
	}

	w.release(open) // 8081 is free
	trusting := run("trusting")
	trusting.do("serve tcp 81 closed")
	for i, addr := range direct(trusting, "trusting") {
		w.client.wants(families[i], addr+"80", "trusting sees ")
		w.client.isRefused(families[i], addr+"81")
		routed.isRefused(families[i], addr+"80")
	}

	run("source").wants("tcp4", nextHost+":80", "next sees 192.0.2.9")
}

func TestEndpointOptions(t *testing.T) {
	w := newWorld6(t)
	w.create("net", dualStack(optMTU, "1400", optIfPrefix, "net"))
	w.create("second", nil)
	a := w.run("a", on(&network.EndpointSettings{
		MacAddress: network.HardwareAddr{2, 3, 4, 5, 6, 7},
		IPAMConfig: &network.EndpointIPAMConfig{LinkLocalIPs: []netip.Addr{netip.MustParseAddr("169.254.8.8"), netip.MustParseAddr("fe80::88")}},
		DriverOpts: map[string]string{optEndpointSysctls: "net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.IFNAME.hop_limit=33"},
	}, "net"))
	links := a.do("links")
	for _, want := range []string{"net0=02:03:04:05:06:07,", ",169.254.8.8/16", ",fe80::88/64"} {
		if !strings.Contains(links, want) {
			t.Errorf("links = %s, want %s", links, want)
		}
	}
	if got := a.do("read /proc/sys/net/ipv6/conf/net0/hop_limit"); got != "33" {
		t.Errorf("hop_limit = %s", got)
	}

	// The gateway follows the priority, for both families on their own.
	second, err := w.m.ConnectRunning(context.Background(), a.id, a.pid(), "second", &network.EndpointSettings{GwPriority: 5,
		DriverOpts: map[string]string{optEndpointLink: "up7"}})
	if err != nil {
		t.Fatal(err)
	}
	ep := second.Endpoints["net"]
	got := a.do("links")
	for _, want := range []string{"up7=", "via=" + second.Endpoints["second"].Gateway.String(), "via=" + ep.IPv6Gateway.String()} {
		if !strings.Contains(got, want) {
			t.Errorf("links = %s, want %s", got, want)
		}
	}
	if _, err := w.m.DisconnectRunning(context.Background(), a.id, a.pid(), "second", false); err != nil {
		t.Fatal(err)
	}
	if got := a.do("links"); !strings.Contains(got, "via="+ep.Gateway.String()) {
		t.Errorf("after the disconnection: %s", got)
	}
	for _, bad := range []map[string]string{
		{optEndpointSysctls: "kernel.panic=1"}, {optEndpointSysctls: "net.ipv4.conf.all.forwarding=1"}, {optEndpointSysctls: "net.ipv4.conf.IFNAME.forwarding"},
		{optEndpointSysctls: "net.ipv4.conf.IFNAME./../x=1"}, {"com.docker.network.endpoint.sysctl": "x"},
	} {
		if _, err := w.m.Allocate(context.Background(), w.request("bad", on(&network.EndpointSettings{DriverOpts: bad}, "net"))); err == nil {
			t.Errorf("options %v are taken", bad)
		}
	}
}

func TestNetworksAreMadeAtStart(t *testing.T) {
	w := newWorld6(t)
	id := w.create("kept", dualStack())
	w.close(false)
	if _, err := obey([]string{"addr", "br-" + id[:12], "10.1.1.1/32"}); err == nil {
		t.Fatal("the bridge outlived its daemon")
	}
	w.open()
	in, err := w.m.Inspect(context.Background(), "kept")
	if err != nil {
		t.Fatal(err)
	}
	_, addrs, err := w.m.links.Find("br-" + id[:12])
	if err != nil || !addrs {
		t.Errorf("the bridge of %+v is not there: %v", in, err)
	}
}

func TestConfigurationNetworks(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	w.create("conf", func(r *network.CreateRequest) {
		r.ConfigOnly = true
		r.Options = map[string]string{optMTU: "1300"}
		r.Labels = map[string]string{"a": "b"}
		r.IPAM = &network.IPAM{Config: []network.IPAMConfig{{Subnet: netip.MustParsePrefix("10.77.0.0/24")}}}
	})
	w.create("real", func(r *network.CreateRequest) { r.ConfigFrom = &network.ConfigReference{Network: "conf"} })
	in, err := w.m.Inspect(ctx, "real")
	if err != nil || in.IPAM.Config[0].Subnet.String() != "10.77.0.0/24" || in.Options[optMTU] != "1300" || in.Labels["a"] != "b" || in.ConfigFrom.Network != "conf" {
		t.Errorf("inspect: %+v, %v", in, err)
	}
	if _, err := w.m.Allocate(ctx, w.request("x", on(nil, "conf"))); err == nil {
		t.Error("a container joins a configuration network")
	}
	if err := w.m.Remove(ctx, "conf"); err == nil || err.Error() != `configuration network "conf" is in use` {
		t.Errorf("remove: %v", err)
	}
	w.run("a", on(&network.EndpointSettings{IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr("10.77.0.9")}}, "real"))
	w.close(true)
	w.open()
	for id := range w.m.sandboxes {
		if err := w.m.Release(ctx, id); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"real", "conf"} {
		if err := w.m.Remove(ctx, name); err != nil {
			t.Error(err)
		}
	}
}

func TestDefaultBridgeWithIPv6(t *testing.T) {
	w := newWorld6(t, func(c *Config) {
		c.IPv6, c.DirectRouting = true, true
		c.BIP6, c.FixedCIDR6 = netip.MustParsePrefix("fd99::1/64"), netip.MustParsePrefix("fd99::1:0/112")
	})
	a := w.run("a", publish("8080->80/tcp"))
	ep := a.alloc.Endpoints["bridge"]
	if ep.GlobalIPv6Address.String() != "fd99::1:0" || ep.IPv6Gateway.String() != "fd99::1" {
		t.Errorf("endpoint = %+v", ep)
	}
	w.client.wants("tcp6", "["+hostAddr6+"]:8080", "a sees "+nextHost6)
	w.client.do("route fd99::/64 %s", hostAddr6)
	a.do("serve tcp 81 closed")
	w.client.wants("tcp6", "[fd99::1:0]:80", "a sees "+nextHost6)
	w.client.isRefused("tcp6", "[fd99::1:0]:81")
	w.release(a)

	// Without the settings: a subnet of the daemon's own, and the same again.
	w.close(false)
	w.cfg.BIP6, w.cfg.FixedCIDR6 = netip.Prefix{}, netip.Prefix{}
	w.open()
	w.close(false)
	w.cfg.IPv6 = false
	w.open()
	if in, err := w.m.Inspect(context.Background(), "bridge"); err != nil || in.EnableIPv6 || len(in.IPAM.Config) != 1 {
		t.Errorf("turned off again: %+v, %v", in.IPAM, err)
	}
}
