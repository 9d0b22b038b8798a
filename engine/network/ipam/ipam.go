// Package ipam hands out IP addresses of one subnet and subnets of larger
// blocks. It is pure bookkeeping: no I/O, no locks, no knowledge of networks.
package ipam

import (
	"errors"
	"fmt"
	"math"
	"net/netip"

	"github.com/containerd/errdefs"
)

// Docker's texts.
var (
	errInUse      = &poolError{"Address already in use", errdefs.ErrAlreadyExists}
	errExhausted  = &poolError{"no available addresses on this pool", errdefs.ErrResourceExhausted}
	errOutOfRange = &poolError{"requested address is out of range", errdefs.ErrInvalidArgument}
)

// poolError is an exact text with a class.
type poolError struct {
	text  string
	class error
}

func (e *poolError) Error() string { return e.text }
func (e *poolError) Unwrap() error { return e.class }

// Pool is the set of addresses of one subnet. Addresses are handed out lowest
// first, so that a container started after another one stopped has its address,
// as with Docker. The zero value is not usable; it belongs to one goroutine at
// a time.
type Pool struct {
	subnet      netip.Prefix
	first, last netip.Addr // of the dynamic range, inclusive
	used        map[netip.Addr]struct{}
	low         netip.Addr // no address of the range below it is free
}

// NewPool returns the pool of subnet that hands out addresses within dynamic;
// the zero Prefix means all of subnet. The network's own and, for IPv4, the
// broadcast address are never handed out.
//
// Errors: InvalidArgument if dynamic is not within subnet or no address is left.
func NewPool(subnet, dynamic netip.Prefix) (*Pool, error) {
	if !subnet.IsValid() {
		return nil, fmt.Errorf("subnet is not set: %w", errdefs.ErrInvalidArgument)
	}
	subnet = subnet.Masked()
	if !dynamic.IsValid() {
		dynamic = subnet
	}
	dynamic = dynamic.Masked()
	if dynamic.Bits() < subnet.Bits() || !subnet.Contains(dynamic.Addr()) {
		return nil, fmt.Errorf("address range %s is not within subnet %s: %w", dynamic, subnet, errdefs.ErrInvalidArgument)
	}
	p := &Pool{subnet: subnet, first: dynamic.Addr(), last: lastAddr(dynamic), used: make(map[netip.Addr]struct{})}
	// RFC 3021: both addresses of a /31 (and the one of a /32) are hosts.
	if hostBits := subnet.Addr().BitLen() - subnet.Bits(); hostBits > 1 {
		if p.first == subnet.Addr() {
			p.first = p.first.Next()
		}
		if subnet.Addr().Is4() && p.last == lastAddr(subnet) {
			p.last = p.last.Prev()
		}
	}
	if p.last.Less(p.first) {
		return nil, fmt.Errorf("address range %s has no usable address: %w", dynamic, errdefs.ErrInvalidArgument)
	}
	p.low = p.first
	return p, nil
}

// Subnet returns the subnet, masked.
func (p *Pool) Subnet() netip.Prefix { return p.subnet }

// Take reserves and returns the lowest free address of the dynamic range.
//
// Errors: ResourceExhausted.
func (p *Pool) Take() (netip.Addr, error) {
	for a := p.low; a.IsValid() && !p.last.Less(a); a = a.Next() {
		if _, ok := p.used[a]; !ok {
			p.used[a] = struct{}{}
			p.low = a.Next()
			if !p.low.IsValid() {
				p.low = a
			}
			return a, nil
		}
	}
	return netip.Addr{}, errExhausted
}

// Reserve reserves addr, which may be any address of the subnet.
//
// Errors: InvalidArgument if it is none of the subnet or the network's or
// broadcast address; AlreadyExists if it is reserved.
func (p *Pool) Reserve(addr netip.Addr) error {
	if !p.subnet.Contains(addr) {
		return errOutOfRange
	}
	if hostBits := addr.BitLen() - p.subnet.Bits(); hostBits > 1 {
		if addr == p.subnet.Addr() || addr.Is4() && addr == lastAddr(p.subnet) {
			return errOutOfRange
		}
	}
	if _, ok := p.used[addr]; ok {
		return errInUse
	}
	p.used[addr] = struct{}{}
	return nil
}

// Release frees addr. Releasing what is free does nothing.
func (p *Pool) Release(addr netip.Addr) {
	if _, ok := p.used[addr]; !ok {
		return
	}
	delete(p.used, addr)
	if addr.Less(p.low) && !addr.Less(p.first) {
		p.low = addr
	}
}

// InUse reports how many addresses are reserved, counting the network's and
// broadcast address, saturating at 2^64-1.
func (p *Pool) InUse() uint64 {
	n := uint64(len(p.used))
	if hostBits := p.subnet.Addr().BitLen() - p.subnet.Bits(); hostBits > 1 {
		n++
		if p.subnet.Addr().Is4() {
			n++
		}
	}
	return n
}

// Available reports how many addresses Take can return, saturating at 2^64-1.
func (p *Pool) Available() uint64 {
	n := distance(p.first, p.last)
	for a := range p.used {
		if !a.Less(p.first) && !p.last.Less(a) {
			n--
		}
	}
	return n
}

// distance is the number of addresses from first to last, both included.
func distance(first, last netip.Addr) uint64 {
	a, b := first.As16(), last.As16()
	for i := range 8 {
		if a[i] != b[i] {
			return math.MaxUint64
		}
	}
	var lo, hi uint64
	for i := 8; i < 16; i++ {
		lo = lo<<8 | uint64(a[i])
		hi = hi<<8 | uint64(b[i])
	}
	if hi-lo == math.MaxUint64 {
		return math.MaxUint64
	}
	return hi - lo + 1
}

// lastAddr is the highest address of p.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// Block is a range of addresses that subnets are cut from.
type Block struct {
	Base netip.Prefix
	Bits int // prefix length of the subnets
}

// DefaultBlocks returns Docker's: 172.17.0.0/16 to 172.31.0.0/16 whole, then
// 192.168.0.0/16 in /20s.
func DefaultBlocks() []Block {
	var blocks []Block
	for i := 17; i <= 31; i++ {
		blocks = append(blocks, Block{netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(i)}), 16), 16})
	}
	return append(blocks, Block{netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168}), 16), 20})
}

// Validate reports whether subnets can be cut from b.
func (b Block) Validate() error {
	if !b.Base.IsValid() || b.Bits < b.Base.Bits() || b.Bits > b.Base.Addr().BitLen() {
		return fmt.Errorf("address pool %s cannot be cut into /%d subnets: %w", b.Base, b.Bits, errdefs.ErrInvalidArgument)
	}
	return nil
}

// ErrNoSubnet is returned by Choose when every subnet overlaps one in use.
var ErrNoSubnet = errors.New("all predefined address pools have been fully subnetted")

// Choose returns the first subnet of blocks that overlaps none of taken.
//
// Errors: ErrNoSubnet. The cost is the number of subnets times that of taken.
func Choose(blocks []Block, taken []netip.Prefix) (netip.Prefix, error) {
	for _, b := range blocks {
		for sub := netip.PrefixFrom(b.Base.Masked().Addr(), b.Bits); sub.IsValid() && b.Base.Contains(sub.Addr()); {
			hit := overlapping(sub, taken)
			if !hit.IsValid() {
				return sub, nil
			}
			// Go on behind the larger of the two.
			if hit.Bits() > sub.Bits() {
				hit = sub
			}
			next := lastAddr(hit).Next()
			if !next.IsValid() {
				break
			}
			sub = netip.PrefixFrom(next, b.Bits).Masked()
		}
	}
	return netip.Prefix{}, ErrNoSubnet
}

// overlapping returns a member of taken that shares an address with p.
func overlapping(p netip.Prefix, taken []netip.Prefix) netip.Prefix {
	for _, t := range taken {
		if t.Overlaps(p) {
			return t
		}
	}
	return netip.Prefix{}
}
