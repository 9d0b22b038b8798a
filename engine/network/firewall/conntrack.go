package firewall

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ForgetUDP makes the kernel forget the UDP flows to the host's published ports,
// or, if gone, to the containers' addresses, which nobody has any more. UDP has no
// connections: a client that sends before a port is published, or on when the
// container is gone, would keep its translation alive for ever.
//
// The cost is a walk over all tracked connections.
func ForgetUDP(published []Port, gone bool) error {
	filters := make(map[netlink.InetFamily][]netlink.CustomConntrackFilter)
	for _, p := range published {
		if p.Proto != unix.IPPROTO_UDP || p.open() {
			continue
		}
		f := &netlink.ConntrackFilter{}
		err := f.AddProtocol(unix.IPPROTO_UDP)
		if gone {
			err = errors.Join(err, f.AddIP(netlink.ConntrackReplySrcIP, p.Addr.AsSlice()))
		} else {
			err = errors.Join(err, f.AddPort(netlink.ConntrackOrigDstPort, p.HostPort))
		}
		if err != nil {
			return fmt.Errorf("forget UDP flows: %w", err)
		}
		family := netlink.InetFamily(unix.AF_INET)
		if p.Addr.Is6() {
			family = unix.AF_INET6
		}
		filters[family] = append(filters[family], f)
	}
	if len(filters) == 0 {
		return nil
	}
	h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("forget UDP flows: %w", err)
	}
	defer h.Close()
	for family, list := range filters {
		if _, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, family, list...); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("forget UDP flows: %w", err)
		}
	}
	return nil
}
