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
	ports, anyPorts := portMaps(t)
	to := &nftables.Set{Table: t, Name: mapTo, ID: 4, IsMap: true, KeyType: nftables.TypeIFName, DataType: nftables.TypeVerdict}
	ids := map[string]uint32{setBridges: bridges.ID, mapPorts: ports.ID, mapAnyPorts: anyPorts.ID, mapTo: to.ID}

	var names, jumps []nftables.SetElement
	for _, l := range rs.links {
		names = append(names, nftables.SetElement{Key: ifname(l.bridge)})
		jumps = append(jumps, nftables.SetElement{Key: ifname(l.bridge), VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: l.chain}})
	}
	err = errors.Join(c.AddSet(bridges, names), c.AddSet(ports, nil), c.AddSet(anyPorts, nil))
	chains := make([]*nftables.Chain, len(rs.chains))
	for i, ch := range rs.chains {
		nc := &nftables.Chain{Table: t, Name: ch.name}
		if ch.hook != nil {
			policy := nftables.ChainPolicyAccept
			nc.Type, nc.Hooknum, nc.Priority, nc.Policy = ch.hook.kind, ch.hook.num, ch.hook.priority, &policy
		}
		chains[i] = c.AddChain(nc)
	}
	err = errors.Join(err, c.AddSet(to, jumps), eachElement(rs.ports, ports, anyPorts, c.SetAddElements))
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
	ports, anyPorts := portMaps(t)
	ports.ID, anyPorts.ID = 0, 0 // they exist: found by name
	err = errors.Join(
		eachElement(del, ports, anyPorts, c.SetDeleteElements),
		eachElement(add, ports, anyPorts, c.SetAddElements))
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

// portMaps returns the maps of published ports as they are declared.
func portMaps(t *nftables.Table) (exact, wild *nftables.Set) {
	value := nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
	return &nftables.Set{Table: t, Name: mapPorts, ID: 2, IsMap: true, Concatenation: true,
			KeyType:  nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService),
			DataType: value},
		&nftables.Set{Table: t, Name: mapAnyPorts, ID: 3, IsMap: true, Concatenation: true,
			KeyType:  nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService),
			DataType: value}
}

// eachElement passes the elements of ports to do, by map and in bounded numbers.
func eachElement(ports []Port, exact, wild *nftables.Set, do func(*nftables.Set, []nftables.SetElement) error) error {
	var exactElems, wildElems []nftables.SetElement
	for _, p := range ports {
		// Every part of a concatenation takes a multiple of 4 bytes.
		key := []byte{p.Proto, 0, 0, 0, 0, 0, 0, 0}
		binary.BigEndian.PutUint16(key[4:], p.HostPort)
		val := binary.BigEndian.AppendUint16(p.Addr.AsSlice(), p.Port)
		val = append(val, 0, 0)
		if p.HostIP.IsUnspecified() {
			wildElems = append(wildElems, nftables.SetElement{Key: key, Val: val})
		} else {
			exactElems = append(exactElems, nftables.SetElement{Key: append(p.HostIP.AsSlice(), key...), Val: val})
		}
	}
	for part := range slices.Chunk(exactElems, elementsPerMessage) {
		if err := do(exact, part); err != nil {
			return err
		}
	}
	for part := range slices.Chunk(wildElems, elementsPerMessage) {
		if err := do(wild, part); err != nil {
			return err
		}
	}
	return nil
}
