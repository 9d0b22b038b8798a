package network

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// on joins a container to networks, the first of them its mode.
func on(settings *network.EndpointSettings, networks ...string) func(*Request) {
	return func(r *Request) {
		r.Mode = container.NetworkMode(networks[0])
		r.Endpoints = map[string]*network.EndpointSettings{}
		for _, n := range networks {
			r.Endpoints[n] = settings.Copy()
		}
	}
}

func (w *world) create(name string, change func(*network.CreateRequest)) string {
	w.t.Helper()
	req := network.CreateRequest{Name: name}
	if change != nil {
		change(&req)
	}
	resp, err := w.m.Create(context.Background(), req)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.ID
}

func (p *peer) looksUp(question, want string) {
	p.t.Helper()
	if got, err := p.try("lookup %s", question); err != nil || got != want {
		p.t.Errorf("%s looks up %s: %q, %v, want %q", p.name, question, got, err, want)
	}
}

func startNameServer(t *testing.T, addr string, mark byte) {
	t.Helper()
	stop, err := nameServer(addr, mark)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
}

func TestNamesOfContainers(t *testing.T) {
	w := newWorld(t)
	startNameServer(t, "127.0.0.53:53", 1) // the others of the file are not asked
	w.create("app", nil)
	w.create("back", nil)
	a := w.run("a", on(&network.EndpointSettings{Aliases: []string{"web", "Shared"}}, "app", "back"))
	b := w.run("b", func(r *Request) {
		on(&network.EndpointSettings{Aliases: []string{"shared"}, Links: []string{"a:other"}}, "app")(r)
		r.Hostname = "b-host"
	})
	c := w.run("c", on(nil, "back"))
	plain := w.run("plain", nil)

	addr := func(x *box, network string) string { return x.alloc.Endpoints[network].IPAddress.String() }
	aApp, aBack, bApp := addr(a, "app"), addr(a, "back"), addr(b, "app")
	b.looksUp("a. A", "OK "+aApp)
	b.looksUp("A. A", "OK "+aApp)
	b.looksUp("web. A", "OK "+aApp)
	b.looksUp("other. A", "OK "+aApp)
	b.looksUp("shared. A", "OK "+strings.Join([]string{aApp, bApp}, " "))
	b.looksUp("a.app. A", "OK "+aApp)
	b.looksUp(a.id[:12]+". A", "OK "+aApp)
	a.looksUp("b-host. A", "OK "+bApp)
	a.looksUp("b. AAAA", "OK")
	a.looksUp("b. MX", "OK")
	a.looksUp("a.back. A", "OK "+aBack)
	c.looksUp("a. A", "OK "+aBack)
	parts := strings.Split(bApp, ".")
	a.looksUp(parts[3]+"."+parts[2]+"."+parts[1]+"."+parts[0]+".in-addr.arpa. PTR", "OK b.app.")
	if got := b.do("lookup-tcp a. A"); got != "OK "+aApp {
		t.Errorf("over TCP: %s", got)
	}
	// What is not on a shared network is not known; the host's server says so.
	c.looksUp("b. A", "NXDOMAIN")
	a.looksUp("other. A", "NXDOMAIN")
	if _, err := plain.try("lookup a. A"); err == nil {
		t.Error("a container on the default bridge has a name server")
	}
	conf := string(a.alloc.ResolvConf)
	for _, line := range []string{"nameserver 127.0.0.11\n", "options ndots:0\n", "# ExtServers: [host(127.0.0.53) host(192.0.2.53)]\n"} {
		if !strings.Contains(conf, line) {
			t.Errorf("resolv.conf has no line %q: %s", line, conf)
		}
	}

	// A rename, a connection and a disconnection are seen at once.
	if err := w.m.Rename(context.Background(), b.id, "b2"); err != nil {
		t.Fatal(err)
	}
	a.looksUp("b2. A", "OK "+bApp)
	a.looksUp("b. A", "NXDOMAIN")
	got, err := w.m.ConnectRunning(context.Background(), plain.id, plain.pid(), "back", &network.EndpointSettings{Aliases: []string{"late"}})
	if err != nil {
		t.Fatal(err)
	}
	c.looksUp("late. A", "OK "+got.Endpoints["back"].IPAddress.String())
	plain.looksUp("c. A", "OK "+addr(c, "back"))
	if !strings.Contains(string(got.ResolvConf), "nameserver 127.0.0.11\n") {
		t.Errorf("resolv.conf after the connection: %s", got.ResolvConf)
	}
	if _, err := w.m.DisconnectRunning(context.Background(), plain.id, plain.pid(), "back", false); err != nil {
		t.Fatal(err)
	}
	c.looksUp("late. A", "NXDOMAIN")

	// A restart of the daemon leaves all as it was.
	live := map[string]int{a.id: a.pid(), b.id: b.pid(), c.id: c.pid(), plain.id: plain.pid()}
	w.close(true)
	if got, err := a.try("lookup b2. A"); err == nil {
		t.Errorf("without a daemon: %s", got)
	}
	w.open()
	if err := w.m.Restore(context.Background(), live); err != nil {
		t.Fatal(err)
	}
	a.looksUp("b2. A", "OK "+bApp)
	c.looksUp("a. A", "OK "+aBack)
	w.release(b)
	a.looksUp("b2. A", "NXDOMAIN")
}

func TestForwardedQueries(t *testing.T) {
	w := newWorld(t)
	startNameServer(t, "127.0.0.53:53", 1)
	startNameServer(t, "127.0.0.54:53", 2)
	os.WriteFile(w.cfg.ResolvConfPath, []byte("nameserver 127.0.0.53\nnameserver 127.0.0.54\nsearch example.org\n"), 0o644)
	w.create("app", nil)
	w.create("closed", func(r *network.CreateRequest) { r.Internal = true })
	a := w.run("a", on(nil, "app"))

	a.looksUp("x.test. A", "OK 198.51.100.1")
	a.looksUp("bare. A", "OK 198.51.100.1")
	a.looksUp("fallback.test. A", "OK 198.51.100.2")
	a.looksUp("fail.test. A", "SERVFAIL")
	a.looksUp("nope.test. A", "NXDOMAIN")
	a.looksUp("big.test. A", "OK+tc")
	if got := a.do("lookup-tcp big.test. A"); strings.Count(got, "198.51.100.") != 100 {
		t.Errorf("over TCP: %s", got)
	}
	if !strings.Contains(string(a.alloc.ResolvConf), "search example.org\n") {
		t.Errorf("resolv.conf = %s", a.alloc.ResolvConf)
	}
	a.do("serve tcp 53 mine") // the container may use the port itself
	a.do("serve udp 53 mine")
	a.looksUp("x.test. A", "OK 198.51.100.1")

	// An internal network does not reach the host's servers (CVE-2024-29018).
	in := w.run("in", on(nil, "closed"))
	in.looksUp("x.test. A", "SERVFAIL")
	in.looksUp("in. A", "OK "+in.ip())

	// ndots keeps bare names at home.
	n := w.run("n", func(r *Request) {
		on(nil, "app")(r)
		r.DNSOptions = []string{"ndots:2"}
	})
	n.looksUp("bare. A", "OK")
	n.looksUp("x.test. A", "OK 198.51.100.1")

	// A server of the container's own request is asked from its namespace.
	own := w.run("own", func(r *Request) {
		on(nil, "app")(r)
		r.DNS = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	})
	startNameServer(t, "192.0.2.1:53", 3)
	own.looksUp("x.test. A", "OK 198.51.100.3")

	// The host's file changes: replaced, as most programs do.
	next := filepath.Join(filepath.Dir(w.cfg.ResolvConfPath), "next")
	os.WriteFile(next, []byte("nameserver 127.0.0.54\n"), 0o644)
	os.Rename(next, w.cfg.ResolvConfPath)
	for got := ""; got != "OK 198.51.100.2"; {
		if got = a.do("lookup x.test. A"); got != "OK 198.51.100.1" && got != "OK 198.51.100.2" {
			t.Fatalf("after the change: %s", got)
		}
	}
}
