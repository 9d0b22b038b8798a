package firewall

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// ruleset is a table, as text and as the expressions the kernel takes.
type ruleset struct {
	table  string
	chains []chain
	ports  []Port
	// links maps a bridge to the chain for packets that leave through it.
	links []link
}

type link struct{ bridge, chain string }

type chain struct {
	name  string
	hook  *hook // nil for one that others jump to
	rules []rule
}

type hook struct {
	kind     nftables.ChainType
	text     string
	num      *nftables.ChainHook
	priority *nftables.ChainPriority
}

// rule is a sequence of statements.
type rule []stmt

// stmt is a match or an action. text and exprs say the same.
type stmt struct {
	text  string
	exprs []expr.Any
}

// Names in the table.
const (
	mapPorts    = "ports"     // address . protocol . port -> container
	mapAnyPorts = "ports-any" // protocol . port -> container
	mapTo       = "to"        // bridge -> chain for packets that leave through it
	setBridges  = "bridges"
)

var (
	hookRaw = &hook{nftables.ChainTypeFilter, "type filter hook prerouting priority raw; policy accept;",
		nftables.ChainHookPrerouting, nftables.ChainPriorityRaw}
	hookPrerouting = &hook{nftables.ChainTypeNAT, "type nat hook prerouting priority dstnat; policy accept;",
		nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest}
	hookOutput = &hook{nftables.ChainTypeNAT, "type nat hook output priority dstnat; policy accept;",
		nftables.ChainHookOutput, nftables.ChainPriorityNATDest}
	hookForward = &hook{nftables.ChainTypeFilter, "type filter hook forward priority filter; policy accept;",
		nftables.ChainHookForward, nftables.ChainPriorityFilter}
	hookPostrouting = &hook{nftables.ChainTypeNAT, "type nat hook postrouting priority srcnat; policy accept;",
		nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource}
)

// loopback are the addresses that never leave a host.
var loopback = netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8)

// compile makes the ruleset of a state. Equal states make equal rulesets.
func compile(table string, p Policy, ports map[portKey]Port) *ruleset {
	networks := slices.SortedFunc(slices.Values(p.Networks), func(a, b Network) int {
		return strings.Compare(a.Bridge, b.Bridge)
	})
	rs := &ruleset{table: table, ports: sortedPorts(ports)}
	publish := []rule{
		{dnat(mapPorts, true)},
		{dnat(mapAnyPorts, false)},
	}
	forward := chain{name: "forward", hook: hookForward, rules: []rule{{outVerdictMap()}}}
	postrouting := chain{name: "postrouting", hook: hookPostrouting}
	var to []chain
	for _, n := range networks {
		to = append(to, toNetwork(n))
		rs.links = append(rs.links, link{n.Bridge, "to-" + n.Bridge})
		if n.Internal {
			forward.rules = append(forward.rules, rule{iif(n.Bridge), drop()})
		}
		postrouting.rules = append(postrouting.rules, fromNetwork(n)...)
	}
	if p.DropForward {
		forward.rules = append(forward.rules, rule{iifNotOurs(), drop()})
	}
	rs.chains = append(to,
		chain{name: "published", rules: publish},
		chain{name: "martians", hook: hookRaw, rules: []rule{
			{iifNot("lo"), ipv4(), saddr(loopback), drop()},
			{iifNot("lo"), ipv4(), daddr(loopback), drop()},
		}},
		chain{name: "prerouting", hook: hookPrerouting, rules: []rule{{ipv4(), daddrLocal(), jump("published")}}},
		chain{name: "output", hook: hookOutput, rules: []rule{{ipv4(), daddrLocal(), jump("published")}}},
		forward,
		postrouting)
	return rs
}

// toNetwork decides on packets that would leave through the bridge of n. Those
// between its own containers come here when the kernel hands bridged frames to
// the firewall (br_netfilter), or when they take the way over a published port.
func toNetwork(n Network) chain {
	c := chain{name: "to-" + n.Bridge, rules: []rule{{ctState(), accept()}}}
	if n.ICC {
		c.rules = append(c.rules, rule{iif(n.Bridge), accept()})
	}
	if !n.Internal {
		c.rules = append(c.rules, rule{ctTranslated(), accept()})
	}
	c.rules = append(c.rules, rule{drop()})
	return c
}

// fromNetwork rewrites the source of packets that leave n, and of those that
// enter it in a way that the answer would not find back.
func fromNetwork(n Network) []rule {
	var rules []rule
	if n.Masquerade && !n.Internal {
		rules = append(rules, rule{ipv4(), saddr(n.Subnet), oifNot(n.Bridge), masquerade()})
	}
	return append(rules,
		// A container that uses a port published by its own network: the answer
		// would go straight back, from an address that nobody asked.
		rule{oif(n.Bridge), ipv4(), saddr(n.Subnet), ctTranslated(), masquerade()},
		// The host itself, on 127.0.0.1.
		rule{oif(n.Bridge), ipv4(), saddr(loopback), masquerade()})
}

// Registers: reg1 is the first 16 bytes, reg4+i its i-th 4 bytes.
const (
	reg1 = unix.NFT_REG_1
	reg4 = unix.NFT_REG32_00
)

func match(text string, load expr.Any, op expr.CmpOp, data []byte) stmt {
	return stmt{text, []expr.Any{load, &expr.Cmp{Op: op, Register: reg1, Data: data}}}
}

func iif(name string) stmt {
	return match(fmt.Sprintf("iifname %q", name), &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg1}, expr.CmpOpEq, ifname(name))
}

func iifNot(name string) stmt {
	return match(fmt.Sprintf("iifname != %q", name), &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg1}, expr.CmpOpNeq, ifname(name))
}

func oif(name string) stmt {
	return match(fmt.Sprintf("oifname %q", name), &expr.Meta{Key: expr.MetaKeyOIFNAME, Register: reg1}, expr.CmpOpEq, ifname(name))
}

func oifNot(name string) stmt {
	return match(fmt.Sprintf("oifname != %q", name), &expr.Meta{Key: expr.MetaKeyOIFNAME, Register: reg1}, expr.CmpOpNeq, ifname(name))
}

func iifNotOurs() stmt {
	return stmt{"iifname != @" + setBridges, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg1},
		&expr.Lookup{SourceRegister: reg1, SetName: setBridges, Invert: true}}}
}

func outVerdictMap() stmt {
	return stmt{"oifname vmap @" + mapTo, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: reg1},
		&expr.Lookup{SourceRegister: reg1, IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT, SetName: mapTo}}}
}

// ipv4 comes before every match on an IPv4 header: the family inet sees both.
func ipv4() stmt {
	return match("meta nfproto ipv4", &expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg1}, expr.CmpOpEq, []byte{unix.NFPROTO_IPV4})
}

const (
	offsetSaddr = 12 // in an IPv4 header
	offsetDaddr = 16
	offsetDport = 2 // in a TCP, UDP or SCTP header
)

func saddr(p netip.Prefix) stmt { return prefix("ip saddr ", offsetSaddr, p) }
func daddr(p netip.Prefix) stmt { return prefix("ip daddr ", offsetDaddr, p) }

func prefix(text string, offset uint32, p netip.Prefix) stmt {
	p = p.Masked()
	mask := make([]byte, 4)
	binary.BigEndian.PutUint32(mask, ^uint32(0)<<(32-p.Bits()))
	return stmt{text + p.String(), []expr.Any{
		&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: p.Addr().AsSlice()}}}
}

func daddrLocal() stmt {
	return match("fib daddr type local", &expr.Fib{Register: reg1, ResultADDRTYPE: true, FlagDADDR: true},
		expr.CmpOpEq, binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL))
}

func ctState() stmt {
	return ctBits("ct state established,related", expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
}

// ctTranslated matches connections whose destination was changed.
func ctTranslated() stmt {
	const statusDNAT = 1 << 5 // IPS_DST_NAT
	return ctBits("ct status dnat", expr.CtKeySTATUS, statusDNAT)
}

func ctBits(text string, key expr.CtKey, bits uint32) stmt {
	return stmt{text, []expr.Any{
		&expr.Ct{Key: key, Register: reg1},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: binary.NativeEndian.AppendUint32(nil, bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: make([]byte, 4)}}}
}

// dnat translates the destination to what a map has for it, or does nothing.
func dnat(set string, withAddr bool) stmt {
	var loads []expr.Any
	text, reg := "", uint32(reg4)
	if withAddr {
		text = "ip daddr . "
		loads = append(loads, &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offsetDaddr, Len: 4})
		reg++
	}
	loads = append(loads,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg},
		&expr.Payload{DestRegister: reg + 1, Base: expr.PayloadBaseTransportHeader, Offset: offsetDport, Len: 2},
		&expr.Lookup{SourceRegister: reg4, IsDestRegSet: true, DestRegister: reg4, SetName: set},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: reg4, RegProtoMin: reg4 + 1})
	return stmt{fmt.Sprintf("dnat ip to %smeta l4proto . th dport map @%s", text, set), loads}
}

func masquerade() stmt { return stmt{"masquerade", []expr.Any{&expr.Masq{}}} }
func accept() stmt     { return verdict("accept", expr.VerdictAccept, "") }
func drop() stmt       { return verdict("drop", expr.VerdictDrop, "") }
func jump(chain string) stmt {
	return verdict("jump "+chain, expr.VerdictJump, chain)
}

func verdict(text string, kind expr.VerdictKind, chain string) stmt {
	return stmt{text, []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}}
}

// ifname pads a link's name as the kernel compares it.
func ifname(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

func sortedPorts(ports map[portKey]Port) []Port {
	return slices.SortedFunc(maps.Values(ports), func(a, b Port) int {
		if c := int(a.Proto) - int(b.Proto); c != 0 {
			return c
		}
		if c := int(a.HostPort) - int(b.HostPort); c != 0 {
			return c
		}
		return a.HostIP.Compare(b.HostIP)
	})
}

// String renders the ruleset in the syntax of nft(8).
func (rs *ruleset) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", rs.table)
	named := func(kind, name, typ string, elements []string) {
		fmt.Fprintf(&b, "\t%s %s {\n\t\ttype %s\n", kind, name, typ)
		if len(elements) > 0 {
			fmt.Fprintf(&b, "\t\telements = { %s }\n", strings.Join(elements, ",\n\t\t\t"))
		}
		b.WriteString("\t}\n")
	}
	var bridges, to, exact, wild []string
	for _, l := range rs.links {
		bridges = append(bridges, fmt.Sprintf("%q", l.bridge))
		to = append(to, fmt.Sprintf("%q : jump %s", l.bridge, l.chain))
	}
	for _, p := range rs.ports {
		key := fmt.Sprintf("%s . %d : %s . %d", protoName(p.Proto), p.HostPort, p.Addr, p.Port)
		if p.HostIP.IsUnspecified() {
			wild = append(wild, key)
		} else {
			exact = append(exact, p.HostIP.String()+" . "+key)
		}
	}
	named("set", setBridges, "ifname", bridges)
	named("map", mapPorts, "ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service", exact)
	named("map", mapAnyPorts, "inet_proto . inet_service : ipv4_addr . inet_service", wild)
	for i, c := range rs.chains {
		if i == len(rs.links) {
			named("map", mapTo, "ifname : verdict", to) // after the chains it names
		}
		fmt.Fprintf(&b, "\tchain %s {\n", c.name)
		if c.hook != nil {
			fmt.Fprintf(&b, "\t\t%s\n", c.hook.text)
		}
		for _, r := range c.rules {
			b.WriteString("\t\t")
			for j, s := range r {
				if j > 0 {
					b.WriteByte(' ')
				}
				b.WriteString(s.text)
			}
			b.WriteByte('\n')
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

func protoName(p uint8) string {
	switch p {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_SCTP:
		return "sctp"
	}
	return fmt.Sprint(p)
}
