package network

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
)

// openBare opens a Manager that changes nothing in the kernel.
func openBare(t *testing.T, dir string) *Manager {
	t.Helper()
	cfg := DefaultConfig(dir)
	cfg.Bridge, cfg.Firewall, cfg.IPForward = "none", false, false
	m, err := Open(context.Background(), cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close(context.Background(), false) })
	return m
}

func TestPredefinedNetworks(t *testing.T) {
	ctx := context.Background()
	dir := filepath.Join(t.TempDir(), "network")
	m := openBare(t, dir)
	list, err := m.List(ctx, nil)
	if err != nil || len(list) != 2 || list[0].Name != "host" || list[0].Driver != "host" || list[1].Name != "none" || list[1].Driver != "null" {
		t.Fatalf("List() = %+v, %v", list, err)
	}
	for _, ref := range []string{list[0].ID, "host", list[0].ID[:12]} {
		if n, err := m.Inspect(ctx, ref); err != nil || n.ID != list[0].ID || n.Scope != "local" || n.Containers == nil {
			t.Errorf("Inspect(%q) = %+v, %v", ref, n, err)
		}
	}
	if _, err := m.Inspect(ctx, "foo"); !errdefs.IsNotFound(err) || err.Error() != "network foo not found" {
		t.Errorf("Inspect(foo) = %v", err)
	}
	if err := m.Remove(ctx, "host"); !errdefs.IsPermissionDenied(err) || err.Error() != "host is a pre-defined network and cannot be removed" {
		t.Errorf("Remove(host) = %v", err)
	}
	m.Close(ctx, false)
	again, err := openBare(t, dir).List(ctx, nil)
	if err != nil || again[0].ID != list[0].ID || !again[1].Created.Equal(list[1].Created) {
		t.Errorf("after a restart: %+v, %v, want %+v", again, err, list)
	}
}

func TestCreateRefuses(t *testing.T) {
	m := openBare(t, filepath.Join(t.TempDir(), "network"))
	yes, no := true, false
	conf := func(c ...network.IPAMConfig) *network.IPAM { return &network.IPAM{Config: c} }
	sub := func(s string) netip.Prefix { return netip.MustParsePrefix(s) }
	for _, tc := range []struct {
		req   network.CreateRequest
		class func(error) bool
		text  string
	}{
		{network.CreateRequest{Name: "bridge"}, errdefs.IsPermissionDenied, "operation is not permitted on predefined bridge network "},
		{network.CreateRequest{Name: " "}, errdefs.IsInvalidArgument, "invalid name: name is empty"},
		{network.CreateRequest{Name: "a/b"}, errdefs.IsInvalidArgument, "invalid name"},
		{network.CreateRequest{Name: "n", Driver: "host"}, errdefs.IsPermissionDenied, `only one instance of "host" network is allowed`},
		{network.CreateRequest{Name: "n", Driver: "overlay"}, errdefs.IsPermissionDenied, "This node is not a swarm manager."},
		{network.CreateRequest{Name: "n", Driver: "macvlan", Options: map[string]string{"parent": "absent"}}, errdefs.IsInvalidArgument, "does not exist"},
		{network.CreateRequest{Name: "n", Driver: "../x"}, errdefs.IsNotFound, "plugin not found"},
		{network.CreateRequest{Name: "n", EnableIPv4: &no}, errdefs.IsInvalidArgument, "IPv4 or IPv6 must be enabled"},
		{network.CreateRequest{Name: "n", Ingress: true}, errdefs.IsPermissionDenied, "swarm"},
		{network.CreateRequest{Name: "n", ConfigOnly: true, Internal: true}, errdefs.IsPermissionDenied, "configuration network can only contain"},
		{network.CreateRequest{Name: "n", ConfigFrom: &network.ConfigReference{Network: "x"}}, errdefs.IsNotFound, "network x not found"},
		{network.CreateRequest{Name: "n", ConfigFrom: &network.ConfigReference{Network: "host"}}, errdefs.IsPermissionDenied, "host is not a configuration network"},
		{network.CreateRequest{Name: "n", ConfigFrom: &network.ConfigReference{Network: "host"}, EnableIPv6: &yes}, errdefs.IsPermissionDenied, "user specified configurations are not supported"},
		{network.CreateRequest{Name: "n", Scope: "swarm"}, errdefs.IsNotImplemented, "scope"},
		{network.CreateRequest{Name: "n", IPAM: &network.IPAM{Driver: "x"}}, errdefs.IsNotFound, "plugin x"},
		{network.CreateRequest{Name: "n", IPAM: conf(network.IPAMConfig{Subnet: sub("10.0.0.5/24")})}, errdefs.IsInvalidArgument, "invalid subnet 10.0.0.5/24: it should be 10.0.0.0/24"},
		{network.CreateRequest{Name: "n", IPAM: conf(network.IPAMConfig{Subnet: sub("10.0.0.0/31")})}, errdefs.IsInvalidArgument, "no room"},
		{network.CreateRequest{Name: "n", IPAM: conf(network.IPAMConfig{Subnet: sub("fd00::/127")})}, errdefs.IsInvalidArgument, "no room"},
		{network.CreateRequest{Name: "n", IPAM: conf(network.IPAMConfig{Subnet: sub("fd00::/64"), IPRange: sub("10.0.0.0/24")})}, errdefs.IsInvalidArgument, "invalid ip-range"},
		{network.CreateRequest{Name: "n", IPAM: conf(network.IPAMConfig{Gateway: netip.MustParseAddr("10.0.0.1")})}, errdefs.IsInvalidArgument, "needs one"},
		{network.CreateRequest{Name: "n", IPAM: conf(network.IPAMConfig{Subnet: sub("10.0.0.0/24"), Gateway: netip.MustParseAddr("10.0.1.1")})}, errdefs.IsInvalidArgument, "invalid gateway 10.0.1.1: parent subnet is 10.0.0.0/24"},
		{network.CreateRequest{Name: "n", IPAM: conf(network.IPAMConfig{Subnet: sub("10.0.0.0/24"), IPRange: sub("10.0.1.0/25")})}, errdefs.IsInvalidArgument, "invalid ip-range"},
		{network.CreateRequest{Name: "n", IPAM: conf(network.IPAMConfig{Subnet: sub("10.0.0.0/24"), AuxAddress: map[string]netip.Addr{"x": netip.MustParseAddr("1.2.3.4")}})}, errdefs.IsInvalidArgument, "invalid auxiliary address"},
		{network.CreateRequest{Name: "n", IPAM: conf(network.IPAMConfig{Subnet: sub("10.0.0.0/24")}, network.IPAMConfig{Subnet: sub("10.1.0.0/24")})}, errdefs.IsPermissionDenied, "bridge driver doesn't support multiple subnets"},
		{network.CreateRequest{Name: "n", Options: map[string]string{optICC: "maybe"}}, errdefs.IsInvalidArgument, "invalid value"},
		{network.CreateRequest{Name: "n", Options: map[string]string{optMTU: "12"}}, errdefs.IsInvalidArgument, "between"},
		{network.CreateRequest{Name: "n", Options: map[string]string{optName: "this-name-is-too-long"}}, errdefs.IsInvalidArgument, "interface name"},
		{network.CreateRequest{Name: "n", Options: map[string]string{optName: "lo"}}, errdefs.IsConflict, "exists already"},
		{network.CreateRequest{Name: "n", Options: map[string]string{optGatewayMode4: "rooted"}}, errdefs.IsInvalidArgument, "unknown gateway mode rooted"},
		{network.CreateRequest{Name: "n", Options: map[string]string{optGatewayMode4: "isolated"}}, errdefs.IsInvalidArgument, "gateway mode 'isolated' can only be used for an internal network"},
		{network.CreateRequest{Name: "n", Options: map[string]string{"com.docker.network.bridge.enable_ic": "1"}}, errdefs.IsInvalidArgument, `did you mean "com.docker.network.bridge.enable_icc"?`},
		{network.CreateRequest{Name: "n", Options: map[string]string{"enable_icc": "1"}}, errdefs.IsInvalidArgument, `did you mean "com.docker.network.bridge.enable_icc"?`},
		{network.CreateRequest{Name: "n", IPAM: &network.IPAM{Options: map[string]string{"x": "1"}}}, errdefs.IsInvalidArgument, "unknown IPAM option"},
		{network.CreateRequest{Name: "n", Options: map[string]string{optPrefix + "bridge.unheard_of": "1"}}, errdefs.IsInvalidArgument, "unheard_of"},
	} {
		_, err := m.Create(context.Background(), tc.req)
		if !tc.class(err) || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("Create(%+v) = %v, want %q", tc.req, err, tc.text)
		}
	}
	if list, _ := m.List(context.Background(), nil); len(list) != 2 {
		t.Errorf("%d networks after refusals", len(list))
	}
}

func TestAllocateRefuses(t *testing.T) {
	ctx := context.Background()
	m := openBare(t, filepath.Join(t.TempDir(), "network"))
	for name, tc := range map[string]struct {
		req   Request
		class func(error) bool
		text  string
	}{
		"no ID":         {Request{}, errdefs.IsInvalidArgument, "empty"},
		"unknown":       {Request{ContainerID: "c", Mode: "foo"}, errdefs.IsNotFound, "network foo not found"},
		"host and none": {Request{ContainerID: "c", Mode: "host", Endpoints: map[string]*network.EndpointSettings{"none": nil}}, errdefs.IsInvalidArgument, ""},
		"shared":        {Request{ContainerID: "c", Mode: "container:x", Endpoints: map[string]*network.EndpointSettings{"none": nil}}, errdefs.IsInvalidArgument, "sharing network namespace"},
		"address":       {Request{ContainerID: "c", Mode: "none", Endpoints: map[string]*network.EndpointSettings{"none": {IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr("1.2.3.4")}}}}, errdefs.IsInvalidArgument, "user defined networks only"},
		"alias":         {Request{ContainerID: "c", Mode: "none", Endpoints: map[string]*network.EndpointSettings{"none": {Aliases: []string{"x"}}}}, errdefs.IsInvalidArgument, "alias"},
		"bad host":      {Request{ContainerID: "c", Mode: "none", ExtraHosts: []string{"a b:1.2.3.4"}}, errdefs.IsInvalidArgument, "host name"},
		"bad search":    {Request{ContainerID: "c", Mode: "none", DNSSearch: []string{"x\ny"}}, errdefs.IsInvalidArgument, "search"},
	} {
		if a, err := m.Allocate(ctx, tc.req); !tc.class(err) || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: Allocate() = %+v, %v, want %q", name, a, err, tc.text)
		}
	}
	if len(m.sandboxes) != 0 {
		t.Errorf("sandboxes after refusals: %v", m.sandboxes)
	}
	// Without a default network the default mode is none.
	a, err := m.Allocate(ctx, Request{ContainerID: "c", Mode: "default", Endpoints: map[string]*network.EndpointSettings{"bridge": nil}})
	if err != nil || !slices.Equal(slices.Collect(maps.Keys(a.Endpoints)), []string{"none"}) {
		t.Errorf("Allocate() = %+v, %v, want network none", a, err)
	}
	if _, err := m.Allocate(ctx, Request{ContainerID: "c"}); !errdefs.IsConflict(err) {
		t.Errorf("second Allocate() = %v, want Conflict", err)
	}
	if err := m.Connect(ctx, "other", 1); !errdefs.IsNotFound(err) {
		t.Errorf("Connect(unknown) = %v, want NotFound", err)
	}
}

func TestFilters(t *testing.T) {
	nets := []network.Inspect{
		{Network: network.Network{Name: "bridge", ID: "aa11", Driver: "bridge", Scope: "local"}},
		{Network: network.Network{Name: "web", ID: "bb22", Driver: "bridge", Scope: "local", Labels: map[string]string{"a": "1", "b": ""}}, Containers: map[string]network.EndpointResource{"x": {}}},
		{Network: network.Network{Name: "webby", ID: "cc33", Driver: "overlay", Scope: "swarm"}},
	}
	for _, tc := range []struct {
		key    string
		values []string
		want   string
	}{
		{"name", []string{"web"}, "web webby"},
		{"name", []string{"^web$"}, "web"},
		{"name", []string{"("}, ""},
		{"id", []string{"bb"}, "web"},
		{"driver", []string{"bridge"}, "bridge web"},
		{"driver", []string{"brid"}, ""},
		{"driver", []string{"overlay", "bridge"}, "bridge web webby"},
		{"scope", []string{"swarm"}, "webby"},
		{"type", []string{"custom"}, "web webby"},
		{"type", []string{"builtin"}, "bridge"},
		{"label", []string{"a"}, "web"},
		{"label", []string{"a=1", "b"}, "web"},
		{"label", []string{"a=2"}, ""},
		{"dangling", []string{"true"}, "webby"},
		{"dangling", []string{"0"}, "web"},
		{"type", []string{"x"}, "invalid"},
		{"dangling", []string{"x"}, "invalid"},
		{"colour", []string{"x"}, "invalid"},
	} {
		values := map[string]bool{}
		for _, v := range tc.values {
			values[v] = true
		}
		match, err := newFilter(map[string]map[string]bool{tc.key: values})
		if tc.want == "invalid" {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("%s=%v: %v, want InvalidArgument", tc.key, tc.values, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s=%v: %v", tc.key, tc.values, err)
			continue
		}
		var got []string
		for i := range nets {
			if match(&nets[i]) {
				got = append(got, nets[i].Name)
			}
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%s=%v: %q, want %q", tc.key, tc.values, got, tc.want)
		}
	}
}

func TestPruneFilter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	old := network.Inspect{Network: network.Network{Created: now.Add(-2 * time.Hour), Labels: map[string]string{"keep": "", "x": "1"}}}
	for _, tc := range []struct {
		key, value string
		want       bool
	}{
		{"until", "1h", true}, {"until", "3h", false}, {"until", "2026-01-02T02:00:00Z", true}, {"until", "2026-01-01", false},
		{"until", "1767315000", false}, {"label!", "keep", false}, {"label!", "other", true}, {"label", "x=1", true}, {"label", "x=2", false},
	} {
		match, err := newPruneFilter(map[string]map[string]bool{tc.key: {tc.value: true}}, now)
		if err != nil || match(&old) != tc.want {
			t.Errorf("%s=%s: %t, %v, want %t", tc.key, tc.value, !tc.want, err, tc.want)
		}
	}
	for _, bad := range []map[string]map[string]bool{{"until": {"x": true}}, {"until": {"1h": true, "2h": true}}, {"name": {"x": true}}} {
		if _, err := newPruneFilter(bad, now); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v, want InvalidArgument", bad, err)
		}
	}
}

// A record that could not be marked as being removed goes with the removal.
func TestForgetWithoutRetire(t *testing.T) {
	s, err := openStore(t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.putSandbox(&sandboxRecord{SandboxID: "a"}); err != nil {
		t.Fatal(err)
	}
	if err := s.forget(s.sandboxPath("a")); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Dir(s.sandboxPath("a"))); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestRecordsOfAnotherVersion(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "network")
	m := openBare(t, dir)
	host, _ := m.Inspect(context.Background(), "host")
	m.Close(context.Background(), false)
	path := filepath.Join(dir, "networks", host.ID+".json")
	cfg := DefaultConfig(dir)
	cfg.Bridge, cfg.Firewall, cfg.IPForward = "none", false, false
	if err := os.WriteFile(path, []byte(`{"Version":2}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), cfg, slog.New(slog.DiscardHandler)); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Open(record of a newer version) = %v", err)
	}
	// A damaged record costs its own network alone; a predefined one is made anew.
	for _, content := range []string{`{"Version":`, ``, `[]`} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		m := openBare(t, dir)
		again, err := m.Inspect(context.Background(), "host")
		if err != nil || again.ID == host.ID {
			t.Errorf("after record %q: host = %v, %v", content, again.ID, err)
		}
		m.Close(context.Background(), false)
		if aside, err := os.ReadFile(path + ".corrupt"); err != nil || string(aside) != content {
			t.Errorf("set aside: %q, %v", aside, err)
		}
		os.Remove(filepath.Join(dir, "networks", again.ID+".json"))
	}
	os.Remove(path)
	// Sandboxes that a power cut tore are dropped, and so are strangers.
	for name, content := range map[string]string{"a.json": "", "b.json": "{", "c.gone": "{}", ".tmp-1": "x",
		"d.json": `{"Version":1,"SandboxID":"d","Request":{"ContainerID":"c"},"Endpoints":[{"NetworkID":"nope"}]}`} {
		if err := os.WriteFile(filepath.Join(dir, "sandboxes", name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m = openBare(t, dir)
	m.reaper.Wait()
	if len(m.sandboxes) != 0 {
		t.Errorf("sandboxes = %v", m.sandboxes)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "sandboxes")); len(left) != 0 {
		t.Errorf("files are left: %v", left)
	}
}

func TestConfigValidate(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no state":  func(c *Config) { c.StateDir = "" },
		"MTU":       func(c *Config) { c.MTU = 20 },
		"IPv6 BIP":  func(c *Config) { c.BIP = netip.MustParsePrefix("fd00::1/64") },
		"network":   func(c *Config) { c.BIP = netip.MustParsePrefix("10.0.0.0/24") },
		"long name": func(c *Config) { c.Bridge = "0123456789abcdef" },
	} {
		c := DefaultConfig("/x")
		change(&c)
		if err := c.validate(); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v, want InvalidArgument", name, err)
		}
	}
}
