package runc

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The tests of this file try attacks that have worked on container runtimes, each
// under the name by which it became known.

// canary is a directory of the host with one file, which no container may reach.
func canary(t *testing.T) (dir string, check func()) {
	t.Helper()
	dir = t.TempDir()
	must(t, os.Chmod(dir, 0o777))
	file := filepath.Join(dir, "canary")
	must(t, os.WriteFile(file, []byte("alive"), 0o666))
	return dir, func() {
		t.Helper()
		entries, err := os.ReadDir(dir)
		must(t, err)
		raw, err := os.ReadFile(file)
		must(t, err)
		if len(entries) != 1 || string(raw) != "alive" {
			t.Errorf("the host's directory was reached: %v, %q", entries, raw)
		}
	}
}

func dropMount(s *specs.Spec, destinations ...string) {
	var rest []specs.Mount
	for _, m := range s.Mounts {
		keep := true
		for _, d := range destinations {
			keep = keep && m.Destination != d && !strings.HasPrefix(m.Destination, d+"/")
		}
		if keep {
			rest = append(rest, m)
		}
	}
	s.Mounts = rest
}

// The working directory is no descriptor that leads to the host.
func TestCVE_2024_21626_workingDirectory(t *testing.T) {
	h := newHarness(t)
	for fd := 3; fd < 48; fd++ {
		s := h.spec("sh", "-c", "pwd; ls ..")
		s.Process.Cwd = fmt.Sprintf("/proc/self/fd/%d", fd)
		if r, err := h.run(s); err == nil {
			t.Errorf("%s is a working directory: %q", s.Process.Cwd, r.out)
		}
	}
	reapAll()
	id, _ := h.create(h.spec("sleep", "1000"))
	must(t, h.rt.Start(t.Context(), id))
	for fd := 3; fd < 32; fd++ {
		p := &specs.Process{Args: []string{"ls", "-la"}, Cwd: fmt.Sprintf("/proc/self/fd/%d/../../..", fd), Env: []string{"PATH=/bin"}}
		if _, err := h.rt.Exec(t.Context(), id, ExecOptions{Process: p}); err == nil {
			t.Errorf("%s is a working directory of exec", p.Cwd)
		}
	}
	reapAll()
}

// A shared volume in which a container swaps the mount target for a link to the
// host: CVE-2021-30465 for the mount, CVE-2024-45310 for the directories made.
func TestCVE_2021_30465_swappedTarget(t *testing.T) {
	h := newHarness(t)
	outside, check := canary(t)
	volume := t.TempDir()
	must(t, os.Chmod(volume, 0o755))
	must(t, os.Mkdir(filepath.Join(volume, "a"), 0o755))
	must(t, os.Symlink(outside, filepath.Join(volume, "b")))
	stop := make(chan struct{})
	var swaps sync.WaitGroup
	swaps.Go(func() {
		a, b := filepath.Join(volume, "a"), filepath.Join(volume, "b")
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
			}
		}
	})
	before := mountCount(t, outside)
	for range 25 {
		s := h.spec("true")
		s.Mounts = append(s.Mounts,
			specs.Mount{Destination: "/v", Source: volume, Options: []string{"rbind"}},
			specs.Mount{Destination: "/v/a/sub/dir", Type: "tmpfs", Source: "tmpfs"},
			specs.Mount{Destination: "/v/a/file", Source: filepath.Join(h.rootfs, "etc/passwd"), Options: []string{"bind"}})
		_, _ = h.run(s) // it may fail when it meets the link; it must not follow it to the host
	}
	reapAll()
	close(stop)
	swaps.Wait()
	check()
	if n := mountCount(t, outside); n != before {
		t.Errorf("%d mounts in the host's directory", n-before)
	}
}

// A masked path is covered by the null device, not by what an image has as
// /dev/null.
func TestCVE_2025_31133_fakeNull(t *testing.T) {
	h := newHarness(t)
	outside, check := canary(t)
	must(t, os.WriteFile(filepath.Join(h.rootfs, "secret"), []byte("s3cret"), 0o644))
	for _, fake := range []string{"/proc/sys/kernel/core_pattern", outside + "/canary", "/etc/passwd"} {
		dev := t.TempDir()
		must(t, os.Symlink(fake, filepath.Join(dev, "null")))
		s := h.spec("stat", "-c", "%t:%T", "/secret")
		dropMount(s, "/dev")
		// A /dev that is bound is taken as it is.
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/dev", Source: dev, Options: []string{"bind"}})
		s.Linux.MaskedPaths = []string{"/secret"}
		if r, err := h.run(s); err != nil || r.out != "1:3\n" {
			t.Errorf("null is %s: the mask is %q, %v", fake, r.out, err)
		}
	}
	reapAll()
	check()
}

// The console is the pty that was made, wherever links of the image point.
func TestCVE_2025_52565_console(t *testing.T) {
	h := newHarness(t)
	outside, check := canary(t)
	for _, name := range []string{"console", "ptmx", "pts"} {
		must(t, os.RemoveAll(filepath.Join(h.rootfs, "dev")))
		must(t, os.Mkdir(filepath.Join(h.rootfs, "dev"), 0o755))
		target := outside + "/canary"
		if name == "pts" {
			target = outside
		}
		must(t, os.Symlink(target, filepath.Join(h.rootfs, "dev", name)))
		s := h.spec("sh", "-c", "echo attacked >/dev/console; chmod 777 /dev/console")
		s.Process.Terminal = true
		var rest []specs.Mount
		for _, m := range s.Mounts {
			if m.Destination != "/dev" {
				rest = append(rest, m)
			}
		}
		s.Mounts = rest
		h.write(s)
		id := h.id()
		pid, err := h.rt.Run(t.Context(), id, CreateOptions{Bundle: h.bundle, Stdio: Stdio{Console: func(m *os.File) error { return m.Close() }}})
		if err == nil {
			wait(t, pid)
			must(t, h.rt.Delete(t.Context(), id, true))
		}
		reapAll()
		check()
	}
}

// What the runtime makes in /dev is made in the container's, not where a link of
// the image points (CVE-2026-41579, CVE-2026-47766, CVE-2015-3627).
func TestCVE_2026_41579_linkedDev(t *testing.T) {
	h := newHarness(t)
	outside, check := canary(t)
	must(t, os.Remove(filepath.Join(h.rootfs, "dev")))
	must(t, os.Symlink(outside, filepath.Join(h.rootfs, "dev")))
	for _, mounted := range []bool{true, false} {
		s := h.spec("true")
		if !mounted {
			dropMount(s, "/dev")
		}
		_, _ = h.run(s)
		check()
	}
	reapAll()
}

// A sysctl is written to the kernel's procfs, whatever the container has on /proc.
func TestCVE_2025_52881_fakeProcfs(t *testing.T) {
	h := newHarness(t)
	fake := filepath.Join(h.rootfs, "proc/sys/net/ipv4")
	must(t, os.MkdirAll(fake, 0o755))
	file := filepath.Join(fake, "ip_unprivileged_port_start")
	must(t, os.WriteFile(file, []byte("fake"), 0o666))
	s := h.spec("true")
	dropMount(s, "/proc")
	s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
	s.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "7"}
	r, err := h.run(s)
	if err != nil || r.code != 0 {
		t.Errorf("got %v, code %d", err, r.code)
	}
	if raw, err := os.ReadFile(file); err != nil || string(raw) != "fake" {
		t.Errorf("the image's file was written: %q, %v", raw, err)
	}
}

// A sysctl is one of a namespace that is the container's own
// (GHSA-w2j5-3rcx-vx7x, CVE-2022-0532), and its name is nothing else.
func TestCVE_2022_0811_sysctl(t *testing.T) {
	h := newHarness(t)
	for _, key := range []string{
		"kernel.core_pattern", "kernel.shm_rmid_forced=1+kernel.core_pattern", "kernel.shm_rmid_forced\nkernel.core_pattern",
		"../kernel/core_pattern", "net/../kernel/core_pattern", "/kernel/core_pattern", "net..ipv4", "",
	} {
		s := h.spec("true")
		s.Linux.Sysctl = map[string]string{key: "1"}
		if _, err := h.run(s); err == nil {
			t.Errorf("%q was accepted", key)
		}
	}
	for key, shared := range map[string]specs.LinuxNamespaceType{"net.ipv4.ip_forward": specs.NetworkNamespace, "kernel.shmmax": specs.IPCNamespace} {
		s := h.spec("true")
		var own []specs.LinuxNamespace
		for _, n := range s.Linux.Namespaces {
			if n.Type != shared {
				own = append(own, n)
			}
		}
		s.Linux.Namespaces, s.Linux.Sysctl = own, map[string]string{key: "1"}
		dropMount(s, "/dev/mqueue", "/sys")
		if _, err := h.run(s); err == nil {
			t.Errorf("%s of the host was accepted", key)
		}
	}
}

// Devices are denied unless they are allowed, also when the configuration has no
// rules.
func TestGHSA_g54h_m393_cpwq_devices(t *testing.T) {
	h := newHarness(t)
	probe := "mknod /tmp/d b 7 77 2>/dev/null; cat /tmp/d >/dev/null 2>/tmp/err && echo read; cat /tmp/err; rm -f /tmp/d /tmp/err"
	must(t, os.Symlink("busybox", filepath.Join(h.rootfs, "bin/mknod")))
	must(t, os.Symlink("busybox", filepath.Join(h.rootfs, "bin/rm")))
	for name, res := range map[string]*specs.LinuxResources{
		"nil": nil, "empty": {}, "one allowed": {Devices: []specs.LinuxDeviceCgroup{{Allow: true, Type: "c", Major: new(int64), Access: "r"}}},
	} {
		s := h.spec()
		s.Linux.Resources = res
		caps := append(s.Process.Capabilities.Bounding, "CAP_MKNOD")
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
		if r := h.script(s, probe); !strings.Contains(r.out, "ermission") && !strings.Contains(r.out, "ermitted") {
			t.Errorf("%s: got %q", name, r.out)
		}
	}
}

// Inheritable capabilities are empty unless they are asked for, also those of exec
// (CVE-2022-29162, CVE-2025-27612), and another user has none (CVE-2016-8867).
func TestCVE_2022_24769_inheritable(t *testing.T) {
	h := newHarness(t)
	id, _ := h.create(h.spec("sleep", "1000"))
	must(t, h.rt.Start(t.Context(), id))
	const show = "grep -E 'Cap(Inh|Amb)' /proc/self/status; grep CapEff /proc/self/status"
	const none = "0000000000000000"
	for _, uid := range []uint32{0, 1000} {
		eff := map[uint32]string{0: "00000000000000e3", 1000: none}[uid]
		want := "CapInh:\t" + none + "\nCapAmb:\t" + none + "\nCapEff:\t" + eff + "\n"
		s := h.spec()
		s.Process.User.UID = uid
		if r := h.script(s, show); r.out != want {
			t.Errorf("run as %d: got %q", uid, r.out)
		}
		p := &specs.Process{Args: []string{"sh", "-c", show}, Cwd: "/", Env: []string{"PATH=/bin"}, User: specs.User{UID: uid}}
		r, err := h.capture(func(out *os.File) (int, error) {
			return h.rt.Exec(t.Context(), id, ExecOptions{Process: p, Stdio: Stdio{Out: out, Err: out}})
		})
		must(t, err)
		if r.out != want {
			t.Errorf("exec as %d: got %q", uid, r.out)
		}
	}
}

// The groups of a process are those of the configuration and none of the
// caller's, so that a group that is denied something cannot be shaken off
// (CVE-2022-2990, CVE-2022-2995, CVE-2022-36109, CVE-2023-25173).
func TestCVE_2022_2989_groups(t *testing.T) {
	h := newHarness(t)
	must(t, os.WriteFile(filepath.Join(h.rootfs, "denied"), []byte("secret"), 0o604))
	must(t, os.Chown(filepath.Join(h.rootfs, "denied"), 0, 1234))
	s := h.spec()
	s.Process.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{1000, 1234}}
	if r := h.script(s, "cat /denied 2>/dev/null || echo denied; grep Groups: /proc/self/status"); r.out != "denied\nGroups:\t1000 1234 \n" {
		t.Errorf("got %q", r.out)
	}
}

// Lengths do not wrap: a configuration that is far too large is an error or works.
func TestCVE_2021_43784_sizes(t *testing.T) {
	h := newHarness(t)
	s := h.spec("true")
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/m", Source: "/" + strings.Repeat("a/", 40000), Options: []string{"bind"}})
	if _, err := h.run(s); err == nil {
		t.Error("a source of 80,000 bytes was mounted")
	}
	s = h.spec("true")
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/" + strings.Repeat("b/", 200), Source: h.rootfs, Options: []string{"bind"}})
	if r, err := h.run(s); err == nil && r.code != 0 {
		t.Errorf("a deep target: code %d", r.code)
	}
	s = h.spec("sh", "-c", "echo ${#V1999}")
	for i := range 2000 {
		s.Process.Env = append(s.Process.Env, fmt.Sprintf("V%d=%s", i, strings.Repeat("x", 512)))
	}
	r, err := h.run(s)
	if err != nil || r.out != "512\n" {
		t.Errorf("a megabyte of environment: %v, %q", err, r.out)
	}
	reapAll()
}

// A read-only cgroup mount stays so, with and without a cgroup namespace.
func TestCVE_2023_25809_cgroups(t *testing.T) {
	h := newHarness(t)
	for _, private := range []bool{true, false} {
		s := h.spec()
		if !private {
			var own []specs.LinuxNamespace
			for _, n := range s.Linux.Namespaces {
				if n.Type != specs.CgroupNamespace {
					own = append(own, n)
				}
			}
			s.Linux.Namespaces = own
		}
		r := h.script(s, `for d in /sys/fs/cgroup /sys/fs/cgroup/*; do mkdir $d/x 2>/dev/null && echo made $d
			echo 0 2>/dev/null >$d/cgroup.procs && echo joined $d; done; echo end`)
		if r.out != "end\n" {
			t.Errorf("private %v: %s", private, r.out)
		}
	}
}
