package bridge

import (
	"errors"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestMAC(t *testing.T) {
	for ip, want := range map[string]string{
		"172.17.0.2":    "02:42:ac:11:00:02",
		"fd00::1:2:3:4": "02:42:00:03:00:04",
	} {
		if got := MAC(netip.MustParseAddr(ip)).String(); got != want {
			t.Errorf("MAC(%s) = %s, want %s", ip, got, want)
		}
	}
}

func TestErrnoError(t *testing.T) {
	err := error(errnoError{unix.EINVAL, "no such thing"})
	if !errors.Is(err, unix.EINVAL) || err.Error() != "invalid argument (no such thing)" {
		t.Errorf("error = %q", err)
	}
}

// newNamespace makes a network namespace that lives until the test ends, and runs
// f in it.
func newNamespace(t *testing.T, f func()) *os.File {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make network namespaces")
	}
	var ns *os.File
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return
		}
		if ns, err = os.Open("/proc/thread-self/ns/net"); err == nil && f != nil {
			f()
		}
	}()
	<-done
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

// host opens Links in a new namespace.
func host(t *testing.T) (*Links, *netlink.Handle) {
	t.Helper()
	var l *Links
	var h *netlink.Handle
	var err error
	newNamespace(t, func() {
		if l, err = Open(); err == nil {
			h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); h.Close() })
	return l, h
}

func names(t *testing.T, h *netlink.Handle) []string {
	t.Helper()
	links, err := h.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, l := range links {
		out = append(out, l.Attrs().Name)
	}
	slices.Sort(out)
	return out
}

func TestAttach(t *testing.T) {
	l, h := host(t)
	br := Bridge{Name: "br0", Addrs: []netip.Prefix{netip.MustParsePrefix("10.9.0.1/24")}, MAC: MAC(netip.MustParseAddr("10.9.0.1")), MTU: 1400}
	// The settings under /proc are those of the test's own namespace, where there
	// is no such link: Ensure takes that for a kernel without IPv6.
	if created, err := l.Ensure(br); !created || err != nil {
		t.Fatalf("Ensure() = %t, %v", created, err)
	}
	if created, err := l.Ensure(br); created || err != nil {
		t.Errorf("second Ensure() = %t, %v", created, err)
	}
	br.Addrs[0] = netip.MustParsePrefix("10.9.1.1/24")
	if _, err := l.Ensure(br); err != nil {
		t.Fatal(err)
	}
	if got, ok, err := l.Find("br0"); got != br.Addrs[0] || !ok || err != nil {
		t.Errorf("Find() = %s, %t, %v, want %s", got, ok, err, br.Addrs[0])
	}
	if subnets, err := l.Subnets(); err != nil || !slices.Equal(subnets, []netip.Prefix{br.Addrs[0].Masked()}) {
		t.Errorf("Subnets() = %v, %v", subnets, err)
	}
	if subnets, err := l.Subnets("br0"); err != nil || len(subnets) != 0 {
		t.Errorf("Subnets(br0) = %v, %v", subnets, err)
	}

	ns := newNamespace(t, nil)
	a := netip.MustParseAddr("10.9.1.2")
	ep := Endpoint{HostName: "veth1", Name: "eth0", Bridge: "br0", MAC: MAC(a), MTU: 1400,
		Addrs: []netip.Prefix{netip.PrefixFrom(a, 24)}, Gateways: []netip.Addr{br.Addrs[0].Addr()}, Isolated: true}
	if err := l.Attach(ns, ep); err != nil {
		t.Fatal(err)
	}
	link, err := h.LinkByName("veth1")
	if err != nil {
		t.Fatal(err)
	}
	master, _ := h.LinkByName("br0")
	if link.Attrs().MTU != 1400 || link.Attrs().MasterIndex != master.Attrs().Index {
		t.Errorf("link = %+v", link.Attrs())
	}
	if port, err := h.LinkGetProtinfo(link); err != nil || !port.Isolated || port.Hairpin {
		t.Errorf("port = %+v, %v", port, err)
	}
	if err := l.RemoveUnused("br0"); err != nil {
		t.Error(err)
	}

	// What fails leaves nothing.
	for name, tc := range map[string]struct {
		change func(*Endpoint)
		class  error
	}{
		"no bridge":     {func(e *Endpoint) { e.HostName, e.Name, e.Bridge = "veth2", "eth1", "br9" }, ErrNoBridge},
		"taken inside":  {func(e *Endpoint) { e.HostName = "veth2" }, errdefs.ErrAlreadyExists},
		"taken outside": {func(e *Endpoint) { e.Name = "eth1" }, errdefs.ErrAlreadyExists},
		"no such gateway": {func(e *Endpoint) {
			e.HostName, e.Name, e.Gateways = "veth2", "eth1", []netip.Addr{netip.MustParseAddr("1.2.3.4")}
		}, unix.ENETUNREACH},
	} {
		e := ep
		tc.change(&e)
		err := l.Attach(ns, e)
		if !errors.Is(err, tc.class) {
			t.Errorf("%s: %v, want %v", name, err, tc.class)
		}
		if got := strings.Join(names(t, h), " "); got != "br0 lo veth1" {
			t.Errorf("%s: links = %s", name, got)
		}
	}

	if err := l.Disable("veth1", "veth9"); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := l.Detach("veth1"); err != nil {
			t.Error(err)
		}
	}
	for range 2 {
		if err := l.RemoveUnused("br0"); err != nil {
			t.Error(err)
		}
	}
	if got := strings.Join(names(t, h), " "); got != "lo" {
		t.Errorf("links = %s", got)
	}
}

func TestEnsureRefusesOtherLinks(t *testing.T) {
	l, _ := host(t)
	if _, err := l.Ensure(Bridge{Name: "lo", Addrs: []netip.Prefix{netip.MustParsePrefix("10.9.0.1/24")}, MAC: MAC(netip.MustParseAddr("10.9.0.1"))}); !errdefs.IsConflict(err) {
		t.Errorf("Ensure(lo) = %v, want Conflict", err)
	}
}
