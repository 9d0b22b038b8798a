// Package bridge makes the links of bridge networks: the bridge on the host and
// the veth pairs that join containers to it. It speaks rtnetlink and keeps no
// state; what exists is recorded by its caller before it is made.
//
// A container's side of a veth pair is created directly in its network
// namespace, so it never appears on the host, and dies with that namespace.
package bridge

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Links changes links of the network namespace it was opened in. Its methods may
// be called concurrently.
type Links struct {
	ns   *os.File        // the namespace
	slow *netlink.Handle // for what is rare

	mu   sync.Mutex // serialises use of fast
	fast *socket
}

// Open returns the Links of the calling thread's network namespace.
func Open() (*Links, error) {
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	slow, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		ns.Close()
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	fast, err := openSocket()
	if err != nil {
		ns.Close()
		slow.Close()
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return &Links{ns: ns, slow: slow, fast: fast}, nil
}

// Close closes the sockets and touches no link.
func (l *Links) Close() error {
	l.slow.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.fast.Close(), l.ns.Close())
}

func (l *Links) do(b *batch) ([][]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fast.do(b)
}

// Bridge describes a bridge on the host.
type Bridge struct {
	Name  string
	Addrs []netip.Prefix   // the bridge's addresses in its subnets, at most one per family
	MAC   net.HardwareAddr // of a bridge that is made
	MTU   int              // bytes
	// IPv6 keeps it on when the bridge has no address of it.
	IPv6 bool
	// FilterFrames makes the firewall see what passes between the bridge's ports,
	// see CanFilterFrames.
	FilterFrames bool
}

// CanFilterFrames reports whether the kernel can hand bridged frames to the
// firewall (br_netfilter).
func CanFilterFrames() bool {
	_, err := os.Stat("/proc/sys/net/bridge")
	return err == nil
}

// Ensure creates the bridge or corrects its address and brings it up. created
// says that it did not exist.
//
// Errors: Conflict if a link of that name is no bridge.
func (l *Links) Ensure(br Bridge) (created bool, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("set up bridge %q: %w", br.Name, err)
		}
	}()
	link, err := l.slow.LinkByName(br.Name)
	var notFound netlink.LinkNotFoundError
	switch {
	case errors.As(err, &notFound):
		if err := l.create(br); err != nil {
			return false, err
		}
		created = true
		if link, err = l.slow.LinkByName(br.Name); err != nil {
			return true, err
		}
	case err != nil:
		return false, err
	case link.Type() != "bridge":
		return false, fmt.Errorf("a link of that name is of type %s: %w", link.Type(), errdefs.ErrConflict)
	}
	if err := hardenBridge(br.Name, br.IPv6 || hasIPv6(br.Addrs)); err != nil {
		return created, err
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		if err := l.setAddress(link, family, br.Addrs, created); err != nil {
			return created, err
		}
	}
	var b batch
	if br.FilterFrames {
		info := nl.NewRtAttr(unix.IFLA_LINKINFO|unix.NLA_F_NESTED, nil)
		info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
		data := info.AddRtAttr(nl.IFLA_INFO_DATA|unix.NLA_F_NESTED, nil)
		data.AddRtAttr(nl.IFLA_BR_NF_CALL_IPTABLES, nl.Uint8Attr(1))
		data.AddRtAttr(nl.IFLA_BR_NF_CALL_IP6TABLES, nl.Uint8Attr(1))
		b.link("filter frames", 0, ifinfo(link.Attrs().Index, 0, 0), info)
	}
	b.link("set link up", 0, ifinfo(link.Attrs().Index, unix.IFF_UP, unix.IFF_UP))
	_, err = l.do(&b)
	return created, err
}

func (l *Links) create(br Bridge) error {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO|unix.NLA_F_NESTED, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	var b batch
	b.link("create link", unix.NLM_F_CREATE|unix.NLM_F_EXCL, ifinfo(0, 0, 0),
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(br.Name)),
		nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(br.MTU))),
		// An address of its own: otherwise a bridge takes the lowest of its
		// ports', and changes it under the feet of its neighbours.
		nl.NewRtAttr(unix.IFLA_ADDRESS, br.MAC),
		info)
	_, err := l.do(&b)
	return err
}

// setAddress makes those of addrs that are of the family the only ones of link,
// beside link-local IPv6 addresses, which are the kernel's business.
func (l *Links) setAddress(link netlink.Link, family int, addrs []netip.Prefix, fresh bool) error {
	var have []netlink.Addr
	if !fresh {
		var err error
		if have, err = l.slow.AddrList(link, family); err != nil {
			return err
		}
	}
	missing := slices.DeleteFunc(slices.Clone(addrs), func(p netip.Prefix) bool { return p.Addr().Is4() != (family == unix.AF_INET) })
	for _, a := range have {
		p, ok := prefixOf(a.IPNet)
		if i := slices.Index(missing, p); ok && i >= 0 {
			missing = slices.Delete(missing, i, i+1)
			continue
		}
		if p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
			continue
		}
		if err := l.slow.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove address %s: %w", a.IPNet, err)
		}
	}
	var b batch
	for _, p := range missing {
		b.address(link.Attrs().Index, p)
	}
	_, err := l.do(&b)
	return err
}

// hardenBridge keeps the host from hearing router advertisements of containers
// (CVE-2020-13401), and turns off IPv6 on the host's side of a network that has
// none: no link-local address is there to be reached.
func hardenBridge(name string, ipv6 bool) error {
	off := "1"
	if ipv6 {
		off = "0"
	}
	return ipv6Settings(name, off)
}

// ipv6Settings sets disable_ipv6 of a link, and before it comes up that it hears
// no router advertisements and does not look for duplicates of its link-local
// address for a second or two: until then it could not ask for neighbours.
func ipv6Settings(name, disable string) error {
	return errors.Join(
		sysctl("net/ipv6/conf/"+name+"/accept_ra", "0"),
		sysctl("net/ipv6/conf/"+name+"/accept_dad", "0"),
		sysctl("net/ipv6/conf/"+name+"/disable_ipv6", disable))
}

// RouteLocalnet lets connections to a loopback address of the host leave through
// the bridge, for ports published on 127.0.0.1. The firewall must drop loopback
// addresses that arrive from any link but lo (CVE-2020-8558).
func RouteLocalnet(name string) error {
	return sysctl("net/ipv4/conf/"+name+"/route_localnet", "1")
}

// Forwarding reports whether the host forwards IPv4.
func Forwarding() (bool, error) { return isOn("net/ipv4/ip_forward") }

// EnableForwarding makes the host forward IPv4.
func EnableForwarding() error { return sysctl("net/ipv4/ip_forward", "1") }

// Forwarding6 reports whether the host forwards IPv6. A kernel without IPv6 has
// nothing to forward, which is as good.
func Forwarding6() (bool, error) {
	on, err := isOn("net/ipv6/conf/all/forwarding")
	return on || errors.Is(err, fs.ErrNotExist), ignoreMissing(err)
}

// EnableForwarding6 makes the host forward IPv6. Links that learn their routes
// from router advertisements go on to, which a router does not by default.
func EnableForwarding6() error {
	const dir = "net/ipv6/conf"
	entries, err := os.ReadDir(filepath.Join("/proc/sys", dir))
	if err != nil {
		return ignoreMissing(err)
	}
	for _, e := range entries {
		key := filepath.Join(dir, e.Name(), "accept_ra")
		if b, err := os.ReadFile(filepath.Join("/proc/sys", key)); err == nil && string(b) == "1\n" && e.Name() != "all" {
			if err := sysctl(key, "2"); err != nil {
				return err
			}
		}
	}
	return errors.Join(sysctl(dir+"/default/forwarding", "1"), sysctl(dir+"/all/forwarding", "1"))
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func isOn(key string) (bool, error) {
	b, err := os.ReadFile(filepath.Join("/proc/sys", key))
	return len(b) > 0 && b[0] != '0', err
}

// sysctl writes value unless it is there already: a read is cheaper than a
// write, and works where /proc/sys is read-only. A kernel without the family
// has no such file, which is fine.
func sysctl(key, value string) error {
	path := filepath.Join("/proc/sys", key)
	have, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && string(have) == value+"\n" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(value)
	return err
}

// Find returns the first IPv4 address of the bridge name. ok is false if there is
// no such link; the Prefix is the zero value if it has no address.
func (l *Links) Find(name string) (addr netip.Prefix, ok bool, err error) {
	link, err := l.slow.LinkByName(name)
	var notFound netlink.LinkNotFoundError
	if errors.As(err, &notFound) {
		return netip.Prefix{}, false, nil
	}
	if err != nil {
		return netip.Prefix{}, false, fmt.Errorf("find link %q: %w", name, err)
	}
	addrs, err := l.slow.AddrList(link, unix.AF_INET)
	if err != nil {
		return netip.Prefix{}, true, fmt.Errorf("list addresses of %q: %w", name, err)
	}
	for _, a := range addrs {
		if p, ok := prefixOf(a.IPNet); ok {
			return p, true, nil
		}
	}
	return netip.Prefix{}, true, nil
}

// Subnets returns the destinations that the host has routes to, without
// default routes and those through the links named in except.
func (l *Links) Subnets(except ...string) ([]netip.Prefix, error) {
	skip := make(map[int]bool)
	for _, name := range except {
		if link, err := l.slow.LinkByName(name); err == nil {
			skip[link.Attrs().Index] = true
		}
	}
	routes, err := l.slow.RouteList(nil, unix.AF_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var subnets []netip.Prefix
	for _, r := range routes {
		if p, ok := prefixOf(r.Dst); ok && p.Bits() > 0 && !skip[r.LinkIndex] && !p.Addr().IsLinkLocalUnicast() && !p.Addr().IsMulticast() {
			subnets = append(subnets, p.Masked())
		}
	}
	return subnets, nil
}

// RemoveUnused deletes the bridge name unless it has ports. One that does not
// exist is no error.
func (l *Links) RemoveUnused(name string) error {
	link, err := l.slow.LinkByName(name)
	var notFound netlink.LinkNotFoundError
	if errors.As(err, &notFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove bridge %q: %w", name, err)
	}
	all, err := l.slow.LinkList()
	if err != nil {
		return fmt.Errorf("remove bridge %q: %w", name, err)
	}
	if slices.ContainsFunc(all, func(p netlink.Link) bool { return p.Attrs().MasterIndex == link.Attrs().Index }) {
		return nil
	}
	return l.Detach(name)
}

// MAC returns the hardware address that goes with an IP address: 02:42 and an
// IPv4 address, or the end of an IPv6 one. It is unique within a subnet, and
// whoever takes over an address takes over the neighbours' cached entry with it.
func MAC(ip netip.Addr) net.HardwareAddr {
	b := ip.AsSlice()
	return append(net.HardwareAddr{0x02, 0x42}, b[len(b)-4:]...)
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), bits), ok
}
