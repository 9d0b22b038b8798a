package engine

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"

	"lighter/internal/testenv"
	"lighter/test/harness"
)

// say sends a line and wants it back.
func say(t *testing.T, c net.Conn, r *bufio.Reader, line string) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(c, line)
	if got, err := r.ReadString('\n'); err != nil || got != line+"\n" {
		t.Fatalf("%s: %q, %v", line, got, err)
	}
}

// dialEcho connects to an echo service as soon as it listens.
func dialEcho(t *testing.T, addr string) (net.Conn, *bufio.Reader) {
	t.Helper()
	var c net.Conn
	harness.Eventually(t, 30*time.Second, addr+" answers", func() (ok bool) {
		var err error
		c, err = net.DialTimeout("tcp", addr, time.Second)
		return err == nil
	})
	t.Cleanup(func() { c.Close() })
	return c, bufio.NewReader(c)
}

// A TCP stream through a published port survives the daemon being killed, its
// absence, and its restart.
func TestStreamSurvivesDaemon(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{Args: []string{"--live-restore"}})
	d.Busybox()
	d.OK("run", "-d", "--name", "echo", "-p", "18080:80", "busybox", "nc", "-ll", "-p", "80", "-e", "cat")
	c, r := dialEcho(t, "127.0.0.1:18080")
	say(t, c, r, "before")
	d.Kill()
	say(t, c, r, "without a daemon")
	d.StartDockerd()
	say(t, c, r, "after the restart")
	c2, r2 := dialEcho(t, "127.0.0.1:18080")
	say(t, c2, r2, "a new connection")
	d.OK("rm", "-f", "echo")
	if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := net.DialTimeout("tcp", "127.0.0.1:18080", 2*time.Second); err == nil {
		t.Error("the port is still published after the container went")
	}
}

// Whoever flushes the ruleset or sends SIGHUP finds the ports as they were.
func TestFirewallComesBack(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	d.OK("run", "-d", "--name", "echo", "-p", "18081:80", "busybox", "nc", "-ll", "-p", "80", "-e", "cat")
	c, r := dialEcho(t, "127.0.0.1:18081")
	say(t, c, r, "before")
	nft, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	nft.FlushRuleset()
	if err := nft.Flush(); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, 30*time.Second, "the daemon tells of the repair", func() bool {
		return strings.Contains(d.Log(), "restored the firewall")
	})
	c, r = dialEcho(t, "127.0.0.1:18081")
	say(t, c, r, "after the flush")
	if err := syscall.Kill(d.Pid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, 30*time.Second, "the daemon has reloaded", func() bool {
		return strings.Contains(d.Log(), "Reloaded configuration")
	})
	say(t, c, r, "after the reload")
}

// A host with input rules is told that published ports do not obey them, and how
// they would.
func TestFirewallModeIsTold(t *testing.T) {
	testenv.Need(t, testenv.Root)
	nft, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	table := nft.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "hostfw"})
	drop := nftables.ChainPolicyAccept
	chain := nft.AddChain(&nftables.Chain{Table: table, Name: "INPUT", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter, Policy: &drop})
	nft.AddRule(&nftables.Rule{Table: table, Chain: chain})
	if err := nft.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		nft.DelTable(table)
		if err := nft.Flush(); err != nil {
			t.Error(err)
		}
	})
	for mode, warned := range map[string]bool{"translate": true, "respect": false} {
		t.Run(mode, func(t *testing.T) {
			d := harness.Start(t, harness.Options{Args: []string{"--firewall-mode", mode}})
			d.Busybox()
			d.OK("run", "-d", "--name", "echo", "-p", "18082:80", "busybox", "nc", "-ll", "-p", "80", "-e", "cat")
			c, r := dialEcho(t, "127.0.0.1:18082")
			say(t, c, r, "hello")
			if got := d.OK("info", "-f", "{{.Warnings}}"); strings.Contains(got, "ip hostfw INPUT") != warned {
				t.Errorf("warnings: %s", got)
			}
		})
	}
}

func TestMacvlanNetwork(t *testing.T) {
	testenv.Need(t, testenv.Root)
	harness.Uplink(t)
	d := harness.Start(t, harness.Options{})
	d.Busybox()
	d.OK("network", "create", "-d", "macvlan", "-o", "parent=lighter-up", "--subnet", "10.199.60.0/24", "lan")
	if got := strings.TrimSpace(d.OK("network", "inspect", "-f", `{{.Driver}} {{index .Options "parent"}}`, "lan")); got != "macvlan lighter-up" {
		t.Errorf("inspect: %s", got)
	}
	d.OK("run", "-d", "--name", "one", "--network", "lan", "--ip", "10.199.60.10", "busybox", "sleep", "1000")
	d.OK("run", "--rm", "--network", "lan", "busybox", "ping", "-c", "1", "-W", "10", "one")
	d.OK("network", "disconnect", "lan", "one")
	d.OK("network", "connect", "lan", "one")
	d.OK("exec", "one", "ip", "addr", "show", "eth0")
	if res := d.Docker("network", "create", "-d", "macvlan", "-o", "parent=nothing", "bad"); res.Code == 0 || !strings.Contains(res.Stderr, "does not exist") {
		t.Errorf("a parent that is not there: %+v", res)
	}
	d.OK("rm", "-f", "one")
	d.OK("network", "rm", "lan")
}
