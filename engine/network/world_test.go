package network

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/network"
	"github.com/vishvananda/netlink"
)

// hostAddr and nextHost are the addresses on the link between the host and
// another one.
const (
	hostAddr = "192.0.2.1"
	nextHost = "192.0.2.2"
)

// world is a host with a Manager and one other host beside it.
type world struct {
	t      testing.TB
	cfg    Config
	m      *Manager
	client *peer
	n      int // containers made
}

func newWorld(t testing.TB, change ...func(*Config)) *world {
	t.Helper()
	needRoot(t)
	w := &world{t: t, client: startPeer(t, "next host")}
	outside := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "up0"}, PeerName: "up0", PeerNamespace: netlink.NsPid(w.client.pid())}
	if err := netlink.LinkAdd(outside); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { netlink.LinkDel(outside) })
	if _, err := obey([]string{"addr", "up0", hostAddr + "/24"}); err != nil {
		t.Fatal(err)
	}
	w.client.do("addr up0 %s/24", nextHost)

	w.cfg = DefaultConfig(filepath.Join(t.TempDir(), "network"))
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(resolv, []byte("nameserver 127.0.0.53\nnameserver 192.0.2.53\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.cfg.ResolvConfPath = resolv
	w.cfg.SandboxDir = filepath.Join(t.TempDir(), "netns")
	for _, c := range change {
		c(&w.cfg)
	}
	w.open()
	t.Cleanup(func() { w.close(false) })
	return w
}

func (w *world) open() {
	w.t.Helper()
	m, err := Open(context.Background(), w.cfg, slog.New(slog.NewTextHandler(w.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		w.t.Fatal(err)
	}
	w.m = m
}

// close stops the Manager, once.
func (w *world) close(keep bool) {
	w.t.Helper()
	if w.m == nil {
		return
	}
	for id := range w.m.sandboxes {
		if !keep {
			if err := w.m.Release(context.Background(), id); err != nil {
				w.t.Error(err)
			}
		}
	}
	if err := w.m.Close(context.Background(), keep); err != nil {
		w.t.Error(err)
	}
	w.m = nil
}

// box is a container as this package sees it.
type box struct {
	*peer
	id    string
	alloc *Allocation
}

func (b *box) ip() string {
	for _, e := range b.alloc.Endpoints {
		return e.IPAddress.String()
	}
	return ""
}

func (w *world) request(name string, change func(*Request)) Request {
	w.n++
	req := Request{ContainerID: fmt.Sprintf("%012x%052x", w.n, 0), Name: name, Hostname: name}
	if change != nil {
		change(&req)
	}
	return req
}

// run allocates and connects a container that answers on port 80.
func (w *world) run(name string, change func(*Request)) *box {
	w.t.Helper()
	req := w.request(name, change)
	alloc, err := w.m.Allocate(context.Background(), req)
	if err != nil {
		w.t.Fatalf("allocate %s: %v", name, err)
	}
	b := &box{startPeer(w.t, name), req.ContainerID, alloc}
	if err := w.m.Connect(context.Background(), b.id, b.pid()); err != nil {
		w.t.Fatalf("connect %s: %v", name, err)
	}
	b.do("serve tcp 80 %s", name)
	b.do("serve udp 80 %s", name)
	return b
}

func (w *world) release(b *box) {
	w.t.Helper()
	b.stop()
	if err := w.m.Release(context.Background(), b.id); err != nil {
		w.t.Fatal(err)
	}
}

func publish(bindings ...string) func(*Request) {
	return func(r *Request) {
		r.PortBindings, r.ExposedPorts = network.PortMap{}, network.PortSet{}
		for _, s := range bindings {
			host, port, _ := strings.Cut(s, "->")
			p := network.MustParsePort(port)
			var b network.PortBinding
			if i := strings.LastIndex(host, ":"); i >= 0 {
				b.HostIP = netip.MustParseAddr(strings.Trim(host[:i], "[]"))
				host = host[i+1:]
			}
			b.HostPort = host
			r.PortBindings[p] = append(r.PortBindings[p], b)
			r.ExposedPorts[p] = struct{}{}
		}
	}
}

func wantAnswer(t testing.TB, who, network, addr, want string, ask func() (string, error)) {
	t.Helper()
	got, err := ask()
	if err != nil || !strings.HasPrefix(got, want) {
		t.Errorf("%s asks %s %s: %q, %v, want %q", who, network, addr, got, err, want)
	}
}

func (p *peer) wants(network, addr, want string) {
	p.t.Helper()
	wantAnswer(p.t, p.name, network, addr, want, func() (string, error) { return p.try("ask %s %s", network, addr) })
}

func (p *peer) isRefused(network, addr string) {
	p.t.Helper()
	if got, err := p.try("ask %s %s", network, addr); err == nil {
		p.t.Errorf("%s asks %s %s: %q, want no answer", p.name, network, addr, got)
	}
}

func hostWants(t testing.TB, network, addr, want string) {
	t.Helper()
	wantAnswer(t, "host", network, addr, want, func() (string, error) { return ask(network, addr) })
}

func hostIsRefused(t testing.TB, network, addr string) {
	t.Helper()
	if got, err := ask(network, addr); err == nil {
		t.Errorf("host asks %s %s: %q, want no answer", network, addr, got)
	}
}
