package engine

import (
	"strings"
	"testing"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

func TestNetworkCommands(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	eachCLI(t, func(t *testing.T, docker string) {
		ok := func(args ...string) string {
			t.Helper()
			res := d.CLI(docker, "", args...)
			if res.Code != 0 {
				t.Fatalf("%v = %+v", args, res)
			}
			return strings.TrimSpace(res.Stdout)
		}
		fails := func(want string, args ...string) {
			t.Helper()
			if res := d.CLI(docker, "", args...); res.Code == 0 || !strings.Contains(res.Stderr, want) {
				t.Errorf("%v = %+v, want %q", args, res, want)
			}
		}
		ok("network", "create", "--ipv6", "--subnet", "10.91.0.0/24", "--ip-range", "10.91.0.128/25", "--gateway", "10.91.0.129",
			"--aux-address", "printer=10.91.0.130", "--subnet", "fd91::/64", "--label", "team=blue", "--attachable",
			"-o", "com.docker.network.driver.mtu=1400", "both")
		ok("network", "create", "--ipv4=false", "--ipv6", "six")
		ok("network", "create", "--config-only", "--subnet", "10.92.0.0/24", "plan")
		ok("network", "create", "--config-from", "plan", "built")
		if got := ok("network", "ls", "-q", "--no-trunc", "-f", "label=team=blue"); len(got) != 64 {
			t.Errorf("ls by label: %q", got)
		}
		if got := ok("network", "inspect", "-f", "{{range .IPAM.Config}}{{.Subnet}} {{.Gateway}} {{end}}{{.EnableIPv6}}", "both"); got != "10.91.0.0/24 10.91.0.129 fd91::/64 fd91::1 true" {
			t.Errorf("inspect both: %s", got)
		}
		if got := ok("network", "inspect", "-f", "{{range .IPAM.Config}}{{.Subnet}}{{end}} {{.ConfigFrom.Network}}", "built"); got != "10.92.0.0/24 plan" {
			t.Errorf("inspect built: %s", got)
		}

		ok("run", "-d", "--name", "multi", "--network", "name=both,ip=10.91.0.200,ip6=fd91::200,alias=m,mac-address=02:00:00:00:00:09",
			"--network", "name=six,driver-opt=com.docker.network.endpoint.ifname=six0", "busybox", "sleep", "1000")
		addrs := ok("exec", "multi", "ip", "addr")
		for _, want := range []string{"10.91.0.200/24", "fd91::200/64", "02:00:00:00:00:09", "six0", "mtu 1400"} {
			if !strings.Contains(addrs, want) {
				t.Errorf("ip addr has no %s: %s", want, addrs)
			}
		}
		ok("run", "-d", "--name", "peer", "--network", "six", "busybox", "sleep", "1000")
		ok("network", "connect", "--ip", "10.91.0.210", "--alias", "late", "--gw-priority", "1", "--link-local-ip", "169.254.3.4", "both", "peer")
		ok("exec", "multi", "ping", "-c", "1", "-W", "5", "10.91.0.210")
		ok("exec", "multi", "ping", "-c", "1", "-W", "5", ok("inspect", "-f", "{{.NetworkSettings.Networks.six.GlobalIPv6Address}}", "peer"))
		fails("has active endpoints", "network", "rm", "both")
		ok("network", "disconnect", "both", "peer")
		if got := ok("exec", "peer", "ip", "addr"); strings.Contains(got, "10.91.0.210") {
			t.Errorf("after the disconnection: %s", got)
		}

		fails("already exists", "network", "create", "both")
		fails(`did you mean "com.docker.network.bridge.enable_icc"?`, "network", "create", "-o", "com.docker.network.bridge.enabled_icc=1", "bad")
		fails("Pool overlaps", "network", "create", "--subnet", "10.91.0.0/16", "bad")
		fails("is in use", "network", "rm", "plan")
		ok("rm", "-f", "multi", "peer")
		ok("network", "prune", "-f")
		if got := ok("network", "ls", "-f", "type=custom", "--format", "{{.Name}}"); got != "" && got != "plan" {
			t.Errorf("after prune: %s", got)
		}
		d.Docker("network", "rm", "-f", "plan")
	})
}
