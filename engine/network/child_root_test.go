package network

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
)

// onUplink makes a macvlan network of the link that the next host is on.
func onUplink(kv ...string) func(*network.CreateRequest) {
	return func(r *network.CreateRequest) {
		r.Driver, r.Options = "macvlan", map[string]string{"parent": "up0"}
		for i := 0; i < len(kv); i += 2 {
			r.Options[kv[i]] = kv[i+1]
		}
		r.IPAM = &network.IPAM{Config: []network.IPAMConfig{{
			Subnet: netip.MustParsePrefix("192.0.2.0/24"), IPRange: netip.MustParsePrefix("192.0.2.128/25"),
			Gateway: netip.MustParseAddr(nextHost)}}}
	}
}

func TestMacvlan(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	w.create("lan", onUplink())
	one, two := w.run("one", on(nil, "lan")), w.run("two", on(nil, "lan"))
	two.wants("tcp", one.ip()+":80", "one sees "+two.ip())
	w.client.wants("tcp", one.ip()+":80", "one sees "+nextHost)
	hostIsRefused(t, "tcp", one.ip()+":80") // that is macvlan
	if got := one.do("links"); !strings.Contains(got, "via="+nextHost) {
		t.Errorf("no default gateway: %s", got)
	}

	// A running container comes and goes.
	three := w.run("three", nil)
	settings := &network.EndpointSettings{IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr("192.0.2.200")}}
	if _, err := w.m.ConnectRunning(ctx, three.id, three.pid(), "lan", settings); err != nil {
		t.Fatal(err)
	}
	three.wants("tcp", one.ip()+":80", "one sees 192.0.2.200")
	if _, err := w.m.DisconnectRunning(ctx, three.id, three.pid(), "lan", false); err != nil {
		t.Fatal(err)
	}
	if got := three.do("links"); strings.Contains(got, "192.0.2.200") || !strings.Contains(got, "eth0") {
		t.Errorf("after the disconnection: %s", got)
	}

	// The link survives the daemon; what is missing is made again.
	w.close(true)
	w.open()
	if err := w.m.Restore(ctx, map[string]int{one.id: one.pid(), two.id: two.pid(), three.id: three.pid()}); err != nil {
		t.Fatal(err)
	}
	two.wants("tcp", one.ip()+":80", "one sees "+two.ip())

	w.release(one)
	w.release(two)
	if err := w.m.Remove(ctx, "lan"); err != nil {
		t.Fatal(err)
	}
	if ok, err := w.m.links.Exists("up0"); err != nil || !ok {
		t.Errorf("the parent is gone with the network: %v", err)
	}
}

func TestMacvlanModes(t *testing.T) {
	w := newWorld(t)
	w.create("apart", onUplink("macvlan_mode", "private"))
	one, two := w.run("one", on(nil, "apart")), w.run("two", on(nil, "apart"))
	two.isRefused("tcp", one.ip()+":80")
	w.client.wants("tcp", one.ip()+":80", "one sees "+nextHost)

	ctx := context.Background()
	for want, change := range map[string]func(r *network.CreateRequest){
		"is already using parent interface up0":  func(*network.CreateRequest) {},
		"bridge, passthru, private, vepa":        func(r *network.CreateRequest) { r.Options["macvlan_mode"] = "source" },
		"neither interface":                      func(r *network.CreateRequest) { r.Options["parent"] = "absent.10" },
		"is not between 1 and 4094, or the like": func(r *network.CreateRequest) { r.Options["parent"] = "up0.5000" },
		"does not exist":                         func(r *network.CreateRequest) { r.Options["parent"] = "absent" },
		"did you mean":                           func(r *network.CreateRequest) { r.Options["macvlan_mod"] = "bridge" },
		"loopback interface":                     func(r *network.CreateRequest) { r.Options["parent"] = "lo" },
		"leave out option parent":                func(r *network.CreateRequest) { r.Internal = true },
	} {
		req := network.CreateRequest{Name: "bad"}
		onUplink()(&req)
		req.IPAM = nil
		change(&req)
		_, err := w.m.Create(ctx, req)
		want, _, _ = strings.Cut(want, ", or")
		if err == nil || !strings.Contains(err.Error(), want) || !errdefs.IsInvalidArgument(err) && !errdefs.IsPermissionDenied(err) {
			t.Errorf("%v: %v, want %q", req.Options, err, want)
		}
	}
	if list, err := w.m.List(ctx, nil); err != nil || len(list) != 4 {
		t.Errorf("%d networks, %v: something is half-made", len(list), err)
	}
}

// A network of a driver that the kernel lacks is refused when it is made.
func TestKernelWithoutDriver(t *testing.T) {
	w := newWorld(t)
	for driver, options := range map[string]map[string]string{
		"ipvlan":  {"parent": "up0", "ipvlan_mode": "l3"},
		"macvlan": {"parent": "up0.10"},
	} {
		kind := driver
		if driver == "macvlan" {
			kind = "VLAN"
		}
		_, err := w.m.Create(context.Background(), network.CreateRequest{Name: "n", Driver: driver, Options: options})
		if err == nil {
			t.Logf("this kernel has %s links", kind)
			if err := w.m.Remove(context.Background(), "n"); err != nil {
				t.Error(err)
			}
		} else if !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "this kernel has no "+kind+" links") {
			t.Errorf("%s: %v", driver, err)
		}
		if _, err := w.m.Inspect(context.Background(), "n"); !errdefs.IsNotFound(err) {
			t.Errorf("%s: the network is half-made: %v", driver, err)
		}
	}
}

func TestIpvlanOptions(t *testing.T) {
	o, err := parseOptions("ipvlan", map[string]string{"parent": "eth0.7", "ipvlan_mode": "l3s", "ipvlan_flag": "private", optMTU: "1400"})
	if err != nil || o.parent != "eth0.7" || o.childMode != ipvlanModes["l3s"] || o.childFlag != ipvlanFlags["private"] || o.mtu != 1400 {
		t.Errorf("%+v, %v", o, err)
	}
	n := &netw{opts: o}
	if tr := (childDriver{kind: "ipvlan"}).traits(n); !tr.onLink || tr.ownMAC || tr.hostLink {
		t.Errorf("traits of l3s: %+v", tr)
	}
	for _, bad := range []map[string]string{{"ipvlan_mode": "l4"}, {"ipvlan_flag": ""}, {"macvlan_mode": "bridge"}, {optICC: "false"}} {
		if _, err := parseOptions("ipvlan", bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v", bad, err)
		}
	}
	if parent, id, err := vlanOf("eth0.100"); parent != "eth0" || id != 100 || err != nil {
		t.Errorf("eth0.100 is %s, %d, %v", parent, id, err)
	}
	for _, bad := range []string{"eth0", ".1", "eth0.0", "eth0.4095", "eth0.x"} {
		if _, _, err := vlanOf(bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
