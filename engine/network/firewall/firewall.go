// Package firewall keeps one nftables table that publishes ports, hides and
// isolates the networks of one daemon.
//
// The table is desired state. Its chains depend only on the networks and are
// replaced as a whole, in one transaction, when those change. Published ports
// are elements of maps, added and deleted one transaction per container, so the
// cost of a container does not grow with the number of others. If somebody
// flushed the ruleset, the next change or Reapply restores all of it.
//
// What holds while the table is there:
//
//   - Only destinations that are addresses of the host are translated
//     (CVE-2025-67499), for packets that arrive and for those the host sends.
//   - Loopback addresses are dropped on every link but lo before translation, so
//     a port published on 127.0.0.1 cannot be reached by the next host
//     (CVE-2020-8558, moby issue 45610).
//   - A new connection into a network from elsewhere, another network included,
//     passes only if it was translated, which means that its port is published.
//
// Accepting a packet here is not final: a chain of another table at the same
// hook, for example iptables' FORWARD with policy DROP, may still drop it.
// ForeignDrop finds such chains.
package firewall

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Network is one bridge network.
type Network struct {
	Bridge string
	V4, V6 Family
	// ICC lets its containers talk to each other. The bridge's ports must be
	// isolated too: frames between them do not always pass the firewall.
	ICC bool
	// Internal cuts it off from everything but the host itself.
	Internal bool
	// Trusted are links of the host from where ports that are published may be
	// reached at the containers' own addresses.
	Trusted []string
}

// Family is what holds for one address family of a network. The zero value says
// that the network does not have it.
type Family struct {
	Subnet netip.Prefix
	// Masquerade hides its addresses from the world, behind Source if it is set.
	Masquerade bool
	Source     netip.Addr
	// Unprotected lets everybody reach every port at the containers' addresses.
	Unprotected bool
	// Routed lets everybody reach open ports, see Port, and ping.
	Routed bool
}

// Policy is the part of the state that chains are made of.
type Policy struct {
	Networks []Network
	// DropForward4 and DropForward6 drop packets between links that are no bridge
	// of Networks.
	DropForward4, DropForward6 bool
	// AcceptMark lets packets with this mark, of the bits in AcceptMask, into the
	// networks; a zero AcceptMask means none.
	AcceptMark, AcceptMask uint32
}

// Port is one published port. With HostPort 0 it is an open one: reachable at
// the container's address by those who may, and not translated.
type Port struct {
	Proto    uint8      // IPPROTO_TCP, IPPROTO_UDP or IPPROTO_SCTP
	HostIP   netip.Addr // 0.0.0.0 or :: is every address of the host
	HostPort uint16
	Addr     netip.Addr // of the container, of the same family
	Port     uint16
}

func (p Port) open() bool { return p.HostPort == 0 }

func (p Port) key() portKey {
	if p.open() {
		return portKey{p.Proto, p.Addr, p.Port, true}
	}
	return portKey{p.Proto, p.HostIP, p.HostPort, false}
}

type portKey struct {
	proto uint8
	ip    netip.Addr
	port  uint16
	open  bool
}

// kernel carries out transactions. Each is atomic.
type kernel interface {
	// replace makes rs the content of its table, which may exist.
	replace(rs *ruleset) error
	// change adds and deletes elements of the port maps. The error is ENOENT if
	// the table or a deleted element does not exist.
	change(table string, add, del []Port) error
	// remove deletes the table if it exists.
	remove(table string) error
	// close frees what it holds; it may be used again.
	close() error
	// foreignDrop lists chains that drop forwarded IPv4 packets by default.
	foreignDrop() ([]string, error)
	// ensureUserTable, removeUserTable and inputChains are as those of Table.
	ensureUserTable() error
	removeUserTable() error
	inputChains() ([]string, error)
	// port is that of the socket in use.
	port() uint32
}

// Table is the table of one daemon. Its methods may be called concurrently.
type Table struct {
	name   string
	kernel kernel
	port   atomic.Uint32 // of the socket that makes the changes, for Watcher

	// mu serialises transactions, so that the table never misses a port that
	// the state has; it is held across them. It also guards the fields below.
	mu      sync.Mutex
	policy  Policy
	ports   map[portKey]Port
	present bool // the table was made
}

// New returns the table called name, in family inet, of the calling thread's
// network namespace. It makes no system call.
func New(name string) *Table {
	return &Table{name: name, kernel: &nft{}, ports: make(map[portKey]Port)}
}

// Apply makes p the policy; published ports stay.
func (t *Table) Apply(_ context.Context, p Policy) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.policy = p
	return t.replaceLocked()
}

// Reapply makes the kernel's table what it should be, whatever it is.
func (t *Table) Reapply(_ context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.replaceLocked()
}

// Publish adds ports. One that was published to another container's address is
// taken over.
func (t *Table) Publish(_ context.Context, ports ...Port) error {
	if len(ports) == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	whole := !t.present
	var add []Port
	for _, p := range ports {
		old, ok := t.ports[p.key()]
		if ok && old == p {
			continue
		}
		whole = whole || ok
		t.ports[p.key()] = p
		add = append(add, p)
	}
	if whole {
		return t.replaceLocked()
	}
	if len(add) == 0 {
		return nil
	}
	return t.changeLocked(add, nil)
}

// Unpublish removes ports; those that are not published as given stay.
func (t *Table) Unpublish(_ context.Context, ports ...Port) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var del []Port
	for _, p := range ports {
		if t.ports[p.key()] == p {
			delete(t.ports, p.key())
			del = append(del, p)
		}
	}
	if len(del) == 0 || !t.present {
		return nil
	}
	return t.changeLocked(nil, del)
}

// Remove deletes the table from the kernel and forgets all state.
func (t *Table) Remove(_ context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.policy, t.present = Policy{}, false
	clear(t.ports)
	if err := t.kernel.remove(t.name); err != nil {
		return fmt.Errorf("remove firewall table %q: %w", t.name, err)
	}
	return nil
}

// Close releases what the process holds and leaves the table as it is.
func (t *Table) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.kernel.close()
}

// ForeignDrop lists the chains of other tables ("family table chain") that drop
// forwarded IPv4 packets unless a rule of theirs accepts them. Those of the old
// iptables (xtables), which are no nftables chains, it does not see.
func (t *Table) ForeignDrop() ([]string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.kernel.foreignDrop()
}

// String returns the table as text that nft(8) reads.
func (t *Table) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return compile(t.name, t.policy, t.ports).String()
}

func (t *Table) replaceLocked() error {
	t.port.Store(t.kernel.port())
	if err := t.kernel.replace(compile(t.name, t.policy, t.ports)); err != nil {
		return fmt.Errorf("apply firewall table %q: %w", t.name, err)
	}
	t.present = true
	return nil
}

func (t *Table) changeLocked(add, del []Port) error {
	t.port.Store(t.kernel.port())
	err := t.kernel.change(t.name, add, del)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EEXIST) {
		// Somebody else changed the table.
		return t.replaceLocked()
	}
	if err != nil {
		return fmt.Errorf("change firewall table %q: %w", t.name, err)
	}
	return nil
}
