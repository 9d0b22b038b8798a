package firewall

import (
	"context"
	"errors"
	"flag"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func TestGolden(t *testing.T) {
	nets := []Network{
		{Bridge: "docker0", V4: Family{Subnet: netip.MustParsePrefix("172.17.0.0/16"), Masquerade: true}, ICC: true},
		{Bridge: "br-quiet", V4: Family{Subnet: netip.MustParsePrefix("10.1.0.0/24"), Masquerade: true}},
		{Bridge: "br-dark", V4: Family{Subnet: netip.MustParsePrefix("10.2.0.0/24"), Masquerade: true}, ICC: true, Internal: true},
		{Bridge: "br-open", V4: Family{Subnet: netip.MustParsePrefix("10.3.0.0/24")}, ICC: true},
		{Bridge: "br-six", V6: Family{Subnet: netip.MustParsePrefix("fd00:1::/64"), Masquerade: true}, ICC: true},
		{Bridge: "br-both", V4: Family{Subnet: netip.MustParsePrefix("10.4.0.0/24"), Masquerade: true, Source: addr("192.0.2.9")},
			V6: Family{Subnet: netip.MustParsePrefix("2001:db8::/64"), Routed: true}, Trusted: []string{"wg0"}},
		{Bridge: "br-unprot", V4: Family{Subnet: netip.MustParsePrefix("10.5.0.0/24"), Masquerade: true, Unprotected: true}, ICC: true},
	}
	ports := []Port{
		{unix.IPPROTO_TCP, addr("0.0.0.0"), 8080, addr("172.17.0.2"), 80},
		{unix.IPPROTO_UDP, addr("0.0.0.0"), 53, addr("172.17.0.2"), 53},
		{unix.IPPROTO_TCP, addr("127.0.0.1"), 8081, addr("172.17.0.3"), 80},
		{unix.IPPROTO_SCTP, addr("192.0.2.1"), 9, addr("172.17.0.3"), 9},
		{unix.IPPROTO_TCP, addr("::"), 8080, addr("fd00:1::2"), 80},
		{unix.IPPROTO_TCP, addr("2001:db8:1::1"), 8081, addr("fd00:1::2"), 80},
		{unix.IPPROTO_TCP, netip.Addr{}, 0, addr("2001:db8::2"), 443},
		{unix.IPPROTO_UDP, netip.Addr{}, 0, addr("10.4.0.2"), 53},
	}
	for name, tc := range map[string]struct {
		p     Policy
		ports []Port
	}{
		"empty":   {},
		"default": {Policy{Networks: nets[:1]}, nil},
		"all":     {Policy{Networks: nets, DropForward4: true, DropForward6: true}, ports},
	} {
		t.Run(name, func(t *testing.T) {
			tb := newFake("lighter-docker0-0")
			if err := errors.Join(tb.Publish(context.Background(), tc.ports...), tb.Apply(context.Background(), tc.p)); err != nil {
				t.Fatal(err)
			}
			got, path := tb.String(), "testdata/"+name+".nft"
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil || got != string(want) {
				t.Errorf("ruleset =\n%s\nwant (%v)\n%s", got, err, want)
			}
		})
	}
}

// fake is a kernel that keeps what it is told.
type fake struct {
	text     string // of the last replace, "" for no table
	ports    map[portKey]Port
	replaced int
	fail     error
}

func newFake(name string) *Table {
	t := New(name)
	t.kernel = &fake{}
	return t
}

func (f *fake) replace(rs *ruleset) error {
	if f.fail != nil {
		return f.fail
	}
	f.replaced++
	f.ports = make(map[portKey]Port)
	for _, p := range rs.ports {
		f.ports[p.key()] = p
	}
	bare := *rs
	bare.ports = nil
	f.text = bare.String()
	return nil
}

func (f *fake) change(_ string, add, del []Port) error {
	if f.fail != nil {
		return f.fail
	}
	if f.text == "" {
		return unix.ENOENT
	}
	next := maps.Clone(f.ports)
	for _, p := range del {
		if next[p.key()] != p {
			return unix.ENOENT
		}
		delete(next, p.key())
	}
	for _, p := range add {
		if old, ok := next[p.key()]; ok && old != p {
			return unix.EEXIST
		}
		next[p.key()] = p
	}
	f.ports = next
	return nil
}

func (f *fake) remove(string) error            { f.text, f.ports = "", nil; return nil }
func (f *fake) close() error                   { return nil }
func (f *fake) foreignDrop() ([]string, error) { return nil, nil }
func (f *fake) inputChains() ([]string, error) { return nil, nil }
func (f *fake) ensureUserTable() error         { return nil }
func (f *fake) removeUserTable() error         { return nil }
func (f *fake) port() uint32                   { return 0 }

// Whatever happens, and whoever else meddles, after a change that succeeded the
// kernel has exactly the state.
func TestRandomWalk(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	ctx := context.Background()
	tb := newFake("t")
	k := tb.kernel.(*fake)
	model := map[portKey]Port{}
	policy := Policy{}
	randomPorts := func() []Port {
		var ps []Port
		for range rnd.IntN(3) {
			ps = append(ps, Port{unix.IPPROTO_TCP, addr([]string{"0.0.0.0", "127.0.0.1"}[rnd.IntN(2)]), uint16(rnd.IntN(5)),
				addr([]string{"10.0.0.2", "10.0.0.3"}[rnd.IntN(2)]), 80})
		}
		return ps
	}
	for step := range 20000 {
		changed := true
		switch rnd.IntN(7) {
		case 0, 1:
			ps := randomPorts()
			if err := tb.Publish(ctx, ps...); err != nil {
				t.Fatal(err)
			}
			for _, p := range ps {
				model[p.key()] = p
			}
			changed = len(ps) > 0 && k.text != ""
		case 2, 3:
			ps := randomPorts()
			if err := tb.Unpublish(ctx, ps...); err != nil {
				t.Fatal(err)
			}
			changed = false
			for _, p := range ps {
				if model[p.key()] == p {
					delete(model, p.key())
					changed = true
				}
			}
		case 4:
			policy.DropForward4 = rnd.IntN(2) == 0
			policy.Networks = nil
			for range rnd.IntN(3) {
				policy.Networks = append(policy.Networks, Network{Bridge: string(rune('a' + rnd.IntN(26))), V4: Family{Subnet: netip.MustParsePrefix("10.0.0.0/8")}, ICC: rnd.IntN(2) == 0})
			}
			if err := tb.Apply(ctx, policy); err != nil {
				t.Fatal(err)
			}
		case 5:
			k.remove("") // somebody flushed the ruleset
			if err := tb.Reapply(ctx); err != nil {
				t.Fatal(err)
			}
		case 6:
			k.fail = errors.New("no memory")
			ps := randomPorts()
			tb.Publish(ctx, ps...)
			for _, p := range ps {
				model[p.key()] = p
			}
			k.fail = nil
			if err := tb.Reapply(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if !changed && k.text == "" {
			continue
		}
		if !maps.Equal(k.ports, model) {
			t.Fatalf("step %d: kernel has %v, want %v", step, k.ports, model)
		}
		if want := compile("t", policy, nil).String(); k.text != "" && k.text != want {
			t.Fatalf("step %d: kernel has\n%s\nwant\n%s", step, k.text, want)
		}
	}
}

func TestFlushedTableIsRestored(t *testing.T) {
	ctx := context.Background()
	tb := newFake("t")
	k := tb.kernel.(*fake)
	a := Port{unix.IPPROTO_TCP, addr("0.0.0.0"), 1, addr("10.0.0.2"), 1}
	b := Port{unix.IPPROTO_TCP, addr("0.0.0.0"), 2, addr("10.0.0.2"), 2}
	if err := errors.Join(tb.Apply(ctx, Policy{}), tb.Publish(ctx, a)); err != nil || k.replaced != 1 {
		t.Fatalf("%v, replaced %d times, want 1", err, k.replaced)
	}
	k.remove("")
	if err := tb.Publish(ctx, b); err != nil || len(k.ports) != 2 {
		t.Errorf("after a flush: %v, ports %v", err, k.ports)
	}
	k.remove("")
	if err := tb.Unpublish(ctx, b); err != nil || len(k.ports) != 1 {
		t.Errorf("after a flush: %v, ports %v", err, k.ports)
	}
}
