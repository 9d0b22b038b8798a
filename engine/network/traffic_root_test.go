package network

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/nftables"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/vishvananda/netlink"
)

func TestDefaultBridge(t *testing.T) {
	w := newWorld(t)
	a := w.run("a", nil)
	b := w.run("b", nil)

	if got, want := a.do("links"), "lo,127.0.0.1/8,::1/128 eth0=02:42:ac:11:00:02,172.17.0.2/16 via=172.17.0.1"; got != want {
		t.Errorf("links = %s, want %s", got, want)
	}
	ep := a.alloc.Endpoints["bridge"]
	if ep == nil || ep.IPAddress.String() != "172.17.0.2" || ep.IPPrefixLen != 16 || ep.Gateway.String() != "172.17.0.1" ||
		ep.MacAddress.String() != "02:42:ac:11:00:02" || len(ep.NetworkID) != 64 || len(ep.EndpointID) != 64 {
		t.Errorf("endpoint = %+v", ep)
	}
	if want := "172.17.0.2\ta\n"; !strings.HasSuffix(string(a.alloc.Hosts), want) {
		t.Errorf("hosts = %s, want it to end in %q", a.alloc.Hosts, want)
	}
	if !bytes.Contains(a.alloc.ResolvConf, []byte("\nnameserver 192.0.2.53\n")) || bytes.Contains(a.alloc.ResolvConf, []byte("127.0.0.53")) {
		t.Errorf("resolv.conf = %s", a.alloc.ResolvConf)
	}
	a.wants("tcp", "172.17.0.3:80", "b sees 172.17.0.2")
	b.wants("udp", "172.17.0.2:80", "a sees 172.17.0.3")
	a.wants("tcp", "172.17.0.2:80", "a sees 172.17.0.2")
	hostWants(t, "tcp", "172.17.0.2:80", "a sees 172.17.0.1")

	// Out, behind the host's address.
	w.client.do("serve tcp 9000 next")
	w.client.do("serve udp 9000 next")
	a.wants("tcp", nextHost+":9000", "next sees "+hostAddr)
	a.wants("udp", nextHost+":9000", "next sees "+hostAddr)

	// In, with a route to the containers: not to ports that are not published.
	w.client.do("route 172.17.0.0/16 %s", hostAddr)
	w.client.isRefused("tcp", "172.17.0.2:80")
	w.client.isRefused("udp", "172.17.0.2:80")

	// The key leads to the namespace.
	if _, err := os.Stat(a.alloc.SandboxKey); err != nil {
		t.Error(err)
	}
	in, err := w.m.Inspect(context.Background(), "bridge")
	if err != nil || len(in.Containers) != 2 || in.Containers[a.id].Name != "a" || in.Containers[a.id].IPv4Address.String() != "172.17.0.2/16" {
		t.Errorf("inspect = %+v, %v", in, err)
	}
	// The lowest address is used again.
	w.release(a)
	if _, err := os.Lstat(a.alloc.SandboxKey); err == nil {
		t.Error("sandbox key is left")
	}
	if c := w.run("c", nil); c.ip() != "172.17.0.2" {
		t.Errorf("address of the next container = %s", c.ip())
	} else {
		b.wants("tcp", "172.17.0.2:80", "c sees")
		hostWants(t, "tcp", "172.17.0.2:80", "c sees")
	}
}

func TestPublish(t *testing.T) {
	for _, brNetfilter := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables="+brNetfilter, func(t *testing.T) {
			w := newWorld(t)
			const knob = "/proc/sys/net/bridge/bridge-nf-call-iptables"
			if err := os.WriteFile(knob, []byte(brNetfilter), 0); err != nil && brNetfilter == "0" {
				t.Logf("no br_netfilter: %v", err)
			}
			other := w.run("other", nil)
			web := w.run("web", publish("8080->80/tcp", "8080->80/udp", "127.0.0.1:8081->80/tcp", hostAddr+":8082->80/tcp", "->80/tcp"))

			ports := web.alloc.Ports[network.MustParsePort("80/tcp")]
			if len(ports) != 6 || ports[0].HostIP.String() != "0.0.0.0" || ports[0].HostPort != "8080" || ports[1].HostIP.String() != "::" {
				t.Errorf("ports = %v", ports)
			}
			if ports[4].HostPort != ports[5].HostPort || ports[4].HostPort < "3" {
				t.Errorf("ephemeral ports = %v, want the same in both families", ports[4:])
			}
			ephemeral := ports[4].HostPort

			// From another host.
			w.client.wants("tcp", hostAddr+":8080", "web sees "+nextHost)
			w.client.wants("udp", hostAddr+":8080", "web sees "+nextHost)
			w.client.wants("tcp", hostAddr+":8082", "web sees "+nextHost)
			w.client.wants("tcp", hostAddr+":"+ephemeral, "web sees "+nextHost)
			w.client.isRefused("tcp", hostAddr+":8081")

			// From the host itself.
			for _, addr := range []string{"127.0.0.1:8080", "127.0.0.2:8080", hostAddr + ":8080", "172.17.0.1:8080", "127.0.0.1:8081", hostAddr + ":8082", "127.0.0.1:" + ephemeral} {
				hostWants(t, "tcp", addr, "web sees ")
			}
			hostWants(t, "udp", "127.0.0.1:8080", "web sees 172.17.0.1")
			hostWants(t, "udp", hostAddr+":8080", "web sees ")
			hostWants(t, "tcp", "[::1]:8080", "web sees 172.17.0.1")
			hostWants(t, "udp", "[::1]:8080", "web sees 172.17.0.1")
			hostIsRefused(t, "tcp", hostAddr+":8081")
			hostIsRefused(t, "tcp", "127.0.0.1:8082")

			// From a container, also from the one that publishes.
			other.wants("tcp", hostAddr+":8080", "web sees ")
			other.wants("udp", hostAddr+":8080", "web sees ")
			other.wants("tcp", "172.17.0.1:8080", "web sees ")
			web.wants("tcp", hostAddr+":8080", "web sees ")
			web.wants("udp", hostAddr+":8080", "web sees ")
			// Only addresses of the host are translated: CVE-2025-67499.
			w.client.do("serve tcp 8080 next")
			other.wants("tcp", nextHost+":8080", "next sees "+hostAddr)

			w.release(web)
			w.client.isRefused("tcp", hostAddr+":8080")
			hostIsRefused(t, "tcp", "127.0.0.1:8080")
			hostIsRefused(t, "tcp", "[::1]:8080")
		})
	}
}

// A frame with a loopback address that comes from the next host, or from a
// container, goes nowhere (CVE-2020-8558).
func TestLoopbackFromOutside(t *testing.T) {
	w := newWorld(t)
	w.run("web", publish("127.0.0.1:8081->80/tcp", "127.0.0.1:8081->80/udp"))
	pc, err := net.ListenPacket("udp4", "127.0.0.1:9999")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	// The next host's own routing must not keep the packet at home.
	evil := w.run("evil", nil)
	for _, p := range []*peer{w.client, evil.peer} {
		gw, dev := hostAddr, "up0"
		if p == evil.peer {
			gw, dev = "172.17.0.1", "eth0"
		}
		p.do("loopback-via %s %s", dev, gw)
		if got, err := p.try("ask udp 127.0.0.1:8081"); err == nil {
			t.Errorf("%s reached a port on the host's loopback address: %q", p.name, got)
		}
		if got, err := p.try("ask tcp 127.0.0.1:8081"); err == nil {
			t.Errorf("%s reached a port on the host's loopback address: %q", p.name, got)
		}
		p.try("ask udp 127.0.0.1:9999")
	}
	// Nor does one that only claims to come from there.
	all, err := net.ListenPacket("udp4", ":9998")
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	evil.do("addr eth0 127.0.0.5/32")
	evil.do("tell 172.17.0.1:9998 127.0.0.5")
	for _, c := range []net.PacketConn{pc, all} {
		c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		buf := make([]byte, 10)
		if n, from, err := c.ReadFrom(buf); err == nil {
			t.Errorf("the host received %q from %s", buf[:n], from)
		}
	}
	evil.do("tell 172.17.0.1:9998 172.17.0.3")
	all.SetReadDeadline(time.Now().Add(askTimeout))
	if _, _, err := all.ReadFrom(make([]byte, 10)); err != nil {
		t.Errorf("an honest datagram: %v", err)
	}
	hostWants(t, "tcp", "127.0.0.1:8081", "web sees")
}

func TestPortConflicts(t *testing.T) {
	w := newWorld(t)
	w.run("web", publish("8080->80/tcp"))
	ctx := context.Background()

	for _, tc := range []struct{ name, binding, want string }{
		{"same", "8080->80/tcp", "Bind for 0.0.0.0:8080 failed: port is already allocated: stop container web or publish another port"},
		{"covered", "127.0.0.1:8080->80/tcp", "Bind for 127.0.0.1:8080 failed: port is already allocated"},
		{"IPv6", "[::1]:8080->80/tcp", "Bind for [::1]:8080 failed: port is already allocated"},
	} {
		_, err := w.m.Allocate(ctx, w.request("x", publish(tc.binding)))
		if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.HasPrefix(err.Error(), "driver failed programming external connectivity on endpoint x (") {
			t.Errorf("%s: error = %v, want %q", tc.name, err, tc.want)
		}
	}
	if _, err := w.m.Allocate(ctx, w.request("x", publish("8080->80/udp"))); err != nil {
		t.Errorf("other protocol: %v", err)
	}

	l, err := net.Listen("tcp4", "127.0.0.1:8090")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = w.m.Allocate(ctx, w.request("x", publish("8090->80/tcp")))
	if want := "failed to bind host port 0.0.0.0:8090/tcp: address already in use"; err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("error = %v, want %q", err, want)
	}
	a, err := w.m.Allocate(ctx, w.request("x", publish("8090-8091->80/tcp")))
	if err != nil || a.Ports[network.MustParsePort("80/tcp")][0].HostPort != "8091" {
		t.Errorf("range: %+v, %v, want port 8091", a, err)
	}
	// Nothing is left of the failures: the addresses are the next ones.
	if c := w.run("last", nil); c.ip() != "172.17.0.5" {
		t.Errorf("address = %s, want 172.17.0.5", c.ip())
	}
	// And other programs do not get the ports.
	if l, err := net.Listen("tcp4", ":8080"); err == nil {
		l.Close()
		t.Error("another program got a published port")
	}
}

func TestUserDefinedNetworks(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	create := func(req network.CreateRequest) string {
		t.Helper()
		r, err := w.m.Create(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		return r.ID
	}
	red := create(network.CreateRequest{Name: "red"})
	create(network.CreateRequest{Name: "blue", IPAM: &network.IPAM{Config: []network.IPAMConfig{{Subnet: netip.MustParsePrefix("10.20.0.0/24")}}}})
	create(network.CreateRequest{Name: "dark", Internal: true})
	create(network.CreateRequest{Name: "shy", Options: map[string]string{optICC: "false"}})
	if _, err := netlink.LinkByName("br-" + red[:12]); err != nil {
		t.Error(err)
	}
	on := func(mode string, more ...func(*Request)) func(*Request) {
		return func(r *Request) {
			r.Mode = container.NetworkMode(mode)
			for _, f := range more {
				f(r)
			}
		}
	}
	red1, red2 := w.run("red1", on("red", publish("8081->80/tcp"))), w.run("red2", on(red[:12]))
	blue1 := w.run("blue1", on("blue", func(r *Request) {
		r.Endpoints = map[string]*network.EndpointSettings{"blue": {IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr("10.20.0.77")}, Aliases: []string{"bb"}}}
	}))
	dark1, dark2 := w.run("dark1", on("dark", publish("8084->80/tcp"))), w.run("dark2", on("dark"))
	shy1, shy2 := w.run("shy1", on("shy")), w.run("shy2", on("shy"))
	def := w.run("default", nil)

	if got := blue1.ip(); got != "10.20.0.77" {
		t.Errorf("chosen address = %s", got)
	}
	if got := blue1.alloc.Endpoints["blue"].DNSNames; !slices.Equal(got, []string{"blue1", "bb", blue1.id[:12]}) {
		t.Errorf("DNS names = %q", got)
	}
	red1.wants("tcp", red2.ip()+":80", "red2 sees "+red1.ip())
	for _, b := range []*box{blue1, dark1, shy1, def} {
		red1.isRefused("tcp", b.ip()+":80")
		b.isRefused("tcp", red1.ip()+":80")
	}
	// Over the published port the networks meet.
	blue1.wants("tcp", hostAddr+":8081", "red1 sees")
	w.client.wants("tcp", hostAddr+":8081", "red1 sees "+nextHost)

	dark1.wants("tcp", dark2.ip()+":80", "dark2 sees "+dark1.ip())
	w.client.do("serve tcp 9000 next")
	red1.wants("tcp", nextHost+":9000", "next sees "+hostAddr)
	dark1.isRefused("tcp", nextHost+":9000")
	// Not even if the container and the other host know the way.
	in, err := w.m.Inspect(ctx, "dark")
	if err != nil {
		t.Fatal(err)
	}
	w.client.do("route %s %s", in.IPAM.Config[0].Subnet, hostAddr)
	dark1.do("route %s/32 %s", nextHost, in.IPAM.Config[0].Gateway)
	dark1.isRefused("tcp", nextHost+":9000")
	if strings.Contains(dark2.do("links"), "via=") || dark1.alloc.Endpoints["dark"].Gateway.IsValid() {
		t.Errorf("internal network has a gateway: %s", dark2.do("links"))
	}
	if len(dark1.alloc.Ports) != 0 {
		t.Errorf("ports of a container on an internal network = %v", dark1.alloc.Ports)
	}
	hostIsRefused(t, "tcp", "127.0.0.1:8084")

	shy1.isRefused("tcp", shy2.ip()+":80")
	shy1.wants("tcp", nextHost+":9000", "next sees "+hostAddr)

	if err := w.m.Remove(ctx, "red"); !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), `network red has active endpoints (name:"red1" id:"`) {
		t.Errorf("remove a network in use: %v", err)
	}
	w.release(red1)
	w.release(red2)
	if err := w.m.Remove(ctx, "red"); err != nil {
		t.Error(err)
	}
	if _, err := netlink.LinkByName("br-" + red[:12]); err == nil {
		t.Error("bridge of a removed network is left")
	}
	blue1.isRefused("tcp", def.ip()+":80") // isolation survives the change
}

func TestRunningContainers(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	for _, name := range []string{"one", "two"} {
		if _, err := w.m.Create(ctx, network.CreateRequest{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	c := w.run("c", publish("8080->80/tcp"))
	one := w.run("peer1", func(r *Request) { r.Mode = "one" })

	a, err := w.m.ConnectRunning(ctx, c.id, c.pid(), "one", nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Endpoints) != 2 || !bytes.Contains(a.Hosts, []byte(a.Endpoints["one"].IPAddress.String()+"\tc\n")) {
		t.Errorf("allocation = %+v, hosts %s", a, a.Hosts)
	}
	if got := c.do("links"); !strings.Contains(got, "eth1=") || !strings.Contains(got, "via=172.17.0.1") {
		t.Errorf("links = %s", got)
	}
	one.wants("tcp", a.Endpoints["one"].IPAddress.String()+":80", "c sees")
	if _, err := w.m.ConnectRunning(ctx, c.id, c.pid(), "one", nil); !errdefs.IsPermissionDenied(err) {
		t.Errorf("second connection = %v, want PermissionDenied", err)
	}
	// The gateway moves with priority, and published ports with it.
	a, err = w.m.ConnectRunning(ctx, c.id, c.pid(), "two", &network.EndpointSettings{GwPriority: 1})
	if err != nil {
		t.Fatal(err)
	}
	if got := c.do("links"); !strings.Contains(got, "via="+a.Endpoints["two"].Gateway.String()) {
		t.Errorf("links = %s", got)
	}
	w.client.wants("tcp", hostAddr+":8080", "c sees "+nextHost)
	hostWants(t, "tcp", "[::1]:8080", "c sees "+a.Endpoints["two"].Gateway.String())

	for _, name := range []string{"two", "bridge"} {
		if a, err = w.m.DisconnectRunning(ctx, c.id, c.pid(), name, false); err != nil {
			t.Fatal(err)
		}
	}
	if got := c.do("links"); strings.Contains(got, "eth0") || strings.Contains(got, "eth2") || !strings.Contains(got, "via="+a.Endpoints["one"].Gateway.String()) {
		t.Errorf("links = %s", got)
	}
	w.client.wants("tcp", hostAddr+":8080", "c sees "+nextHost)
	if _, err := w.m.DisconnectRunning(ctx, c.id, c.pid(), "two", false); err == nil || !strings.Contains(err.Error(), "is not connected to network two") {
		t.Errorf("disconnect twice = %v", err)
	}
	if _, err := w.m.ConnectRunning(ctx, c.id, c.pid(), "host", nil); err != error(errHostNetwork) {
		t.Errorf("connect to host = %v", err)
	}
	if _, err := w.m.DisconnectRunning(ctx, c.id, c.pid(), "one", false); err != nil {
		t.Error(err)
	}
	w.client.isRefused("tcp", hostAddr+":8080")
}

func TestModes(t *testing.T) {
	w := newWorld(t)
	none := w.run("none", func(r *Request) { r.Mode = "none" })
	if got := none.do("links"); got != "lo,127.0.0.1/8,::1/128" {
		t.Errorf("links = %s", got)
	}
	host, err := w.m.Allocate(context.Background(), w.request("h", func(r *Request) {
		r.Mode = "host"
		publish("8080->80/tcp")(r)
	}))
	if err != nil {
		t.Fatal(err)
	}
	hosts, _ := os.ReadFile("/etc/hosts")
	if !bytes.Equal(host.Hosts, hosts) || !bytes.Contains(host.ResolvConf, []byte("127.0.0.53")) || len(host.Warnings) != 1 || len(host.Ports) != 0 {
		t.Errorf("host mode = %+v", host)
	}
	if err := w.m.Connect(context.Background(), fmt.Sprintf("%012x%052x", w.n, 0), os.Getpid()); err != nil {
		t.Error(err)
	}
	astray, err := w.m.Allocate(context.Background(), w.request("astray", nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.m.Connect(context.Background(), fmt.Sprintf("%012x%052x", w.n, 0), os.Getpid()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("connect a process in the host's namespace (%v): %v, want FailedPrecondition", astray.Endpoints, err)
	}
	in, _ := w.m.Inspect(context.Background(), "host")
	if len(in.Containers) != 1 {
		t.Errorf("containers of host = %v", in.Containers)
	}
	other, err := w.m.Allocate(context.Background(), w.request("o", func(r *Request) { r.Mode = "container:abc" }))
	if err != nil || len(other.Endpoints) != 0 {
		t.Errorf("container mode = %+v, %v", other, err)
	}
}

func TestICCOff(t *testing.T) {
	for name, isolate := range map[string]bool{"frames filtered": false, "ports isolated": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(c *Config) { c.ICC = false })
			if isolate { // as without br_netfilter
				if err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("0"), 0); err != nil && !os.IsNotExist(err) {
					t.Fatal(err)
				}
				w.m.canFilterFrames = false
			}
			a, b := w.run("a", nil), w.run("b", publish("8080->80/tcp"))
			a.isRefused("tcp", b.ip()+":80")
			b.isRefused("tcp", a.ip()+":80")
			a.isRefused("udp", b.ip()+":80")
			if !isolate {
				a.wants("tcp", hostAddr+":8080", "b sees")
			}
			w.client.wants("tcp", hostAddr+":8080", "b sees")
		})
	}
}

// Without a firewall the process carries published ports itself.
func TestNoFirewall(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Firewall = false })
	web := w.run("web", publish("8080->80/tcp", "8080->80/udp", "127.0.0.1:8081->80/tcp"))
	w.client.wants("tcp", hostAddr+":8080", "web sees 172.17.0.1")
	w.client.wants("udp", hostAddr+":8080", "web sees 172.17.0.1")
	w.client.isRefused("tcp", hostAddr+":8081")
	for _, addr := range []string{"127.0.0.1:8080", "[::1]:8080", "127.0.0.1:8081"} {
		hostWants(t, "tcp", addr, "web sees 172.17.0.1")
	}
	hostWants(t, "udp", "127.0.0.2:8080", "web sees")
	if tables := tableNames(t); len(tables) > 0 {
		t.Errorf("tables = %q", tables)
	}
	w.release(web)
	hostIsRefused(t, "tcp", "127.0.0.1:8080")
}

func tableNames(t testing.TB) []string {
	t.Helper()
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	tables, err := c.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, tb := range tables {
		names = append(names, tb.Name)
	}
	return names
}
