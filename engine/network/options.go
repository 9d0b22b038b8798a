package network

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"strconv"
	"strings"
)

// Options of a bridge network, as users give and inspect shows them.
const (
	optPrefix        = "com.docker.network."
	optName          = "com.docker.network.bridge.name"
	optDefault       = "com.docker.network.bridge.default_bridge"
	optICC           = "com.docker.network.bridge.enable_icc"
	optMasquerade    = "com.docker.network.bridge.enable_ip_masquerade"
	optBindIP        = "com.docker.network.bridge.host_binding_ipv4"
	optGatewayMode4  = "com.docker.network.bridge.gateway_mode_ipv4"
	optMTU           = "com.docker.network.driver.mtu"
	optIfPrefix      = "com.docker.network.container_iface_prefix"
	optEnableIPv4    = "com.docker.network.enable_ipv4"
	optEnableIPv6    = "com.docker.network.enable_ipv6"
	optEndpointLink  = "com.docker.network.endpoint.ifname"
	defaultIfPrefix  = "eth"
	maxIfPrefixBytes = maxNameBytes - 3 // leaves room for a number
)

// options are a bridge network's options, parsed.
type options struct {
	name       string // of the link; "" means br-<ID>
	icc        bool
	masquerade bool
	bindIP     netip.Addr // zero means all addresses
	mtu        int        // bytes
	ifPrefix   string
}

// parseOptions reads the options of a bridge network. Names that are not
// Docker's are somebody else's and pass.
//
// Errors: InvalidArgument, NotImplemented.
func parseOptions(o map[string]string) (options, error) {
	opts := options{icc: true, masquerade: true, mtu: defaultMTU, ifPrefix: defaultIfPrefix}
	for key, value := range o {
		var err error
		switch key {
		case optName:
			opts.name = value
			if err := checkLinkName(value); err != nil {
				return opts, err
			}
		case optDefault:
			_, err = strconv.ParseBool(value)
		case optICC:
			opts.icc, err = strconv.ParseBool(value)
		case optMasquerade:
			opts.masquerade, err = strconv.ParseBool(value)
		case optBindIP:
			var ip netip.Addr
			if ip, err = netip.ParseAddr(value); err == nil && !ip.Is4() {
				return opts, invalid("invalid value %q for option %s: not an IPv4 address", value, key)
			}
			// Docker compatibility: 0.0.0.0 does not exclude IPv6 here.
			if ip.IsValid() && !ip.IsUnspecified() {
				opts.bindIP = ip
			}
		case optMTU:
			opts.mtu, err = strconv.Atoi(value)
			if err == nil && opts.mtu == 0 {
				opts.mtu = defaultMTU
			}
			if err == nil && (opts.mtu < 68 || opts.mtu > 65535) {
				return opts, invalid("invalid value %q for option %s: not between 68 and 65535", value, key)
			}
		case optIfPrefix:
			opts.ifPrefix = value
			if value == "" || len(value) > maxIfPrefixBytes || checkLinkName(value) != nil {
				return opts, invalid("invalid value %q for option %s", value, key)
			}
		case optGatewayMode4:
			if value != "nat" && value != "" {
				return opts, notImplemented("option %s: mode %q is not supported, only \"nat\" is", key, value)
			}
		case optEnableIPv4:
			on, perr := strconv.ParseBool(value)
			if err = perr; err == nil && !on {
				return opts, notImplemented("networks without IPv4 are not supported")
			}
		case optEnableIPv6:
			on, perr := strconv.ParseBool(value)
			if err = perr; err == nil && on {
				return opts, errIPv6
			}
		default:
			if strings.HasPrefix(key, optPrefix) {
				return opts, notImplemented("network option %s is not supported", key)
			}
		}
		if err != nil {
			return opts, invalid("invalid value %q for option %s", value, key)
		}
	}
	return opts, nil
}

var errIPv6 = notImplemented("IPv6 subnets are not supported yet: create the network without IPv6")

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
