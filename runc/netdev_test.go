package runc

import (
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Devices come with their addresses and under their new names. The host of this
// test is a network namespace of its own.
func TestRun_netDevices(t *testing.T) {
	h := newHarness(t)
	must(t, exec.Command("ip", "-V").Run())
	runtime.LockOSThread() // not unlocked: the thread ends with the test
	must(t, unix.Unshare(unix.CLONE_NEWNET))
	ip := func(args string) {
		t.Helper()
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	ip("link add v0 type veth peer name v1")
	ip("link add v2 type veth peer name v3")
	ip("addr add 10.9.8.7/24 brd 10.9.8.255 dev v0")
	ip("addr add fd00:9::7/64 dev v0 nodad")
	ip("addr add 169.254.3.3/16 scope link dev v0")
	ip("link set v0 up")
	ids := []specs.LinuxIDMapping{{HostID: 100000, Size: 65536}}
	s := h.spec()
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings, s.Linux.GIDMappings = ids, ids
	s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"v0": {Name: "eth7"}, "v2": {}}
	r := h.script(s, "cd /proc/net; busybox ip -o addr; busybox ip -o link")
	for _, want := range []string{"eth7", "inet 10.9.8.7/24 brd 10.9.8.255", "inet6 fd00:9::7/64", "v2", "UP"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("the container does not have %s:\n%s", want, r.out)
		}
	}
	if strings.Contains(r.out, "169.254.3.3") || strings.Contains(r.out, " v0") {
		t.Errorf("the container has too much:\n%s", r.out)
	}

	s = h.spec("true")
	s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"missing": {}}
	if _, err := h.run(s); !errdefs.IsNotFound(err) {
		t.Errorf("a device that is not there: %v", err)
	}
	ip("link add w0 type veth peer name w1")
	s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"w0": {Name: "lo"}}
	if _, err := h.run(s); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a name that is taken: %v", err)
	}
	for _, name := range []string{"a/b", "..", "sixteen-letters-", "a b"} {
		s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"w0": {Name: name}}
		if _, err := h.run(s); !errdefs.IsInvalidArgument(err) {
			t.Errorf("name %q: %v", name, err)
		}
	}
	ip("link show w0") // it is where it was
	reapAll()
}
