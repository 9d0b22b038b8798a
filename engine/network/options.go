package network

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Options of a bridge network, as users give and inspect shows them.
const (
	optPrefix       = "com.docker.network."
	optName         = "com.docker.network.bridge.name"
	optDefault      = "com.docker.network.bridge.default_bridge"
	optICC          = "com.docker.network.bridge.enable_icc"
	optMasquerade   = "com.docker.network.bridge.enable_ip_masquerade"
	optBindIP       = "com.docker.network.bridge.host_binding_ipv4"
	optInhibit4     = "com.docker.network.bridge.inhibit_ipv4"
	optGatewayMode4 = "com.docker.network.bridge.gateway_mode_ipv4"
	optGatewayMode6 = "com.docker.network.bridge.gateway_mode_ipv6"
	optTrusted      = "com.docker.network.bridge.trusted_host_interfaces"
	optHost4        = "com.docker.network.host_ipv4"
	optHost6        = "com.docker.network.host_ipv6"
	optMTU          = "com.docker.network.driver.mtu"
	optIfPrefix     = "com.docker.network.container_iface_prefix"
	optEnableIPv4   = "com.docker.network.enable_ipv4"
	optEnableIPv6   = "com.docker.network.enable_ipv6"

	// Options of an endpoint.
	optEndpointLink    = "com.docker.network.endpoint.ifname"
	optEndpointSysctls = "com.docker.network.endpoint.sysctls"

	defaultIfPrefix  = "eth"
	maxIfPrefixBytes = maxNameBytes - 3 // leaves room for a number
)

// gatewayMode is what a network's gateway does for one address family.
type gatewayMode string

const (
	modeNAT         gatewayMode = "nat"             // translated, published ports only
	modeUnprotected gatewayMode = "nat-unprotected" // translated, and every port reachable directly
	modeRouted      gatewayMode = "routed"          // not translated, published ports reachable directly
	modeIsolated    gatewayMode = "isolated"        // the host has no address on the network
)

// options are a bridge network's options, parsed.
type options struct {
	name         string // of the link; "" means br-<ID>
	icc          bool
	masquerade   bool
	inhibit4     bool       // the bridge gets no IPv4 address
	bindIP       netip.Addr // zero means all addresses
	host4, host6 netip.Addr // source of translated connections; zero means the kernel's choice
	mode4, mode6 gatewayMode
	trusted      []string // links
	mtu          int      // bytes
	ifPrefix     string
	mtuGiven     bool
	// Those of macvlan and ipvlan networks.
	parent    string // link of the host
	childMode uint32 // of the kernel's
	childFlag uint16
	// enable4 and enable6 are nil when they are not given.
	enable4, enable6 *bool
}

// bridgeOptions parse one option each into the options.
var bridgeOptions = map[string]func(o *options, value string) error{
	optName:    func(o *options, v string) error { o.name = v; return checkLinkName(v) },
	optDefault: func(_ *options, v string) error { _, err := strconv.ParseBool(v); return err },
	optICC:     boolOption(func(o *options) *bool { return &o.icc }),
	optMasquerade: boolOption(func(o *options) *bool {
		return &o.masquerade
	}),
	optInhibit4: boolOption(func(o *options) *bool { return &o.inhibit4 }),
	optBindIP: func(o *options, v string) error {
		ip, err := addrOption(v, netip.Addr.Is4, "IPv4")
		// Docker compatibility: 0.0.0.0 does not exclude IPv6 here.
		if err == nil && !ip.IsUnspecified() {
			o.bindIP = ip
		}
		return err
	},
	optHost4: func(o *options, v string) (err error) {
		o.host4, err = addrOption(v, netip.Addr.Is4, "IPv4")
		return err
	},
	optHost6: func(o *options, v string) (err error) {
		o.host6, err = addrOption(v, netip.Addr.Is6, "IPv6")
		return err
	},
	optGatewayMode4: func(o *options, v string) (err error) { o.mode4, err = parseMode(v); return err },
	optGatewayMode6: func(o *options, v string) (err error) { o.mode6, err = parseMode(v); return err },
	optTrusted: func(o *options, v string) error {
		for name := range strings.SplitSeq(v, ":") {
			if err := checkLinkName(name); err != nil {
				return err
			}
			o.trusted = append(o.trusted, name)
		}
		return nil
	},
}

// commonOptions are those that all networks with links have.
var commonOptions = map[string]func(o *options, value string) error{
	optMTU: func(o *options, v string) (err error) {
		o.mtuGiven = true
		if o.mtu, err = strconv.Atoi(v); err == nil && o.mtu == 0 {
			o.mtu = defaultMTU
		}
		if err == nil && (o.mtu < 68 || o.mtu > 65535) {
			return invalid("not between 68 and 65535")
		}
		return err
	},
	optIfPrefix: func(o *options, v string) error {
		o.ifPrefix = v
		if v == "" || len(v) > maxIfPrefixBytes {
			return invalid("not between 1 and %d bytes", maxIfPrefixBytes)
		}
		return checkLinkName(v)
	},
	optEnableIPv4: func(o *options, v string) error {
		on, err := strconv.ParseBool(v)
		o.enable4 = &on
		return err
	},
	optEnableIPv6: func(o *options, v string) error {
		on, err := strconv.ParseBool(v)
		o.enable6 = &on
		return err
	},
}

func boolOption(field func(*options) *bool) func(*options, string) error {
	return func(o *options, v string) (err error) {
		*field(o), err = strconv.ParseBool(v)
		return err
	}
}

func addrOption(v string, ok func(netip.Addr) bool, family string) (netip.Addr, error) {
	ip, err := netip.ParseAddr(v)
	if err == nil && (!ok(ip) || ip.Zone() != "") {
		return ip, invalid("not an %s address", family)
	}
	return ip, err
}

func parseMode(v string) (gatewayMode, error) {
	switch mode := gatewayMode(v); mode {
	case "":
		return modeNAT, nil
	case modeNAT, modeUnprotected, modeRouted, modeIsolated:
		return mode, nil
	}
	return "", invalid("unknown gateway mode %s: it is nat, nat-unprotected, routed or isolated", v)
}

// knownOptions returns the options of a driver and how they are read.
func knownOptions(driver string) map[string]func(*options, string) error {
	known := maps.Clone(commonOptions)
	switch driver {
	case "bridge":
		maps.Copy(known, bridgeOptions)
	case driverMacvlan:
		maps.Copy(known, macvlanOptions)
	case driverIpvlan:
		maps.Copy(known, ipvlanOptions)
	}
	return known
}

// parseOptions reads the options of a network of the driver.
//
// Errors: InvalidArgument, for an unknown option with the nearest known one.
func parseOptions(driver string, o map[string]string) (options, error) {
	opts := options{icc: true, masquerade: true, mode4: modeNAT, mode6: modeNAT, mtu: defaultMTU, ifPrefix: defaultIfPrefix}
	switch driver {
	case driverMacvlan:
		opts.childMode = macvlanModes["bridge"]
	case driverIpvlan:
		opts.childMode = ipvlanModes["l2"]
	}
	known := knownOptions(driver)
	for _, key := range slices.Sorted(maps.Keys(o)) {
		parse, ok := known[key]
		if !ok {
			return opts, unknownOption("network", key, slices.Sorted(maps.Keys(known)))
		}
		if err := parse(&opts, o[key]); err != nil {
			return opts, invalid("invalid value %q for option %s: %v", o[key], key, err)
		}
	}
	return opts, nil
}

// checkFamilies refuses options that contradict the kind of network.
func (o *options) checkFamilies(internal bool) error {
	for key, mode := range map[string]gatewayMode{optGatewayMode4: o.mode4, optGatewayMode6: o.mode6} {
		if mode == modeIsolated && !internal {
			return invalid("gateway mode 'isolated' can only be used for an internal network: option %s", key)
		}
	}
	return nil
}

// unknownOption says which of known the user may have meant. kind is what the
// option was for.
func unknownOption(kind, key string, known []string) error {
	best, least := "", len(key)
	for _, k := range known {
		if d := distance(key, k); d < least {
			best, least = k, d
		}
		// The name without its prefix is what many try first.
		if strings.HasSuffix(k, "."+key) {
			best, least = k, 0
		}
	}
	if len(known) == 0 {
		return invalid("unknown %s option %q: there are none", kind, key)
	}
	if best == "" {
		return invalid("unknown %s option %q: known are %s", kind, key, strings.Join(known, ", "))
	}
	return invalid("unknown %s option %q: did you mean %q?", kind, key, best)
}

// distance is the number of bytes to insert, delete or replace to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// checkLinkName reports whether the kernel takes s as the name of a link.
func checkLinkName(s string) error {
	bad := s == "" || s == "." || s == ".." || len(s) > maxNameBytes || strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || r == '/' || r == ':' || r == '%' || r == '"'
	})
	if bad {
		return invalid("invalid network interface name %q", s)
	}
	return nil
}

// defaultBridgeOptions are the options that inspect shows for the default bridge.
func defaultBridgeOptions(c Config) map[string]string {
	bind := "0.0.0.0"
	if c.DefaultBindIP.Is4() {
		bind = c.DefaultBindIP.String()
	}
	return map[string]string{
		optDefault:    "true",
		optICC:        strconv.FormatBool(c.ICC),
		optMasquerade: strconv.FormatBool(c.IPMasq),
		optBindIP:     bind,
		optName:       c.Bridge,
		optMTU:        strconv.Itoa(c.MTU),
	}
}

// equalRecords compares two records as they are stored.
func equalRecords(a, b *networkRecord) bool {
	x, errX := json.Marshal(a)
	b.Version = a.Version
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}
