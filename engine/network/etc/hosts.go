// Package etc generates a container's /etc/hosts and /etc/resolv.conf. Its
// functions map input to bytes; reading the host's files and writing the
// container's is the caller's business.
//
// Values that come from users are refused when they could start a new line or
// field (CVE-2022-4318 is what happens otherwise).
package etc

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
)

// Record is one line of /etc/hosts.
type Record struct {
	Addr  netip.Addr
	Names []string
}

// standard are the lines that every container's file begins with.
const standard = "127.0.0.1\tlocalhost\n" +
	"::1\tlocalhost ip6-localhost ip6-loopback\n" +
	"fe00::\tip6-localnet\n" +
	"ff00::\tip6-mcastprefix\n" +
	"ff02::1\tip6-allnodes\n" +
	"ff02::2\tip6-allrouters\n"

// Hosts returns the contents of /etc/hosts with records after the usual lines.
//
// Errors: InvalidArgument for a name that is empty or has white space, control
// characters or '#', and for an address that is not valid.
func Hosts(records []Record) ([]byte, error) {
	b := []byte(standard)
	for _, r := range records {
		if !r.Addr.IsValid() || r.Addr.Zone() != "" || len(r.Names) == 0 {
			return nil, fmt.Errorf("hosts record %q has no valid address or no name: %w", strings.Join(r.Names, " "), errdefs.ErrInvalidArgument)
		}
		b = append(b, r.Addr.String()...)
		for i, n := range r.Names {
			if err := word("host name", n); err != nil {
				return nil, err
			}
			b = append(b, "\t "[min(i, 1)])
			b = append(b, n...)
		}
		b = append(b, '\n')
	}
	return b, nil
}

// OwnNames returns the names that a container has for itself: the qualified one
// and the bare one.
func OwnNames(hostname, domain string) []string {
	if hostname == "" {
		return nil
	}
	name := hostname
	if domain != "" {
		name += "." + domain
	}
	if bare, _, qualified := strings.Cut(name, "."); qualified && bare != "" {
		return []string{name, bare}
	}
	return []string{name}
}

// ParseExtra splits "name:address" as the API carries it. The address may be of
// IPv6, with or without brackets; gateway is what "host-gateway" stands for.
//
// Errors: InvalidArgument.
func ParseExtra(s string, gateway []netip.Addr) ([]Record, error) {
	name, value, ok := strings.Cut(s, ":")
	if !ok || name == "" {
		return nil, fmt.Errorf("bad format for add-host: %q: %w", s, errdefs.ErrInvalidArgument)
	}
	if err := word("host name", name); err != nil {
		return nil, err
	}
	if value == "host-gateway" {
		if len(gateway) == 0 {
			return nil, fmt.Errorf("unable to derive the IP value for host-gateway: %w", errdefs.ErrFailedPrecondition)
		}
		var records []Record
		for _, a := range gateway {
			records = append(records, Record{a, []string{name}})
		}
		return records, nil
	}
	if len(value) > 2 && value[0] == '[' && value[len(value)-1] == ']' {
		value = value[1 : len(value)-1]
	}
	addr, err := netip.ParseAddr(value)
	if err != nil {
		return nil, fmt.Errorf("invalid IP address in add-host: %q: %w", value, errdefs.ErrInvalidArgument)
	}
	return []Record{{addr, []string{name}}}, nil
}

// maxWordBytes is that of a domain name with room to spare.
const maxWordBytes = 1024

// word checks that s is one field of one line. what names it in the error.
func word(what, s string) error {
	bad := s == "" || len(s) > maxWordBytes || s[0] == ';' || strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r == '#' || r == 0x7f || r >= 0x80 && r <= 0xa0 || r == '\u2028' || r == '\u2029' || r == '\ufffd'
	})
	if bad {
		return fmt.Errorf("%s %q is not valid: %w", what, s, errdefs.ErrInvalidArgument)
	}
	return nil
}
