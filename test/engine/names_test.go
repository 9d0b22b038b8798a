package engine

import (
	"strings"
	"testing"
	"time"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

// lookUp asks the name server of a container.
func lookUp(d *harness.Daemon, container, name string) string {
	res := d.Docker("exec", container, "busybox", "nslookup", "-type=a", name, "127.0.0.11")
	return res.Stdout + res.Stderr
}

func TestContainersFindEachOtherByName(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{Args: []string{"--live-restore"}})
	d.Busybox()
	d.OK("network", "create", "app")
	d.OK("run", "-d", "--name", "db", "--network", "app", "--network-alias", "store", "busybox", "sleep", "1000")
	d.OK("run", "-d", "--name", "web", "--network", "app", "busybox", "sleep", "1000")
	addr := d.OK("inspect", "-f", "{{.NetworkSettings.Networks.app.IPAddress}}", "db")
	finds := func(name string) {
		t.Helper()
		if got := lookUp(d, "web", name); !strings.Contains(got, "Address: "+addr+"\n") {
			t.Errorf("%s is not found at %s: %s", name, addr, got)
		}
	}
	finds("db")
	finds("store")
	if got := d.OK("exec", "web", "cat", "/etc/resolv.conf"); !strings.Contains(got, "nameserver 127.0.0.11\n") || !strings.Contains(got, "options ndots:0\n") {
		t.Errorf("resolv.conf = %s", got)
	}
	names := d.OK("inspect", "-f", "{{.NetworkSettings.Networks.app.DNSNames}}", "db")
	if !strings.HasPrefix(names, "[db store ") {
		t.Errorf("DNSNames = %s", names)
	}

	d.Kill()
	d.StartDockerd()
	harness.Eventually(t, 20*time.Second, "the name server is back", func() bool {
		return strings.Contains(lookUp(d, "web", "db"), addr)
	})
	d.OK("rename", "db", "base")
	finds("base")
	if got := lookUp(d, "web", "db"); strings.Contains(got, addr) {
		t.Errorf("the former name is found: %s", got)
	}
	d.OK("rm", "-f", "base", "web")
	d.OK("network", "rm", "app")
}
