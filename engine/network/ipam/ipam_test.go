package ipam

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }

func TestPoolBounds(t *testing.T) {
	for _, tc := range []struct {
		subnet, dynamic string
		first, last     string // what Take returns at the ends; "" means NewPool fails
		n               uint64
	}{
		{"172.17.0.0/16", "", "172.17.0.1", "172.17.255.254", 65534},
		{"172.17.5.9/16", "", "172.17.0.1", "172.17.255.254", 65534},
		{"10.0.0.0/24", "10.0.0.128/25", "10.0.0.128", "10.0.0.254", 127},
		{"10.0.0.0/24", "10.0.0.64/26", "10.0.0.64", "10.0.0.127", 64},
		{"10.0.0.0/30", "", "10.0.0.1", "10.0.0.2", 2},
		{"10.0.0.0/31", "", "10.0.0.0", "10.0.0.1", 2},
		{"10.0.0.0/32", "", "10.0.0.0", "10.0.0.0", 1},
		{"fd00::/120", "", "fd00::1", "fd00::ff", 255},
		{"255.255.255.0/24", "255.255.255.252/30", "255.255.255.252", "255.255.255.254", 3},
		{"10.0.0.0/24", "10.0.1.0/25", "", "", 0},
		{"10.0.0.0/24", "10.0.0.0/23", "", "", 0},
		{"10.0.0.0/24", "10.0.0.0/32", "", "", 0},
	} {
		var dynamic netip.Prefix
		if tc.dynamic != "" {
			dynamic = prefix(tc.dynamic)
		}
		p, err := NewPool(prefix(tc.subnet), dynamic)
		if tc.first == "" {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("NewPool(%s, %s) = %v, want InvalidArgument", tc.subnet, tc.dynamic, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("NewPool(%s, %s) = %v", tc.subnet, tc.dynamic, err)
		}
		if got := p.Available(); got != tc.n {
			t.Errorf("%s, %s: %d available, want %d", tc.subnet, tc.dynamic, got, tc.n)
		}
		var got []netip.Addr
		for {
			a, err := p.Take()
			if err != nil {
				if !errdefs.IsResourceExhausted(err) {
					t.Errorf("Take() = %v, want ResourceExhausted", err)
				}
				break
			}
			got = append(got, a)
		}
		if uint64(len(got)) != tc.n || got[0] != addr(tc.first) || got[len(got)-1] != addr(tc.last) {
			t.Errorf("%s, %s: took %d from %s to %s, want %d from %s to %s", tc.subnet, tc.dynamic, len(got), got[0], got[len(got)-1], tc.n, tc.first, tc.last)
		}
		if p.Available() != 0 {
			t.Errorf("%d available when exhausted", p.Available())
		}
	}
}

func TestPoolReserve(t *testing.T) {
	p, err := NewPool(prefix("10.0.0.0/24"), prefix("10.0.0.128/25"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		addr string
		want func(error) bool
	}{
		{"10.0.0.5", func(err error) bool { return err == nil }},
		{"10.0.0.5", errdefs.IsAlreadyExists},
		{"10.0.0.200", func(err error) bool { return err == nil }},
		{"10.0.0.0", errdefs.IsInvalidArgument},
		{"10.0.0.255", errdefs.IsInvalidArgument},
		{"10.0.1.1", errdefs.IsInvalidArgument},
		{"fd00::1", errdefs.IsInvalidArgument},
	} {
		if err := p.Reserve(addr(tc.addr)); !tc.want(err) {
			t.Errorf("Reserve(%s) = %v", tc.addr, err)
		}
	}
	if in, free := p.InUse(), p.Available(); in != 4 || free != 126 {
		t.Errorf("in use %d, available %d, want 4, 126", in, free)
	}
}

func TestLargePoolCounts(t *testing.T) {
	p, err := NewPool(prefix("fd00::/64"), netip.Prefix{})
	if err != nil {
		t.Fatal(err)
	}
	if a, err := p.Take(); err != nil || a != addr("fd00::1") {
		t.Errorf("Take() = %s, %v", a, err)
	}
	if got := p.Available(); got != ^uint64(0)-1 {
		t.Errorf("available = %d", got)
	}
	if p, _ = NewPool(prefix("fd00::/48"), netip.Prefix{}); p.Available() != ^uint64(0) {
		t.Errorf("available in a /48 = %d, want it saturated", p.Available())
	}
}

// A random walk against the obvious model: a set, searched from the bottom.
func TestPoolModel(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, shape := range [][2]string{{"10.0.0.0/27", ""}, {"10.0.0.0/26", "10.0.0.32/28"}, {"fd00::/123", ""}} {
		var dynamic netip.Prefix
		if shape[1] != "" {
			dynamic = prefix(shape[1])
		}
		p, err := NewPool(prefix(shape[0]), dynamic)
		if err != nil {
			t.Fatal(err)
		}
		model := map[netip.Addr]bool{}
		lowest := func() netip.Addr {
			for a := p.first; !p.last.Less(a); a = a.Next() {
				if !model[a] {
					return a
				}
			}
			return netip.Addr{}
		}
		random := func() netip.Addr {
			a := prefix(shape[0]).Addr()
			for range 1 + rnd.IntN(30) {
				a = a.Next()
			}
			return a
		}
		for step := range 20000 {
			switch rnd.IntN(5) {
			case 0, 1:
				want := lowest()
				got, err := p.Take()
				if got != want || (err == nil) != want.IsValid() {
					t.Fatalf("%v step %d: Take() = %s, %v, want %s", shape, step, got, err, want)
				}
				if want.IsValid() {
					model[want] = true
				}
			case 2:
				a := random()
				if err := p.Reserve(a); (err == nil) == model[a] {
					t.Fatalf("%v step %d: Reserve(%s) = %v, reserved before: %t", shape, step, a, err, model[a])
				}
				model[a] = true
			default:
				a := random()
				p.Release(a)
				delete(model, a)
			}
			free := uint64(0)
			for a := p.first; !p.last.Less(a); a = a.Next() {
				if !model[a] {
					free++
				}
			}
			if got := p.Available(); got != free {
				t.Fatalf("%v step %d: Available() = %d, want %d", shape, step, got, free)
			}
		}
	}
}

func TestChoose(t *testing.T) {
	var all []netip.Prefix
	for range 31 {
		p, err := Choose(DefaultBlocks(), all)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if all[0] != prefix("172.17.0.0/16") || all[14] != prefix("172.31.0.0/16") || all[15] != prefix("192.168.0.0/20") || all[30] != prefix("192.168.240.0/20") {
		t.Errorf("chosen: %v", all)
	}
	if p, err := Choose(DefaultBlocks(), all); err != ErrNoSubnet {
		t.Errorf("Choose() when full = %s, %v, want ErrNoSubnet", p, err)
	}
	for _, tc := range []struct{ taken, want string }{
		{"172.17.200.0/24", "172.18.0.0/16"},
		{"172.16.0.0/12", "192.168.0.0/20"},
		{"0.0.0.0/1", "172.17.0.0/16"},
	} {
		if got, err := Choose(DefaultBlocks(), []netip.Prefix{prefix(tc.taken)}); err != nil || got != prefix(tc.want) {
			t.Errorf("Choose(taken %s) = %s, %v, want %s", tc.taken, got, err, tc.want)
		}
	}
	// A block of very many subnets, all but the end taken by one large route.
	huge := []Block{{prefix("10.0.0.0/8"), 30}}
	if got, err := Choose(huge, []netip.Prefix{prefix("10.0.0.0/9"), prefix("10.128.0.0/10")}); err != nil || got != prefix("10.192.0.0/30") {
		t.Errorf("Choose(huge) = %s, %v", got, err)
	}
	if _, err := Choose([]Block{{prefix("255.255.255.0/24"), 25}}, []netip.Prefix{prefix("255.255.255.0/24")}); err != ErrNoSubnet {
		t.Errorf("Choose(at the end of the addresses) = %v, want ErrNoSubnet", err)
	}
}

func TestBlockValidate(t *testing.T) {
	for _, b := range []Block{{prefix("10.0.0.0/8"), 4}, {prefix("10.0.0.0/8"), 33}, {}} {
		if err := b.Validate(); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v.Validate() = %v, want InvalidArgument", b, err)
		}
	}
}
