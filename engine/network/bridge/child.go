package bridge

import (
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Kind is the type of links that share the hardware of a link of the host.
type Kind string

// Kinds of links, as the kernel calls them.
const (
	Macvlan Kind = "macvlan"
	Ipvlan  Kind = "ipvlan"
)

// Child is a container's link on top of a link of the host.
type Child struct {
	Endpoint // without HostName, Bridge, Hairpin and Isolated; no MAC means the kernel's choice
	Kind     Kind
	Parent   string
	// Mode is the kernel's number for it: MACVLAN_MODE_* or IPVLAN_MODE_*.
	Mode uint32
	// Flag is IPVLAN_F_*, how links of the same parent may reach each other.
	Flag uint16
}

// ErrNoParent is returned when the link that others share is gone.
var ErrNoParent = fmt.Errorf("parent link does not exist: %w", errdefs.ErrNotFound)

// AttachChild makes the link of c in the network namespace ns, and brings it and
// the loopback link up. On error nothing is left behind.
//
// Errors: ErrNoParent; AlreadyExists if the name is taken; NotImplemented if the
// kernel has no links of the kind.
func (l *Links) AttachChild(ns *os.File, c Child) (err error) {
	defer func() {
		switch {
		case errors.Is(err, unix.EEXIST):
			err = fmt.Errorf("%w: %w", errdefs.ErrAlreadyExists, err)
		case errors.Is(err, unix.EOPNOTSUPP):
			err = fmt.Errorf("%w: this kernel has no %s links", errdefs.ErrNotImplemented, c.Kind)
		}
		if err != nil {
			err = fmt.Errorf("attach %s link to %q: %w", c.Kind, c.Parent, err)
		}
	}()
	parent, err := l.index(c.Parent)
	if errors.Is(err, unix.ENODEV) {
		return ErrNoParent
	}
	if err != nil {
		return err
	}
	var b batch
	b.child(ns, c, parent)
	if _, err := l.do(&b); err != nil {
		return err
	}
	if err := configure(ns, c.Endpoint); err != nil {
		return errors.Join(err, DetachIn(ns, c.Name))
	}
	return nil
}

// Supports returns an error that says so if the kernel has no links of the kind.
func (l *Links) Supports(kind Kind) error {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO|unix.NLA_F_NESTED, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(string(kind)))
	var b batch
	// Without a parent nothing is made: a kernel that knows the kind says that one
	// is missing, after it has loaded its module.
	b.link("create "+string(kind)+" link", unix.NLM_F_CREATE|unix.NLM_F_EXCL, ifinfo(0, 0, 0), info)
	if _, err := l.do(&b); errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("%w: this kernel has no %s links", errdefs.ErrNotImplemented, kind)
	}
	return nil
}

// child adds the creation of the link, straight in its namespace.
func (b *batch) child(ns *os.File, c Child, parent int) {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO|unix.NLA_F_NESTED, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(string(c.Kind)))
	data := info.AddRtAttr(nl.IFLA_INFO_DATA|unix.NLA_F_NESTED, nil)
	switch c.Kind {
	case Ipvlan:
		data.AddRtAttr(nl.IFLA_IPVLAN_MODE, nl.Uint16Attr(uint16(c.Mode)))
		data.AddRtAttr(nl.IFLA_IPVLAN_FLAG, nl.Uint16Attr(c.Flag))
	case Macvlan:
		data.AddRtAttr(nl.IFLA_MACVLAN_MODE, nl.Uint32Attr(c.Mode))
	}
	attrs := []*nl.RtAttr{
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(c.Name)),
		nl.NewRtAttr(unix.IFLA_LINK, nl.Uint32Attr(uint32(parent))),
		nl.NewRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(ns.Fd()))),
		info,
	}
	if len(c.MAC) > 0 {
		attrs = append(attrs, nl.NewRtAttr(unix.IFLA_ADDRESS, c.MAC))
	}
	if c.MTU > 0 {
		attrs = append(attrs, nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(c.MTU))))
	}
	b.link("create "+string(c.Kind)+" link", unix.NLM_F_CREATE|unix.NLM_F_EXCL, ifinfo(0, 0, 0), attrs...)
}

// Adopt moves the host's link called from into the network namespace ns under the
// name of ep and gives it what ep says. On error the link is the host's again, or
// gone with the namespace.
func (l *Links) Adopt(ns *os.File, from string, ep Endpoint) error {
	index, err := l.index(from)
	if err != nil {
		return fmt.Errorf("adopt link %q: %w", from, err)
	}
	attrs := []*nl.RtAttr{
		nl.NewRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(ns.Fd()))),
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(ep.Name)),
	}
	var b batch
	b.link("set link down", 0, ifinfo(index, 0, unix.IFF_UP))
	if len(ep.MAC) > 0 {
		b.link("set hardware address", 0, ifinfo(index, 0, 0), nl.NewRtAttr(unix.IFLA_ADDRESS, ep.MAC))
	}
	b.link("move link", 0, ifinfo(index, 0, 0), attrs...)
	if _, err := l.do(&b); err != nil {
		return fmt.Errorf("adopt link %q: %w", from, err)
	}
	if err := configure(ns, ep); err != nil {
		return errors.Join(fmt.Errorf("adopt link %q: %w", from, err), l.Return(ns, ep.Name, from))
	}
	return nil
}

// Return moves the link name of the network namespace ns to the host, under the
// name to. A link that does not exist is no error.
func (l *Links) Return(ns *os.File, name, to string) error {
	s, err := socketIn(ns, nil)
	if err != nil {
		return fmt.Errorf("return link %q: %w", name, err)
	}
	defer s.Close()
	index, err := s.index(name)
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("return link %q: %w", name, err)
	}
	var b batch
	b.link("set link down", 0, ifinfo(index, 0, unix.IFF_UP))
	b.link("move link", 0, ifinfo(index, 0, 0),
		nl.NewRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(l.ns.Fd()))),
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(to)))
	if _, err := s.do(&b); err != nil {
		return fmt.Errorf("return link %q: %w", name, err)
	}
	return nil
}

// DetachIn deletes the link name in the network namespace ns. One that does not
// exist is no error.
func DetachIn(ns *os.File, name string) error { return (&Links{ns: ns}).Detach(name) }

// ExistsIn reports whether the network namespace ns has a link of that name.
func ExistsIn(ns *os.File, name string) (bool, error) {
	s, err := socketIn(ns, nil)
	if err != nil {
		return false, err
	}
	defer s.Close()
	_, err = s.index(name)
	if errors.Is(err, unix.ENODEV) {
		return false, nil
	}
	return err == nil, err
}

// MakeVLAN makes the link name, which carries the frames of parent that are
// tagged with id, and brings it up.
//
// Errors: NotFound without the parent; NotImplemented if the kernel has no VLANs.
func (l *Links) MakeVLAN(name, parent string, id int) error {
	link, err := l.slow.LinkByName(parent)
	var notFound netlink.LinkNotFoundError
	if errors.As(err, &notFound) {
		return fmt.Errorf("make VLAN %q: %w: %s", name, ErrNoParent, parent)
	}
	if err != nil {
		return fmt.Errorf("make VLAN %q: %w", name, err)
	}
	return l.make("VLAN", &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: name, ParentIndex: link.Attrs().Index}, VlanId: id})
}

// MakeDummy makes a link that leads nowhere, for networks whose containers reach
// only each other, and brings it up.
//
// Errors: NotImplemented if the kernel has no dummy links.
func (l *Links) MakeDummy(name string) error {
	return l.make("dummy", &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: name}})
}

func (l *Links) make(kind string, link netlink.Link) error {
	name := link.Attrs().Name
	err := l.slow.LinkAdd(link)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("make link %q: %w: this kernel has no %s links", name, errdefs.ErrNotImplemented, kind)
	}
	if err == nil {
		if err = l.slow.LinkSetUp(link); err != nil {
			err = errors.Join(err, l.Detach(name))
		}
	}
	if err != nil {
		return fmt.Errorf("make link %q: %w", name, err)
	}
	return nil
}
