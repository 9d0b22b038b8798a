package runc

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A process is put into control groups below the container's own.
func TestExec_subgroups(t *testing.T) {
	h := newHarness(t)
	id, _ := h.create(h.spec("sleep", "1000"))
	must(t, h.rt.Start(t.Context(), id))
	paths, err := h.rt.CgroupPaths(t.Context(), id)
	must(t, err)
	key := "pids"
	if _, v1 := paths[key]; !v1 {
		key = ""
	}
	sub := filepath.Join(paths[key], "sub")
	must(t, os.Mkdir(sub, 0o755))
	t.Cleanup(func() { _ = os.Remove(sub) })
	run := func(groups map[string]string) (result, error) {
		return h.capture(func(out *os.File) (int, error) {
			p := &specs.Process{Args: []string{"cat", "/proc/self/cgroup"}, Cwd: "/", Env: []string{"PATH=/bin"}}
			return h.rt.Exec(t.Context(), id, ExecOptions{Process: p, Cgroups: groups, Stdio: Stdio{Out: out, Err: out}})
		})
	}
	r, err := run(map[string]string{key: "sub"})
	must(t, err)
	if n := strings.Count(r.out, "/sub\n"); n != 1 {
		t.Errorf("%d groups are the new one: %s", n, r.out)
	}
	if r, err := run(map[string]string{"": "/"}); err != nil || strings.Contains(r.out, "/sub\n") {
		t.Errorf("the container's own group: %v\n%s", err, r.out)
	}
	for path, want := range map[string]string{
		"..": "bad sub cgroup path", "a/../../b": "bad sub cgroup path", "missing": "no such file or directory",
	} {
		if _, err := run(map[string]string{key: path}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", path, err, want)
		}
	}
	if _, err := run(map[string]string{"whaaat": "/"}); err == nil || !strings.Contains(err.Error(), "unknown controller") {
		t.Errorf("unknown controller: got %v", err)
	}
}

func TestGroupOfInit(t *testing.T) {
	const own = "/sys/fs/cgroup/c"
	for in, want := range map[string]string{
		"0::/c\n": own, "1:name=systemd:/x\n0::/c/init\n": own + "/init", "0::/other\n": "", "0::/c2\n": "", "0::/../..\n": "", "": "",
	} {
		if got, err := groupOfInit(in, own); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v; want %q", in, got, err, want)
		}
	}
}

// SIGTERM ends an init that waits to be started, although it is the first process
// of its pid namespace.
func TestCreate_terminated(t *testing.T) {
	h := newHarness(t)
	s := h.spec("true")
	s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"mkdir", "rt_sigaction", "ppoll"}, Action: specs.ActKillProcess},
	}}
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP} {
		id, pid := h.create(s)
		must(t, h.rt.Kill(t.Context(), id, sig, false))
		if code := wait(t, pid); code != 143 {
			t.Errorf("%v: exit status %d", sig, code)
		}
		if st, err := h.rt.State(t.Context(), id); err != nil || st.Status != specs.StateStopped {
			t.Errorf("%v: %v, %v", sig, st.Status, err)
		}
	}
	// It is the container's program that decides from start on.
	id, pid := h.create(h.spec("sh", "-c", "kill -TERM $$; exit 3"))
	must(t, h.rt.Start(t.Context(), id))
	if code := wait(t, pid); code != 3 {
		t.Errorf("exit status %d, want 3", code)
	}
}

// startContainer hooks are in all namespaces of the container, and no more than
// its process: its user, capabilities, seccomp filter and environment.
func TestStart_hookIsConfined(t *testing.T) {
	h := newHarness(t)
	must(t, os.WriteFile(filepath.Join(h.rootfs, "check"), []byte(`#!/bin/sh
set -u
{ id -u; echo $HOME; read a </proc/self/comm; echo $a; grep CapEff /proc/self/status; grep Seccomp: /proc/self/status; mkdir /tmp/x || echo denied; } >/dev/out 2>/dev/null
`), 0o755))
	s := h.spec("cat", "/dev/out")
	s.Process.User = specs.User{UID: 1000, GID: 1000}
	for i := range s.Mounts {
		if s.Mounts[i].Destination == "/dev" {
			s.Mounts[i].Options = []string{"mode=777"}
		}
	}
	s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno},
	}}
	s.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/check"}}}
	r, err := h.run(s)
	must(t, err)
	if want := "1000\n/home/u\ncheck\nCapEff:\t0000000000000000\nSeccomp:\t2\ndenied\n"; r.out != want {
		t.Errorf("got %q, want %q", r.out, want)
	}
	s.Linux.Seccomp.Syscalls[0].Action = specs.ActKillProcess
	s.Hooks.StartContainer[0] = specs.Hook{Path: "/bin/mkdir", Args: []string{"mkdir", "/tmp/y"}}
	if _, err := h.run(s); err == nil || !strings.Contains(err.Error(), "bad system call") {
		t.Errorf("got %v", err)
	}
	reapAll()
}

// A time namespace in a user namespace belongs to it, so that others can join both.
func TestCreate_joinTimeNamespace(t *testing.T) {
	h := newHarness(t)
	ids := []specs.LinuxIDMapping{{HostID: 100000, Size: 65536}}
	own := []specs.LinuxNamespace{{Type: specs.UserNamespace}, {Type: specs.TimeNamespace}}
	s := h.spec("sleep", "1000")
	s.Linux.Namespaces = append(s.Linux.Namespaces, own...)
	s.Linux.UIDMappings, s.Linux.GIDMappings = ids, ids
	s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: 7881, Nanosecs: 2718281}, "boottime": {Secs: 1337}}
	id, pid := h.create(s)
	must(t, h.rt.Start(t.Context(), id))
	s = h.spec()
	for _, n := range own {
		n.Path = "/proc/" + itoa(pid) + "/ns/" + string(n.Type)
		s.Linux.Namespaces = append(s.Linux.Namespaces, n)
	}
	r := h.script(s, "cat /proc/self/timens_offsets; echo $$")
	if got := strings.Join(strings.Fields(r.out), " "); got != "monotonic 7881 2718281 boottime 1337 0 1" {
		t.Errorf("got %q", got)
	}
}

func TestRun_schedulerAndCPUs(t *testing.T) {
	h := newHarness(t)
	s := h.spec("true")
	s.Linux.Resources = &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0"}}
	s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 42000, Deadline: 1000000, Period: 1000000}
	_, err := h.run(s)
	if errors.Is(err, unix.EPERM) && !strings.Contains(err.Error(), "process scheduler can't be used together with AllowedCPUs") {
		t.Errorf("got %v", err)
	}
	if err == nil || !errors.Is(err, unix.EPERM) {
		t.Errorf("got %v, want %v", err, unix.EPERM)
	}
}
