package bridge

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"lighter/internal/cleanup"
	"lighter/internal/linux/netns"
)

// Endpoint is one container's connection to one bridge.
type Endpoint struct {
	HostName string // link on the host, a port of Bridge
	Name     string // link in the container
	Bridge   string
	MAC      net.HardwareAddr // of Name
	MTU      int              // bytes, 0 means the kernel's default
	Addrs    []netip.Prefix   // with the subnet's prefix length
	Gateways []netip.Addr     // default routes, at most one per family
	OnLink   bool             // the default routes lead to the link itself, the gateways only say which family
	Sysctls  []Sysctl         // of the container's link
	Hairpin  bool             // frames may leave through the port they came from
	Isolated bool             // frames pass to the bridge itself only, not to other isolated ports
}

// Sysctl is a setting below /proc/sys of a link in a container.
type Sysctl struct{ Key, Value string }

// loopbackIndex is that of lo, the first link of every network namespace.
const loopbackIndex = 1

// ErrNoBridge is returned by Attach when the endpoint's bridge is gone.
var ErrNoBridge = fmt.Errorf("bridge does not exist: %w", errdefs.ErrNotFound)

// Attach makes the veth pair of ep with one end in the network namespace ns,
// which must be live, and brings up both ends and the loopback link.
//
// On error nothing is left behind. Errors: ErrNoBridge; AlreadyExists if either
// name is taken.
func (l *Links) Attach(ns *os.File, ep Endpoint) (err error) {
	defer func() {
		if errors.Is(err, unix.EEXIST) {
			err = fmt.Errorf("%w: %w", errdefs.ErrAlreadyExists, err)
		}
		if err != nil {
			err = fmt.Errorf("attach %q to bridge %q: %w", ep.HostName, ep.Bridge, err)
		}
	}()
	master, err := l.index(ep.Bridge)
	if errors.Is(err, unix.ENODEV) {
		return ErrNoBridge
	}
	if err != nil {
		return err
	}
	var b batch
	b.veth(ns, ep, master)
	b.port(ep)
	undo := cleanup.Make(func() error { return l.Detach(ep.HostName) })
	defer undo.Run()
	if _, err := l.do(&b); err != nil {
		if errors.Is(err, unix.EEXIST) {
			undo.Release() // it belongs to somebody else
		}
		return err
	}

	if err := configure(ns, ep); err != nil {
		return err
	}
	// The kernel notices later, up to a second, that links have a carrier, and
	// drops packets until then; the container's first one would be sent again
	// after another second. Asking for a link makes it notice (Linux 6.8).
	var d batch
	d.find(ep.HostName)
	d.find(ep.Bridge)
	if _, err := l.do(&d); err != nil {
		return err
	}
	undo.Release()
	return nil
}

// configure gives the link ep.Name in the network namespace ns what it needs and
// brings it and the loopback link up.
func configure(ns *os.File, ep Endpoint) error {
	inside, err := socketIn(ns, func() error {
		// Before the link is up: no link-local address on a network that has no
		// IPv6 (CVE-2024-32473).
		off := "1"
		if hasIPv6(ep.Addrs) {
			off = "0"
		}
		err := ipv6Settings(ep.Name, off)
		for _, s := range ep.Sysctls {
			if err != nil {
				break
			}
			if err = setSysctl(s); err != nil {
				err = fmt.Errorf("set %s=%s: %w", s.Key, s.Value, err)
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	defer inside.Close()
	index, err := inside.index(ep.Name)
	if err != nil {
		return err
	}
	var c batch
	c.link("set lo up", 0, ifinfo(loopbackIndex, unix.IFF_UP, unix.IFF_UP))
	c.link("set "+ep.Name+" up", 0, ifinfo(index, unix.IFF_UP, unix.IFF_UP))
	for _, a := range ep.Addrs {
		c.address(index, a)
	}
	for _, gw := range ep.Gateways {
		c.defaultRoute(index, gw, ep.OnLink)
	}
	c.find(ep.Name)
	_, err = inside.do(&c)
	return err
}

// setSysctl is sysctl for a key that must exist.
func setSysctl(s Sysctl) error {
	if _, err := os.Stat(filepath.Join("/proc/sys", s.Key)); err != nil {
		return err
	}
	return sysctl(s.Key, s.Value)
}

// veth adds the creation of the pair: the host's end up and enslaved to the
// bridge, the container's end in its namespace and down.
func (b *batch) veth(ns *os.File, ep Endpoint, master int) {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO|unix.NLA_F_NESTED, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA|unix.NLA_F_NESTED, nil).AddRtAttr(nl.VETH_INFO_PEER|unix.NLA_F_NESTED, nil)
	peer.AddChild(ifinfo(0, 0, 0))
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(ep.Name))
	peer.AddRtAttr(unix.IFLA_ADDRESS, ep.MAC)
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(ns.Fd())))
	attrs := []*nl.RtAttr{
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(ep.HostName)),
		nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(master))),
		info,
	}
	if ep.MTU > 0 {
		mtu := nl.Uint32Attr(uint32(ep.MTU))
		peer.AddRtAttr(unix.IFLA_MTU, mtu)
		attrs = append(attrs, nl.NewRtAttr(unix.IFLA_MTU, mtu))
	}
	b.link("create veth pair", unix.NLM_F_CREATE|unix.NLM_F_EXCL, ifinfo(0, 0, 0), attrs...)
}

// port adds the settings of the host's end and brings it up.
func (b *batch) port(ep Endpoint) {
	attrs := []*nl.RtAttr{nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(ep.HostName))}
	// A bridge port needs no address of its own, so let none be generated.
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC|unix.NLA_F_NESTED, nil)
	const addrGenNone = 1 // IN6_ADDR_GEN_MODE_NONE
	spec.AddRtAttr(unix.AF_INET6|unix.NLA_F_NESTED, nil).AddRtAttr(unix.IFLA_INET6_ADDR_GEN_MODE, nl.Uint8Attr(addrGenNone))
	b.link("set address generation", 0, ifinfo(0, 0, 0), append(attrs, spec)...)
	// EAFNOSUPPORT: a kernel without IPv6.
	b.mayBe[len(b.mayBe)-1] = append(b.mayBe[len(b.mayBe)-1], unix.EAFNOSUPPORT, unix.EOPNOTSUPP)

	if ep.Hairpin || ep.Isolated {
		info := nl.NewRtAttr(unix.IFLA_LINKINFO|unix.NLA_F_NESTED, nil)
		info.AddRtAttr(nl.IFLA_INFO_SLAVE_KIND, nl.NonZeroTerminated("bridge"))
		data := info.AddRtAttr(nl.IFLA_INFO_SLAVE_DATA|unix.NLA_F_NESTED, nil)
		data.AddRtAttr(nl.IFLA_BRPORT_MODE, nl.Uint8Attr(boolByte(ep.Hairpin)))
		data.AddRtAttr(nl.IFLA_BRPORT_ISOLATED, nl.Uint8Attr(boolByte(ep.Isolated)))
		b.link("set bridge port", 0, ifinfo(0, 0, 0), append(attrs[:1:1], info)...)
	}
	b.link("set veth up", 0, ifinfo(0, unix.IFF_UP, unix.IFF_UP), attrs[:1]...)
}

// Detach deletes the link name: a veth with its peer, or a bridge, whose ports
// become links of their own. A link that does not exist is no error. It takes tens of milliseconds, for the kernel waits until nobody
// can hold on to the link; other calls need not wait for it.
func (l *Links) Detach(name string) error {
	s, err := socketIn(l.ns, nil)
	if err != nil {
		return fmt.Errorf("detach %q: %w", name, err)
	}
	defer s.Close()
	var b batch
	req := b.add("delete link", unix.RTM_DELLINK, 0, unix.ENODEV)
	req.AddData(ifinfo(0, 0, 0))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	if _, err := s.do(&b); err != nil {
		return fmt.Errorf("detach %q: %w", name, err)
	}
	return nil
}

// Disable takes the links down, which cuts off whoever is behind them at once.
// Links that do not exist are no error.
func (l *Links) Disable(names ...string) error {
	var b batch
	for _, name := range names {
		b.link("set link "+name+" down", 0, ifinfo(0, 0, unix.IFF_UP), nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
		b.mayBe[len(b.mayBe)-1] = []syscall.Errno{unix.ENODEV}
	}
	_, err := l.do(&b)
	return err
}

// Loopback brings up the loopback link of the network namespace ns.
func Loopback(ns *os.File) error {
	s, err := socketIn(ns, nil)
	if err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	defer s.Close()
	var b batch
	b.link("set lo up", 0, ifinfo(loopbackIndex, unix.IFF_UP, unix.IFF_UP))
	_, err = s.do(&b)
	return err
}

// Route is a default route through the link Name.
type Route struct {
	Name    string
	Gateway netip.Addr
	OnLink  bool // as Endpoint.OnLink
}

// DefaultRoutes makes routes, at most one per family, the default ones in the
// network namespace ns, instead of those it has.
func DefaultRoutes(ns *os.File, routes ...Route) error {
	s, err := socketIn(ns, nil)
	if err != nil {
		return fmt.Errorf("set default route: %w", err)
	}
	defer s.Close()
	var b batch
	for _, r := range routes {
		index, err := s.index(r.Name)
		if err != nil {
			return err
		}
		b.defaultRoute(index, r.Gateway, r.OnLink)
	}
	_, err = s.do(&b)
	return err
}

// Exists reports whether there is a link of that name.
func (l *Links) Exists(name string) (bool, error) {
	_, err := l.index(name)
	if errors.Is(err, unix.ENODEV) {
		return false, nil
	}
	return err == nil, err
}

func (l *Links) index(name string) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fast.index(name)
}

// find adds a request that asks for the link name.
func (b *batch) find(name string) {
	req := b.add("find link "+name, unix.RTM_GETLINK, 0)
	req.AddData(ifinfo(0, 0, 0))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
}

// index returns the index of the link name, or an error that is ENODEV.
func (s *socket) index(name string) (int, error) {
	var b batch
	b.find(name)
	replies, err := s.do(&b)
	if err != nil {
		return 0, err
	}
	if len(replies) == 0 || len(replies[0]) < unix.SizeofIfInfomsg {
		return 0, fmt.Errorf("find link %s: %w", name, unix.EPROTO)
	}
	return int(nl.DeserializeIfInfomsg(replies[0]).Index), nil
}

// socketIn opens a socket in the network namespace ns and runs f, unless it is
// nil, there. The socket may be used from everywhere.
func socketIn(ns *os.File, f func() error) (s *socket, err error) {
	err = netns.Do(ns, func() (err error) {
		if s, err = openSocket(); err != nil || f == nil {
			return err
		}
		if err := f(); err != nil {
			s.Close()
			return err
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

func hasIPv6(addrs []netip.Prefix) bool {
	for _, a := range addrs {
		if a.Addr().Is6() {
			return true
		}
	}
	return false
}

func boolByte(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}
