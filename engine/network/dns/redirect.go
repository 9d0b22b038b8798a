package dns

import (
	"encoding/binary"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tableName is that of the table in the container's namespace. It holds one chain.
const tableName = "lighter-dns"

// redirect leads port 53 of Addr to the server's ports, in the network namespace
// of the calling thread. A table of an earlier server is replaced in the same
// transaction.
func redirect(udp, tcp uint16) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("redirect port 53: %w", err)
	}
	t := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: tableName}
	c.AddTable(t) // so that there is one to delete
	c.DelTable(t)
	c.AddTable(t)
	accept := nftables.ChainPolicyAccept
	chain := c.AddChain(&nftables.Chain{Table: t, Name: "output", Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest, Policy: &accept})
	c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: translate(unix.IPPROTO_UDP, udp)})
	c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: translate(unix.IPPROTO_TCP, tcp)})
	if err := c.Flush(); err != nil {
		return fmt.Errorf("redirect port 53: %w", err)
	}
	return nil
}

// translate is "ip daddr Addr PROTO dport 53 dnat to Addr:PORT".
func translate(proto uint8, port uint16) []expr.Any {
	const (
		offsetDaddr = 16 // in an IPv4 header
		offsetDport = 2  // in a TCP or UDP header
		reg         = unix.NFT_REG_1
	)
	return []expr.Any{
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offsetDaddr, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: Addr.AsSlice()},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{proto}},
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: offsetDport, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: binary.BigEndian.AppendUint16(nil, 53)},
		&expr.Immediate{Register: reg, Data: Addr.AsSlice()},
		&expr.Immediate{Register: unix.NFT_REG_2, Data: binary.BigEndian.AppendUint16(nil, port)},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: reg, RegProtoMin: unix.NFT_REG_2},
	}
}
