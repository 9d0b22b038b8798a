package network

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/network"
	"github.com/vishvananda/netlink"
)

// A daemon that was killed: what the next one finds is the kernel's state and the
// records.
func TestRestore(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	if _, err := w.m.Create(ctx, network.CreateRequest{Name: "mine"}); err != nil {
		t.Fatal(err)
	}
	web := w.run("web", publish("8080->80/tcp", "8080->80/udp"))
	mine := w.run("mine1", func(r *Request) { r.Mode = "mine"; publish("8082->80/tcp")(r) })
	dead := w.run("dead", publish("8081->80/tcp"))
	never, err := w.m.Allocate(ctx, w.request("never", publish("8083->80/tcp"))) // allocated, not connected
	if err != nil {
		t.Fatal(err)
	}
	bridgeID := w.m.byNameLocked("bridge").Network.ID
	w.close(true)

	// With nobody there, the firewall carries on.
	w.client.wants("tcp", hostAddr+":8080", "web sees "+nextHost)
	dead.stop()

	w.open()
	w.client.wants("tcp", hostAddr+":8080", "web sees "+nextHost)
	if err := w.m.Restore(ctx, map[string]int{web.id: web.pid(), mine.id: mine.pid()}); err != nil {
		t.Fatal(err)
	}
	if got := w.m.byNameLocked("bridge").Network.ID; got != bridgeID {
		t.Errorf("ID of the default network changed from %s to %s", bridgeID, got)
	}
	w.client.wants("tcp", hostAddr+":8080", "web sees "+nextHost)
	w.client.wants("udp", hostAddr+":8080", "web sees "+nextHost)
	w.client.wants("tcp", hostAddr+":8082", "mine1 sees "+nextHost)
	hostWants(t, "tcp", "[::1]:8080", "web sees")
	hostIsRefused(t, "tcp", "127.0.0.1:8081")
	if _, err := w.m.Allocate(ctx, w.request("thief", publish("8080->80/tcp"))); err == nil || !strings.Contains(err.Error(), "stop container web or publish") {
		t.Errorf("port of a restored container: %v", err)
	}
	// What the dead had is free, also the address and port of one never connected.
	again := w.run("again", publish("8081->80/tcp", "8083->81/tcp"))
	if again.ip() != dead.ip() {
		t.Errorf("address = %s, want %s (never had %v)", again.ip(), dead.ip(), never.Endpoints)
	}
	w.client.wants("tcp", hostAddr+":8081", "again sees "+nextHost)

	for _, b := range []*box{web, mine, again} {
		w.release(b)
	}
	w.close(false)
	w.audit()
}

// audit fails the test if anything of the Manager is left.
func (w *world) audit() {
	w.t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, l := range links {
		if n := l.Attrs().Name; n != "lo" && n != "up0" {
			w.t.Errorf("link %s is left", n)
		}
	}
	if tables := tableNames(w.t); len(tables) > 0 {
		w.t.Errorf("tables are left: %q", tables)
	}
	for _, dir := range []string{filepath.Join(w.cfg.StateDir, "sandboxes"), w.cfg.SandboxDir} {
		entries, err := os.ReadDir(dir)
		if err != nil && !os.IsNotExist(err) {
			w.t.Error(err)
		}
		for _, e := range entries {
			w.t.Errorf("%s/%s is left", dir, e.Name())
		}
	}
}

func TestNothingIsLeft(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	fds := 0
	for i := range 4 {
		b := w.run(fmt.Sprint("c", i), publish("8080->80/tcp", "8080->80/udp"))
		hostWants(t, "tcp", "[::1]:8080", "c")
		hostWants(t, "udp", "[::1]:8080", "c")
		if i == 1 { // its namespace lives on
			if err := w.m.Release(ctx, b.id); err != nil {
				t.Fatal(err)
			}
		} else {
			w.release(b)
		}
		if err := w.m.Release(ctx, b.id); err != nil {
			t.Errorf("second release: %v", err)
		}
		w.m.reaper.Wait()
		b.stop()
		if i == 0 {
			fds = openFiles(t) // with what the Go runtime opens once
		}
	}
	if err := w.m.Release(ctx, "never"); err != nil {
		t.Errorf("release of nothing: %v", err)
	}
	if got := w.m.byNameLocked("bridge").v4.pool.InUse(); got != 3 {
		t.Errorf("addresses in use = %d, want 3: network, gateway, broadcast", got)
	}
	if got := w.m.table.String(); strings.Contains(got, "8080") {
		t.Errorf("firewall = %s", got)
	}
	if got := openFiles(t); got != fds {
		t.Errorf("open files: %d, were %d", got, fds)
	}
	w.close(false)
	w.audit()
}

// openFiles counts open files without pipes, of which package net keeps some to
// copy with.
func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && !strings.HasPrefix(to, "pipe:") {
			n++
		}
	}
	return n
}

// Somebody flushed the ruleset or deleted the bridge: the next change or Reapply
// restores it.
func TestRepair(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	web := w.run("web", publish("8080->80/tcp"))
	flush := func() { flushRuleset(t) }
	flush()
	if err := w.m.Reapply(ctx); err != nil {
		t.Fatal(err)
	}
	w.client.wants("tcp", hostAddr+":8080", "web sees")
	flush()
	two := w.run("two", publish("8081->80/tcp"))
	w.client.wants("tcp", hostAddr+":8080", "web sees")
	w.client.wants("tcp", hostAddr+":8081", "two sees")
	flush()
	w.release(two)
	w.client.wants("tcp", hostAddr+":8080", "web sees")
	w.release(web)

	br, err := netlink.LinkByName("docker0")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkDel(br); err != nil {
		t.Fatal(err)
	}
	w.run("three", publish("8080->80/tcp"))
	w.client.wants("tcp", hostAddr+":8080", "three sees")
}

// A host that did not forward does not become a router for others.
func TestForwardingIsForContainersOnly(t *testing.T) {
	needRoot(t)
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	far := startPeer(t, "far")
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up1"}, PeerName: "up1", PeerNamespace: netlink.NsPid(far.pid())}
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatal(err)
	}
	defer netlink.LinkDel(link)
	if _, err := obey([]string{"addr", "up1", "198.51.100.1/24"}); err != nil {
		t.Fatal(err)
	}
	far.do("addr up1 198.51.100.2/24 198.51.100.1")
	far.do("serve tcp 80 far")
	w.client.do("route 198.51.100.0/24 %s", hostAddr)
	w.client.isRefused("tcp", "198.51.100.2:80")
	a := w.run("a", nil)
	a.wants("tcp", "198.51.100.2:80", "far sees 198.51.100.1")

	// Also after a restart, which finds forwarding on.
	w.release(a)
	w.close(false)
	w.open()
	w.client.isRefused("tcp", "198.51.100.2:80")
	w.close(false)
	w.cfg.IPForwardNoDrop = true
	w.open()
	w.client.wants("tcp", "198.51.100.2:80", "far sees "+nextHost)
}

func TestSubnetChoice(t *testing.T) {
	needRoot(t)
	d := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "taken0"}}
	if err := netlink.LinkAdd(d); err != nil {
		t.Fatal(err)
	}
	defer netlink.LinkDel(d)
	if _, err := obey([]string{"addr", "taken0", "172.17.5.1/24"}); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	if c := w.run("c", nil); c.ip() != "172.18.0.2" {
		t.Errorf("address = %s, want one of 172.18.0.0/16", c.ip())
	}
	r, err := w.m.Create(context.Background(), network.CreateRequest{Name: "n"})
	if err != nil {
		t.Fatal(err)
	}
	in, _ := w.m.Inspect(context.Background(), r.ID)
	if got := in.IPAM.Config[0].Subnet.String(); got != "172.19.0.0/16" {
		t.Errorf("subnet = %s, want 172.19.0.0/16", got)
	}
}

func TestBIP(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.BIP = netip.MustParsePrefix("10.200.0.1/16")
		c.FixedCIDR = netip.MustParsePrefix("10.200.7.0/24")
		c.DefaultGateway = netip.MustParseAddr("10.200.0.1")
		c.MTU = 1400
	})
	c := w.run("c", nil)
	if got := c.do("links"); !strings.Contains(got, "10.200.7.0/16") {
		t.Errorf("links = %s", got)
	}
	w.release(c)
	w.close(false)
	w.cfg.BIP = netip.MustParsePrefix("10.201.0.1/16")
	w.cfg.FixedCIDR, w.cfg.DefaultGateway = netip.Prefix{}, netip.Addr{}
	w.open()
	if c := w.run("d", nil); c.ip() != "10.201.0.2" {
		t.Errorf("address after the subnet changed = %s", c.ip())
	}
}

// BenchmarkManager_Cycle reports medians, for teardown of the namespace before
// shares a lock of the kernel with the next one's links.
func BenchmarkManager_Cycle(b *testing.B) {
	w := newWorld(b)
	ctx := context.Background()
	var allocate, connect, release []time.Duration
	for b.Loop() {
		p := startPeer(b, "c")
		req := w.request("c", publish("8080->80/tcp"))
		t0 := time.Now()
		if _, err := w.m.Allocate(ctx, req); err != nil {
			b.Fatal(err)
		}
		t1 := time.Now()
		if err := w.m.Connect(ctx, req.ContainerID, p.pid()); err != nil {
			b.Fatal(err)
		}
		t2 := time.Now()
		p.stop()
		t3 := time.Now()
		if err := w.m.Release(ctx, req.ContainerID); err != nil {
			b.Fatal(err)
		}
		allocate, connect, release = append(allocate, t1.Sub(t0)), append(connect, t2.Sub(t1)), append(release, time.Since(t3))
	}
	for unit, d := range map[string][]time.Duration{"allocate-us": allocate, "connect-us": connect, "release-us": release} {
		slices.Sort(d)
		b.ReportMetric(float64(d[len(d)/2].Microseconds()), unit)
	}
	b.ReportMetric(0, "ns/op")
}

func BenchmarkOpen(b *testing.B) {
	w := newWorld(b)
	w.close(false)
	for b.Loop() {
		w.open()
		b.StopTimer()
		w.close(false)
		b.StartTimer()
	}
}
