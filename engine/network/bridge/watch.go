package bridge

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	mdlnetlink "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Change is what a Watcher hears of.
type Change struct {
	// Removed is the link that was removed; "" for none.
	Removed string
	// Routes says that the host has a new route.
	Routes bool
	// Missed says that there were more changes than the kernel keeps.
	Missed bool
}

// Watcher hears of links that are removed and routes that appear.
type Watcher struct {
	conn   *mdlnetlink.Conn
	closed atomic.Bool
}

// Watch returns a Watcher of the calling thread's network namespace.
func Watch() (*Watcher, error) {
	c, err := mdlnetlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, fmt.Errorf("watch links: %w", err)
	}
	for _, group := range []uint32{unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE} {
		if err := c.JoinGroup(group); err != nil {
			return nil, errors.Join(fmt.Errorf("watch links: %w", err), c.Close())
		}
	}
	return &Watcher{conn: c}, nil
}

// Close ends Wait.
func (w *Watcher) Close() error {
	w.closed.Store(true)
	return w.conn.Close()
}

// Wait returns the next change; the error is os.ErrClosed after Close.
func (w *Watcher) Wait() (Change, error) {
	for {
		msgs, err := w.conn.Receive()
		switch {
		case w.closed.Load():
			return Change{}, os.ErrClosed
		case errors.Is(err, unix.ENOBUFS):
			return Change{Missed: true}, nil
		case err != nil:
			return Change{}, fmt.Errorf("watch links: %w", err)
		}
		// A message comes alone, as the kernel sends them.
		for _, m := range msgs {
			switch m.Header.Type {
			case unix.RTM_DELLINK:
				if name := linkName(m.Data); name != "" {
					return Change{Removed: name}, nil
				}
			case unix.RTM_NEWROUTE:
				return Change{Routes: true}, nil
			}
		}
	}
}

// linkName reads the name out of a message about a link as such; a bridge that
// loses a port tells of it in messages of its own family.
func linkName(data []byte) string {
	if len(data) < unix.SizeofIfInfomsg || data[0] != unix.AF_UNSPEC {
		return ""
	}
	attrs, err := nl.ParseRouteAttr(data[unix.SizeofIfInfomsg:])
	if err != nil {
		return ""
	}
	for _, a := range attrs {
		if a.Attr.Type == unix.IFLA_IFNAME {
			return nl.BytesToString(a.Value)
		}
	}
	return ""
}

// Rejoin makes the host's link of ep, which exists, a port of its bridge again.
//
// Errors: ErrNoBridge.
func (l *Links) Rejoin(ep Endpoint) error {
	master, err := l.index(ep.Bridge)
	if errors.Is(err, unix.ENODEV) {
		return ErrNoBridge
	}
	if err != nil {
		return err
	}
	var b batch
	b.link("join bridge", 0, ifinfo(0, 0, 0),
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(ep.HostName)),
		nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(master))))
	b.port(ep)
	if _, err := l.do(&b); err != nil {
		return fmt.Errorf("rejoin %q to bridge %q: %w", ep.HostName, ep.Bridge, err)
	}
	return nil
}
