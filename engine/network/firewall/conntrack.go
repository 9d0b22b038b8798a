package firewall

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ForgetUDP makes the kernel forget the UDP flows to the host's published ports,
// or to addr once it is no longer used. UDP has no connections: a client that
// sends before a port is published, or on when the container is gone, would keep
// its translation alive for ever.
//
// The cost is a walk over all tracked connections.
func ForgetUDP(published []Port, addr netip.Addr) error {
	var filters []netlink.CustomConntrackFilter
	add := func(set func(*netlink.ConntrackFilter) error) error {
		f := &netlink.ConntrackFilter{}
		if err := f.AddProtocol(unix.IPPROTO_UDP); err != nil {
			return err
		}
		if err := set(f); err != nil {
			return err
		}
		filters = append(filters, f)
		return nil
	}
	for _, p := range published {
		if p.Proto != unix.IPPROTO_UDP {
			continue
		}
		if err := add(func(f *netlink.ConntrackFilter) error {
			return f.AddPort(netlink.ConntrackOrigDstPort, p.HostPort)
		}); err != nil {
			return err
		}
	}
	if len(filters) == 0 {
		return nil
	}
	if addr.IsValid() {
		filters = filters[:0]
		if err := add(func(f *netlink.ConntrackFilter) error {
			return f.AddIP(netlink.ConntrackReplySrcIP, addr.AsSlice())
		}); err != nil {
			return err
		}
	}
	h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("forget UDP flows: %w", err)
	}
	defer h.Close()
	if _, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, filters...); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("forget UDP flows: %w", err)
	}
	return nil
}
