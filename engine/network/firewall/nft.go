package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// transactionTimeout bounds the wait for the kernel's answers. The kernel
	// answers before sendmsg(2) returns; only a lost answer makes it expire.
	transactionTimeout = 10 * time.Second
	// elementsPerMessage keeps the list of elements in one message under the 64
	// KiB that a netlink attribute can hold.
	elementsPerMessage = 400
	// bytesPerElement is more than one element takes in a socket buffer.
	bytesPerElement = 256
	// defaultWriteBuffer is less than every kernel's net.core.wmem_default.
	defaultWriteBuffer = 64 << 10
)

// nft is the kernel. It keeps its socket from transaction to transaction, for
// closing one waits until the kernel has freed what the last one deleted, tens
// of milliseconds. After an error the socket is given up: answers may be left in
// it. It is used by one goroutine at a time.
type nft struct {
	conn *nftables.Conn // nil until used
	nl   *netlink.Conn  // below conn
	room int            // elements that fit the write buffer
}

// begin returns a connection for a transaction with so many elements.
func (n *nft) begin(elements int) (*nftables.Conn, error) {
	if n.conn == nil {
		c, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
			n.nl = c
			return nil
		}))
		if err != nil {
			return nil, err
		}
		n.conn, n.room = c, defaultWriteBuffer/bytesPerElement
	}
	// To the socket layer a transaction is one message, whatever its size.
	if elements > n.room {
		if err := n.nl.SetWriteBuffer(elements * bytesPerElement); err != nil {
			return nil, err
		}
		n.room = elements
	}
	return n.conn, n.nl.SetDeadline(time.Now().Add(transactionTimeout))
}

// port returns that of the socket, which it opens if need be; 0 if there is none.
func (n *nft) port() uint32 {
	if _, err := n.begin(0); err != nil {
		return 0
	}
	raw, err := n.nl.SyscallConn()
	if err != nil {
		return 0
	}
	var port uint32
	if err := raw.Control(func(fd uintptr) {
		if sa, err := unix.Getsockname(int(fd)); err == nil {
			if nl, ok := sa.(*unix.SockaddrNetlink); ok {
				port = nl.Pid
			}
		}
	}); err != nil {
		return 0
	}
	return port
}

// end gives the socket up if the transaction failed.
func (n *nft) end(err *error) {
	if *err != nil {
		*err = errors.Join(*err, n.close())
	}
}

func (n *nft) close() error {
	if n.conn == nil {
		return nil
	}
	err := n.conn.CloseLasting()
	n.conn, n.nl = nil, nil
	return err
}

func (n *nft) replace(rs *ruleset) (err error) {
	defer n.end(&err)
	c, err := n.begin(len(rs.ports) + 16*len(rs.chains))
	if err != nil {
		return err
	}
	t := &nftables.Table{Family: nftables.TableFamilyINet, Name: rs.table}
	c.AddTable(t) // so that there is one to delete
	c.DelTable(t)
	c.AddTable(t)

	bridges := &nftables.Set{Table: t, Name: setBridges, ID: 1, KeyType: nftables.TypeIFName}
	to := &nftables.Set{Table: t, Name: mapTo, ID: 2, IsMap: true, KeyType: nftables.TypeIFName, DataType: nftables.TypeVerdict}
	sets := portSets(t)
	ids := map[string]uint32{setBridges: bridges.ID, mapTo: to.ID}

	var names, jumps []nftables.SetElement
	for _, l := range rs.links {
		names = append(names, nftables.SetElement{Key: ifname(l.bridge)})
		jumps = append(jumps, nftables.SetElement{Key: ifname(l.bridge), VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: l.chain}})
	}
	err = c.AddSet(bridges, names)
	for i, set := range sets {
		set.ID = uint32(3 + i)
		ids[set.Name] = set.ID
		err = errors.Join(err, c.AddSet(set, nil))
	}
	chains := make([]*nftables.Chain, len(rs.chains))
	for i, ch := range rs.chains {
		nc := &nftables.Chain{Table: t, Name: ch.name}
		if ch.hook != nil {
			policy := nftables.ChainPolicyAccept
			nc.Type, nc.Hooknum, nc.Priority, nc.Policy = ch.hook.kind, ch.hook.num, ch.hook.priority, &policy
		}
		chains[i] = c.AddChain(nc)
	}
	err = errors.Join(err, c.AddSet(to, jumps), eachElement(rs.ports, sets, c.SetAddElements))
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	for i, ch := range rs.chains {
		for _, r := range ch.rules {
			c.AddRule(&nftables.Rule{Table: t, Chain: chains[i], Exprs: exprs(r, ids)})
		}
	}
	return c.Flush()
}

// exprs returns the expressions of r. Sets of the same transaction are named by ID.
func exprs(r rule, ids map[string]uint32) []expr.Any {
	var out []expr.Any
	for _, s := range r {
		for _, e := range s.exprs {
			if l, ok := e.(*expr.Lookup); ok {
				byID := *l
				byID.SetID = ids[l.SetName]
				e = &byID
			}
			out = append(out, e)
		}
	}
	return out
}

func (n *nft) change(table string, add, del []Port) (err error) {
	defer n.end(&err)
	c, err := n.begin(len(add) + len(del))
	if err != nil {
		return err
	}
	t := &nftables.Table{Family: nftables.TableFamilyINet, Name: table}
	sets := portSets(t) // they exist: found by name
	err = errors.Join(
		eachElement(del, sets, c.SetDeleteElements),
		eachElement(add, sets, c.SetAddElements))
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	return c.Flush()
}

func (n *nft) remove(table string) (err error) {
	c, err := n.begin(0)
	if err != nil {
		return err
	}
	c.DelTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: table})
	err = c.Flush()
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	return errors.Join(err, n.close())
}

func (n *nft) foreignDrop() (_ []string, err error) {
	defer n.end(&err)
	c, err := n.begin(0)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyINet} {
		chains, err := c.ListChainsOfTableFamily(family)
		if err != nil {
			return nil, err
		}
		for _, ch := range chains {
			if ch.Hooknum != nil && *ch.Hooknum == *nftables.ChainHookForward && ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop {
				name := "ip "
				if family == nftables.TableFamilyINet {
					name = "inet "
				}
				found = append(found, name+ch.Table.Name+" "+ch.Name)
			}
		}
	}
	return found, nil
}

// portSets returns the maps and sets of published ports as they are declared.
func portSets(t *nftables.Table) []*nftables.Set {
	var sets []*nftables.Set
	for _, f := range families {
		addr := nftables.TypeIPAddr
		if f == v6 {
			addr = nftables.TypeIP6Addr
		}
		full := nftables.MustConcatSetType(addr, nftables.TypeInetProto, nftables.TypeInetService)
		value := nftables.MustConcatSetType(addr, nftables.TypeInetService)
		sets = append(sets,
			&nftables.Set{Table: t, Name: f.ports, IsMap: true, Concatenation: true, KeyType: full, DataType: value},
			&nftables.Set{Table: t, Name: f.anyPorts, IsMap: true, Concatenation: true,
				KeyType: nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService), DataType: value},
			&nftables.Set{Table: t, Name: f.open, Concatenation: true, KeyType: full})
	}
	return sets
}

// eachElement passes the elements of ports to do, by set and in bounded numbers.
func eachElement(ports []Port, sets []*nftables.Set, do func(*nftables.Set, []nftables.SetElement) error) error {
	elements := make(map[string][]nftables.SetElement)
	for _, p := range ports {
		name := setOf(p)
		elements[name] = append(elements[name], element(p))
	}
	for _, set := range sets {
		for part := range slices.Chunk(elements[set.Name], elementsPerMessage) {
			if err := do(set, part); err != nil {
				return err
			}
		}
	}
	return nil
}

// element encodes p for the set it belongs to. Every part of a concatenation
// takes a multiple of 4 bytes.
func element(p Port) nftables.SetElement {
	key := []byte{p.Proto, 0, 0, 0, 0, 0, 0, 0}
	if p.open() {
		binary.BigEndian.PutUint16(key[4:], p.Port)
		return nftables.SetElement{Key: append(p.Addr.AsSlice(), key...)}
	}
	binary.BigEndian.PutUint16(key[4:], p.HostPort)
	if !p.HostIP.IsUnspecified() {
		key = append(p.HostIP.AsSlice(), key...)
	}
	val := append(binary.BigEndian.AppendUint16(p.Addr.AsSlice(), p.Port), 0, 0)
	return nftables.SetElement{Key: key, Val: val}
}
