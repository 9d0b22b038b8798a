package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// groupNFTables is the multicast group that hears of every change of nftables.
const groupNFTables = 7 // NFNLGRP_NFTABLES

// Watcher hears of changes that others make to a Table.
type Watcher struct {
	conn   *netlink.Conn
	table  string
	own    *atomic.Uint32 // the port of the socket that the Table itself uses
	closed atomic.Bool
}

// Watch returns a Watcher of the table in the calling thread's network namespace.
func (t *Table) Watch() (*Watcher, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("watch firewall: %w", err)
	}
	if err := c.JoinGroup(groupNFTables); err != nil {
		return nil, errors.Join(fmt.Errorf("watch firewall: %w", err), c.Close())
	}
	return &Watcher{conn: c, table: t.name, own: &t.port}, nil
}

// Close ends Wait.
func (w *Watcher) Close() error {
	w.closed.Store(true)
	return w.conn.Close()
}

// Wait returns true when somebody else has removed something of the table, or may
// have because there were more changes than the kernel keeps; false after Close.
func (w *Watcher) Wait() (bool, error) {
	for {
		msgs, err := w.conn.Receive()
		switch {
		case w.closed.Load():
			return false, nil
		case errors.Is(err, unix.ENOBUFS):
			return true, nil
		case err != nil:
			return false, fmt.Errorf("watch firewall: %w", err)
		}
		for _, m := range msgs {
			if m.Header.PID != w.own.Load() && isRemoval(m.Header.Type) && tableOf(m.Data) == w.table {
				return true, nil
			}
		}
	}
}

func isRemoval(t netlink.HeaderType) bool {
	if t>>8 != unix.NFNL_SUBSYS_NFTABLES {
		return false
	}
	switch t & 0xff {
	case unix.NFT_MSG_DELTABLE, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_DELRULE, unix.NFT_MSG_DELSET, unix.NFT_MSG_DELSETELEM:
		return true
	}
	return false
}

// tableOf reads the table's name, which is attribute 1 of all kinds of messages.
func tableOf(data []byte) string {
	const head, attrTable = 4, 1 // struct nfgenmsg; NFTA_*_TABLE
	if len(data) < head {
		return ""
	}
	d, err := netlink.NewAttributeDecoder(data[head:])
	if err != nil {
		return ""
	}
	d.ByteOrder = binary.BigEndian
	for d.Next() {
		if d.Type() == attrTable {
			return d.String()
		}
	}
	return ""
}
