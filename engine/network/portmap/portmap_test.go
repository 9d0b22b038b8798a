package portmap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"
)

func port(s string) network.Port { return network.MustParsePort(s) }

func TestWants(t *testing.T) {
	all := netip.Addr{}
	lo := netip.MustParseAddr("127.0.0.1")
	bind := func(ip netip.Addr, p string) network.PortBinding {
		return network.PortBinding{HostIP: ip, HostPort: p}
	}
	for _, tc := range []struct {
		name      string
		bindings  network.PortMap
		exposed   network.PortSet
		publish   bool
		defaultIP netip.Addr
		want      string
	}{
		{"nothing", nil, network.PortSet{port("80"): {}}, false, all, "[]"},
		{"ordered", network.PortMap{port("443/tcp"): {bind(all, "8443")}, port("80/udp"): {bind(lo, "")}, port("80/tcp"): {bind(all, ""), bind(all, "81-82")}}, nil, false, all,
			"[{80/tcp invalid IP 81 82 0 0} {80/tcp invalid IP 0 0 0 0} {80/udp 127.0.0.1 0 0 0 0} {443/tcp invalid IP 8443 8443 0 0}]"},
		{"default address", network.PortMap{port("80"): {bind(all, "8080")}}, nil, false, lo, "[{80/tcp 127.0.0.1 8080 8080 0 0}]"},
		{"publish all", network.PortMap{port("80"): {bind(all, "8080")}, port("81"): nil}, network.PortSet{port("80"): {}, port("81"): {}}, true, all,
			"[{80/tcp invalid IP 8080 8080 0 0} {81/tcp invalid IP 0 0 0 0}]"},
		{"empty list", network.PortMap{port("80"): {}}, nil, false, all, "[]"},
		{"bad host port", network.PortMap{port("80"): {bind(all, "x")}}, nil, false, all, "invalid"},
		{"bad range", network.PortMap{port("80"): {bind(all, "9-8")}}, nil, false, all, "invalid"},
		{"too large", network.PortMap{port("80"): {bind(all, "65536")}}, nil, false, all, "invalid"},
		{"protocol in host port", network.PortMap{port("80"): {bind(all, "80/udp")}}, nil, false, all, "invalid"},
		{"range from zero", network.PortMap{port("80"): {bind(all, "0-5")}}, nil, false, all, "invalid"},
		{"bad protocol", network.PortMap{port("80/icmp"): {bind(all, "80")}}, nil, false, all, "invalid"},
		{"port zero", network.PortMap{port("0"): {bind(all, "80")}}, nil, false, all, "invalid"},
		{"bad exposed", nil, network.PortSet{port("80/xyz"): {}}, true, all, "invalid"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Wants(tc.bindings, tc.exposed, tc.publish, tc.defaultIP)
			if tc.want == "invalid" {
				if !errdefs.IsInvalidArgument(err) {
					t.Errorf("Wants() = %v, %v, want InvalidArgument", got, err)
				}
			} else if err != nil || fmt.Sprint(got) != tc.want {
				t.Errorf("Wants() = %v, %v, want %s", got, err, tc.want)
			}
		})
	}
}

// freePorts is a range that other programs on the machine seldom use.
func freePorts() Config {
	return Config{Firewall: true, Forward: true, First: 21100, Last: 21163}
}

func TestAllocate(t *testing.T) {
	ctx := context.Background()
	a := New(freePorts())
	web, db := Owner{"1", "web"}, Owner{"2", "db"}
	lo := netip.MustParseAddr("127.0.0.1")

	first, err := a.Allocate(ctx, web, []Want{{Port: port("80"), HostIP: lo}, {Port: port("81"), HostIP: lo}})
	if err != nil {
		t.Fatal(err)
	}
	p := first[0].HostPort
	if p == first[1].HostPort || p < 21100 || p > 21163 || first[0].Forward {
		t.Errorf("bindings = %v, %v", first[0].Binding, first[1].Binding)
	}
	for _, ip := range []netip.Addr{lo, {}, netip.IPv4Unspecified()} {
		_, err := a.Allocate(ctx, db, []Want{{Port: port("90"), HostIP: lo}, {Port: port("80"), HostIP: ip, First: p, Last: p}})
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf(":%d failed: port is already allocated: stop container web or publish another port", p)) {
			t.Errorf("conflict on %s: %v", ip, err)
		}
	}
	if n := len(a.taken); n != 2 {
		t.Errorf("%d ports held after failures, want 2", n)
	}
	// Another address, and another protocol, are no conflict.
	more, err := a.Allocate(ctx, db, []Want{
		{Port: port("80"), HostIP: netip.MustParseAddr("127.0.0.2"), First: p, Last: p},
		{Port: port("80/udp"), HostIP: lo, First: p, Last: p}})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(CloseAll(first), CloseAll(more)); err != nil {
		t.Error(err)
	}
	if n := len(a.taken); n != 0 {
		t.Errorf("%d ports held after Close", n)
	}
	again, err := a.Bind(ctx, db, []Binding{first[0].Binding})
	if err != nil || again[0].HostPort != p {
		t.Errorf("Bind() = %v, %v", again, err)
	}
	CloseAll(again)
}

func TestForeignPort(t *testing.T) {
	ctx := context.Background()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := l.Addr().(*net.TCPAddr).AddrPort().Port()
	a := New(freePorts())
	for _, ip := range []netip.Addr{netip.MustParseAddr("127.0.0.1"), {}} {
		_, err = a.Allocate(ctx, Owner{}, []Want{{Port: port("80"), HostIP: ip, First: p, Last: p}})
		if !errors.Is(err, unix.EADDRINUSE) || !strings.HasSuffix(err.Error(), fmt.Sprintf("failed to bind host port %s: address already in use",
			Binding{Proto: "tcp", HostIP: map[bool]netip.Addr{true: ip, false: netip.IPv4Unspecified()}[ip.IsValid()], HostPort: p})) {
			t.Errorf("Allocate(taken port on %s) = %v", ip, err)
		}
	}
	if len(a.taken) != 0 {
		t.Errorf("ports held: %v", a.taken)
	}
}

func TestExhaustion(t *testing.T) {
	ctx := context.Background()
	cfg := freePorts()
	cfg.Last = cfg.First + 2
	a := New(cfg)
	lo := netip.MustParseAddr("127.0.0.3")
	var all []*Socket
	for range 3 {
		s, err := a.Allocate(ctx, Owner{}, []Want{{Port: port("80"), HostIP: lo}})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s...)
	}
	if _, err := a.Allocate(ctx, Owner{}, []Want{{Port: port("80"), HostIP: lo}}); !errdefs.IsResourceExhausted(err) {
		t.Errorf("Allocate() = %v, want ResourceExhausted", err)
	}
	if _, err := a.Allocate(ctx, Owner{}, []Want{{Port: port("80"), HostIP: lo, First: cfg.First, Last: cfg.Last}}); err == nil || !strings.Contains(err.Error(), "port is already allocated") {
		t.Errorf("Allocate(range) = %v", err)
	}
	CloseAll(all)
}

func TestForwardingTurnedOff(t *testing.T) {
	cfg := freePorts()
	cfg.Forward = false
	a := New(cfg)
	if _, err := a.Allocate(context.Background(), Owner{}, []Want{{Port: port("80"), HostIP: netip.IPv6Loopback()}}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("IPv6 without forwarding: %v, want FailedPrecondition", err)
	}
	s, err := a.Allocate(context.Background(), Owner{}, []Want{{Port: port("80")}})
	if err != nil || len(s) != 1 || s[0].HostIP != netip.IPv4Unspecified() {
		t.Errorf("all addresses without forwarding: %v, %v", s, err)
	}
	CloseAll(s)
}

func TestForwardTCP(t *testing.T) {
	s := forwarding(t, "tcp")
	// The container: reads all, then answers in upper case.
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b, _ := io.ReadAll(c)
				c.Write(bytes.ToUpper(b))
			}()
		}
	}()
	s.Port = l.Addr().(*net.TCPAddr).AddrPort().Port()
	s.Serve(netip.MustParseAddr("127.0.0.1"))

	want := bytes.Repeat([]byte("lighter "), 1<<17)
	c, err := net.Dial("tcp", netip.AddrPortFrom(s.HostIP, s.HostPort).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	go func() {
		c.Write(want)
		c.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, bytes.ToUpper(want)) {
		t.Errorf("answer of %d bytes, %v, want %d bytes", len(got), err, len(want))
	}

	// A connection that is open when the port is closed ends.
	c2, err := net.Dial("tcp", netip.AddrPortFrom(s.HostIP, s.HostPort).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c2.Close()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	c2.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := c2.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("read after close = %v", err)
	}
}

func TestForwardTCPNobodyListens(t *testing.T) {
	s := forwarding(t, "tcp")
	s.Port = 1
	s.Serve(netip.MustParseAddr("127.0.0.1"))
	defer s.Close()
	c, err := net.Dial("tcp", netip.AddrPortFrom(s.HostIP, s.HostPort).String())
	if err == nil {
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("error = %v, want a reset", err)
	}
}

func TestForwardUDP(t *testing.T) {
	s := forwarding(t, "udp")
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			pc.WriteTo(append([]byte("re: "), buf[:n]...), from)
		}
	}()
	s.Port = pc.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	s.Serve(netip.MustParseAddr("127.0.0.1"))
	for i := range 3 {
		c, err := net.Dial("udp", netip.AddrPortFrom(s.HostIP, s.HostPort).String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for j := range 3 {
			msg := fmt.Sprintf("%d.%d", i, j)
			c.Write([]byte(msg))
			c.SetDeadline(time.Now().Add(20 * time.Second))
			buf := make([]byte, 100)
			n, err := c.Read(buf)
			if err != nil || string(buf[:n]) != "re: "+msg {
				t.Errorf("answer = %q, %v, want %q", buf[:n], err, "re: "+msg)
			}
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// forwarding returns a socket on a loopback address that forwards.
func forwarding(t *testing.T, proto network.IPProtocol) *Socket {
	t.Helper()
	cfg := freePorts()
	cfg.Firewall = false
	p, _ := network.PortFrom(80, proto)
	s, err := New(cfg).Allocate(context.Background(), Owner{}, []Want{{Port: p, HostIP: netip.MustParseAddr("127.0.0.4")}})
	if err != nil {
		t.Fatal(err)
	}
	if !s[0].Forward {
		t.Fatal("the binding does not forward")
	}
	return s[0]
}

func TestMap(t *testing.T) {
	got := Map([]Binding{
		{Proto: "tcp", HostIP: netip.IPv4Unspecified(), HostPort: 8080, Port: 80},
		{Proto: "tcp", HostIP: netip.IPv6Unspecified(), HostPort: 8080, Port: 80, Forward: true},
	}, network.PortSet{port("80"): {}, port("90"): {}})
	if want := "map[80/tcp:[{0.0.0.0 8080} {:: 8080}] 90/tcp:[]]"; fmt.Sprint(got) != want || got[port("90")] != nil {
		t.Errorf("Map() = %v, want %s", got, want)
	}
}
