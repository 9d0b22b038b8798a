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
	mapTo      = "to" // bridge -> chain for packets that leave through it
	setBridges = "bridges"
)

// family is what differs between IPv4 and IPv6.
type family struct {
	version              byte   // NFPROTO_IPV4 or NFPROTO_IPV6
	ip                   string // the header in nft's syntax
	addrType             string
	offsetSrc, offsetDst uint32 // of the addresses in the header
	length               uint32 // bytes of an address
	loopback             netip.Prefix
	icmp                 byte
	// Maps and a set: address . protocol . port -> container; protocol . port ->
	// container; address . protocol . port.
	ports, anyPorts, open string
	published             string // the chain that translates
}

var (
	v4 = &family{unix.NFPROTO_IPV4, "ip", "ipv4_addr", 12, 16, 4, netip.MustParsePrefix("127.0.0.0/8"), unix.IPPROTO_ICMP,
		"ports", "ports-any", "open", "published"}
	v6 = &family{unix.NFPROTO_IPV6, "ip6", "ipv6_addr", 8, 24, 16, netip.MustParsePrefix("::1/128"), unix.IPPROTO_ICMPV6,
		"ports6", "ports6-any", "open6", "published6"}
	families = []*family{v4, v6}
)

// familyOf returns that of an address.
func familyOf(a netip.Addr) *family {
	if a.Is4() {
		return v4
	}
	return v6
}

// of returns what n has of the family.
func (f *family) of(n *Network) *Family {
	if f == v4 {
		return &n.V4
	}
	return &n.V6
}

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

// compile makes the ruleset of a state. Equal states make equal rulesets.
func compile(table string, p Policy, ports map[portKey]Port) *ruleset {
	networks := slices.SortedFunc(slices.Values(p.Networks), func(a, b Network) int {
		return strings.Compare(a.Bridge, b.Bridge)
	})
	rs := &ruleset{table: table, ports: sortedPorts(ports)}
	forward := chain{name: "forward", hook: hookForward}
	postrouting := chain{name: "postrouting", hook: hookPostrouting}
	var to []chain
	for _, n := range networks {
		to = append(to, toNetwork(&n, p.AcceptMark, p.AcceptMask))
		rs.links = append(rs.links, link{n.Bridge, "to-" + n.Bridge})
		if n.Internal {
			// Before anything accepts, a port published elsewhere included.
			forward.rules = append(forward.rules, rule{iif(n.Bridge), oifNot(n.Bridge), drop()})
		}
		for _, f := range families {
			postrouting.rules = append(postrouting.rules, fromNetwork(&n, f)...)
		}
	}
	forward.rules = append(forward.rules, rule{outVerdictMap()})
	if p.DropForward4 {
		forward.rules = append(forward.rules, rule{nfproto(v4), iifNotOurs(), drop()})
	}
	if p.DropForward6 {
		forward.rules = append(forward.rules, rule{nfproto(v6), iifNotOurs(), drop()})
	}
	martians := chain{name: "martians", hook: hookRaw}
	prerouting := chain{name: "prerouting", hook: hookPrerouting}
	output := chain{name: "output", hook: hookOutput}
	for _, f := range families {
		to = append(to, chain{name: f.published, rules: []rule{{f.dnat(f.ports, true)}, {f.dnat(f.anyPorts, false)}}})
		martians.rules = append(martians.rules,
			rule{iifNot("lo"), nfproto(f), f.saddr(f.loopback), drop()},
			rule{iifNot("lo"), nfproto(f), f.daddr(f.loopback), drop()})
		prerouting.rules = append(prerouting.rules, rule{nfproto(f), daddrLocal(), jump(f.published)})
		if f == v6 {
			// The kernel sends nothing from ::1 to another host, translated or not.
			output.rules = append(output.rules, rule{nfproto(f), f.daddr(f.loopback), accept()})
		}
		output.rules = append(output.rules, rule{nfproto(f), daddrLocal(), jump(f.published)})
	}
	rs.chains = append(to, martians, prerouting, output, forward, postrouting)
	return rs
}

// toNetwork decides on packets that would leave through the bridge of n. Those
// between its own containers come here when the kernel hands bridged frames to
// the firewall (br_netfilter), or when they take the way over a published port.
func toNetwork(n *Network, mark, mask uint32) chain {
	c := chain{name: "to-" + n.Bridge, rules: []rule{{ctState(), accept()}}}
	if mask != 0 {
		c.rules = append(c.rules, rule{marked(mark, mask), accept()})
	}
	if n.ICC {
		c.rules = append(c.rules, rule{iif(n.Bridge), accept()})
	}
	if !n.Internal {
		c.rules = append(c.rules, rule{ctTranslated(), accept()})
		for _, f := range families {
			c.rules = append(c.rules, direct(n, f)...)
		}
	}
	c.rules = append(c.rules, rule{drop()})
	return c
}

// direct lets packets pass that come for the containers' own addresses.
func direct(n *Network, f *family) []rule {
	fam := f.of(n)
	switch {
	case !fam.Subnet.IsValid():
		return nil
	case fam.Unprotected:
		return []rule{{nfproto(f), accept()}}
	case fam.Routed:
		return []rule{{nfproto(f), f.isOpen(), accept()}, {nfproto(f), l4proto(f.icmp), accept()}}
	}
	var rules []rule
	for _, l := range n.Trusted {
		rules = append(rules, rule{iif(l), nfproto(f), f.isOpen(), accept()})
	}
	return rules
}

// fromNetwork rewrites the source of packets that leave n, and of those that
// enter it in a way that the answer would not find back.
func fromNetwork(n *Network, f *family) []rule {
	fam := f.of(n)
	if !fam.Subnet.IsValid() {
		return nil
	}
	var rules []rule
	if fam.Masquerade && !n.Internal {
		hide := masquerade()
		if fam.Source.IsValid() {
			hide = f.snat(fam.Source)
		}
		rules = append(rules, rule{nfproto(f), f.saddr(fam.Subnet), oifNot(n.Bridge), hide})
	}
	rules = append(rules,
		// A container that uses a port published by its own network: the answer
		// would go straight back, from an address that nobody asked.
		rule{oif(n.Bridge), nfproto(f), f.saddr(fam.Subnet), ctTranslated(), masquerade()})
	if f == v4 {
		// The host itself, on 127.0.0.1.
		rules = append(rules, rule{oif(n.Bridge), nfproto(f), f.saddr(f.loopback), masquerade()})
	}
	return rules
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

// nfproto comes before every match on a header of the network layer: the family
// inet sees both.
func nfproto(f *family) stmt {
	text := map[*family]string{v4: "meta nfproto ipv4", v6: "meta nfproto ipv6"}[f]
	return match(text, &expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg1}, expr.CmpOpEq, []byte{f.version})
}

func l4proto(proto byte) stmt {
	text := map[byte]string{unix.IPPROTO_ICMP: "icmp", unix.IPPROTO_ICMPV6: "ipv6-icmp"}[proto]
	return match("meta l4proto "+text, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1}, expr.CmpOpEq, []byte{proto})
}

const offsetDport = 2 // in a TCP, UDP or SCTP header

func (f *family) saddr(p netip.Prefix) stmt { return f.prefix(" saddr ", f.offsetSrc, p) }
func (f *family) daddr(p netip.Prefix) stmt { return f.prefix(" daddr ", f.offsetDst, p) }

func (f *family) prefix(text string, offset uint32, p netip.Prefix) stmt {
	p = p.Masked()
	mask := make([]byte, f.length)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	shown := p.String()
	if p.IsSingleIP() {
		shown = p.Addr().String() // as nft(8) prints it
	}
	return stmt{f.ip + text + shown, []expr.Any{
		&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.length},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: f.length, Mask: mask, Xor: make([]byte, f.length)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: p.Addr().AsSlice()}}}
}

func daddrLocal() stmt {
	return match("fib daddr type local", &expr.Fib{Register: reg1, ResultADDRTYPE: true, FlagDADDR: true},
		expr.CmpOpEq, binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL))
}

func ctState() stmt {
	return ctBits("ct state established,related", expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
}

// marked matches packets whose bits in mask are those of mark.
func marked(mark, mask uint32) stmt {
	text := fmt.Sprintf("meta mark & 0x%08x == 0x%08x", mask, mark&mask)
	return stmt{text, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg1},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: binary.NativeEndian.AppendUint32(nil, mask), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: binary.NativeEndian.AppendUint32(nil, mark&mask)}}}
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

// destination loads, for a lookup, the address if withAddr, and the protocol and
// port that a packet is for.
func (f *family) destination(withAddr bool) (text string, loads []expr.Any) {
	reg := uint32(reg4)
	if withAddr {
		text = f.ip + " daddr . "
		loads = append(loads, &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: f.offsetDst, Len: f.length})
		reg += f.length / 4
	}
	return text + "meta l4proto . th dport", append(loads,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg},
		&expr.Payload{DestRegister: reg + 1, Base: expr.PayloadBaseTransportHeader, Offset: offsetDport, Len: 2})
}

// dnat translates the destination to what a map has for it, or does nothing.
func (f *family) dnat(set string, withAddr bool) stmt {
	text, loads := f.destination(withAddr)
	return stmt{fmt.Sprintf("dnat %s to %s map @%s", f.ip, text, set), append(loads,
		&expr.Lookup{SourceRegister: reg4, IsDestRegSet: true, DestRegister: reg4, SetName: set},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.version), RegAddrMin: reg4, RegProtoMin: reg4 + f.length/4})}
}

// isOpen matches packets for an open port.
func (f *family) isOpen() stmt {
	text, loads := f.destination(true)
	return stmt{text + " @" + f.open, append(loads, &expr.Lookup{SourceRegister: reg4, SetName: f.open})}
}

// snat makes addr the source.
func (f *family) snat(addr netip.Addr) stmt {
	return stmt{fmt.Sprintf("snat %s to %s", f.ip, addr), []expr.Any{
		&expr.Immediate{Register: reg1, Data: addr.AsSlice()},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: uint32(f.version), RegAddrMin: reg1}}}
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
		if c := a.HostIP.Compare(b.HostIP); c != 0 {
			return c
		}
		if c := a.Addr.Compare(b.Addr); c != 0 {
			return c
		}
		return int(a.Port) - int(b.Port)
	})
}

// setOf returns the name of the map or set that p is an element of.
func setOf(p Port) string {
	f := familyOf(p.Addr)
	switch {
	case p.open():
		return f.open
	case p.HostIP.IsUnspecified():
		return f.anyPorts
	}
	return f.ports
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
	var bridges, to []string
	for _, l := range rs.links {
		bridges = append(bridges, fmt.Sprintf("%q", l.bridge))
		to = append(to, fmt.Sprintf("%q : jump %s", l.bridge, l.chain))
	}
	elements := make(map[string][]string)
	for _, p := range rs.ports {
		name, f := setOf(p), familyOf(p.Addr)
		key := fmt.Sprintf("%s . %d : %s . %d", protoName(p.Proto), p.HostPort, p.Addr, p.Port)
		switch name {
		case f.open:
			key = fmt.Sprintf("%s . %s . %d", p.Addr, protoName(p.Proto), p.Port)
		case f.ports:
			key = p.HostIP.String() + " . " + key
		}
		elements[name] = append(elements[name], key)
	}
	named("set", setBridges, "ifname", bridges)
	for _, f := range families {
		named("map", f.ports, f.addrType+" . inet_proto . inet_service : "+f.addrType+" . inet_service", elements[f.ports])
		named("map", f.anyPorts, "inet_proto . inet_service : "+f.addrType+" . inet_service", elements[f.anyPorts])
		named("set", f.open, f.addrType+" . inet_proto . inet_service", elements[f.open])
	}
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
