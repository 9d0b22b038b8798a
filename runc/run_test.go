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

func TestRun_exitCode(t *testing.T) {
	h := newHarness(t)
	for _, tt := range []struct {
		args []string
		want int
	}{
		{[]string{"true"}, 0},
		{[]string{"/bin/false"}, 1},
		{[]string{"sh", "-c", "exit 42"}, 42},
		{[]string{"sh", "-c", "exec 2>/dev/null; sh -c 'kill -9 $$'; exit $?"}, 137},
	} {
		r, err := h.run(h.spec(tt.args...))
		if err != nil || r.code != tt.want {
			t.Errorf("%q: code %d, error %v; want %d", tt.args, r.code, err, tt.want)
		}
	}
}

// What a container's process sees of itself. Each script prints; the output must
// be exactly this.
func TestRun_environment(t *testing.T) {
	h := newHarness(t)
	for _, tt := range []struct {
		name, script, want string
		edit               func(*specs.Spec)
	}{
		{name: "only 0, 1, 2 are open", script: "cd /proc/self/fd; exec 9</dev/null; for f in *; do test -e $f && echo -n $f,; done",
			want: "0,1,2,9,"},
		{name: "pid 1", script: "echo $$", want: "1\n"},
		{name: "host name", script: "hostname", want: "box\n"},
		{name: "home of root", script: "echo $HOME", want: "/root\n"},
		{name: "home of another user", script: "echo $HOME", want: "/home/u\n", edit: func(s *specs.Spec) { s.Process.User.UID = 1000 }},
		{name: "home of nobody", script: "echo $HOME", want: "/\n", edit: func(s *specs.Spec) { s.Process.User.UID = 4242 }},
		{name: "last variable wins", script: "echo $A", want: "2\n", edit: func(s *specs.Spec) {
			s.Process.Env = append(s.Process.Env, "A=1", "A=2")
		}},
		{name: "empty home after another", script: "echo $HOME", want: "/root\n", edit: func(s *specs.Spec) {
			s.Process.Env = append(s.Process.Env, "HOME=/x", "HOME=")
		}},
		{name: "user and groups", script: "id -u; id -g; id -G", want: "1000\n1001\n1001 5 77\n", edit: func(s *specs.Spec) {
			s.Process.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{5, 77}}
		}},
		{name: "no groups of the parent", script: "grep Groups: /proc/self/status", want: "Groups:\t \n"},
		{name: "umask default", script: "umask", want: "0022\n"},
		{name: "umask", script: "umask", want: "0077\n", edit: func(s *specs.Spec) {
			m := uint32(0o77)
			s.Process.User.Umask = &m
		}},
		{name: "capabilities", script: "grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status",
			want: "CapInh:\t0000000000000000\nCapPrm:\t00000000000000e3\nCapEff:\t00000000000000e3\nCapBnd:\t00000000000000e3\nCapAmb:\t0000000000000000\n"},
		{name: "no capabilities", script: "grep -E 'Cap(Eff|Bnd)' /proc/self/status", want: "CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\n",
			edit: func(s *specs.Spec) { s.Process.Capabilities = nil }},
		{name: "ambient capabilities of a user", script: "grep -E 'Cap(Eff|Amb)' /proc/self/status", want: "CapEff:\t0000000000000020\nCapAmb:\t0000000000000020\n",
			edit: func(s *specs.Spec) {
				k := []string{"CAP_KILL"}
				s.Process.User.UID = 1000
				s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: k, Effective: k, Permitted: k, Inheritable: k, Ambient: k}
			}},
		{name: "no_new_privs", script: "grep NoNewPrivs /proc/self/status", want: "NoNewPrivs:\t1\n", edit: func(s *specs.Spec) { s.Process.NoNewPrivileges = true }},
		{name: "working directory is made", script: "pwd", want: "/a/b\n", edit: func(s *specs.Spec) { s.Process.Cwd = "/a/b" }},
		{name: "working directory through an absolute link", script: "pwd -P", want: "/tmp\n", edit: func(s *specs.Spec) {
			_ = os.Symlink("/tmp", filepath.Join(h.rootfs, "link"))
			s.Process.Cwd = "/link"
		}},
		{name: "rlimit", script: "ulimit -n", want: "77\n", edit: func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 77, Hard: 99}}
		}},
		{name: "oom score", script: "cat /proc/self/oom_score_adj", want: "500\n", edit: func(s *specs.Spec) {
			n := 500
			s.Process.OOMScoreAdj = &n
		}},
		{name: "sysctl", script: "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax", want: "1\n4096\n", edit: func(s *specs.Spec) {
			s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1", "kernel/msgmax": "4096"}
		}},
		{name: "domain name", script: "cat /proc/sys/kernel/domainname", want: "example.org\n", edit: func(s *specs.Spec) { s.Domainname = "example.org" }},
		{name: "own control group is the root", script: "grep -v ':/$' /proc/self/cgroup", want: ""},
		{name: "time namespace", script: "cut() { :; }; read up _ </proc/uptime; test ${up%.*} -gt 1000000 && echo ok", want: "ok\n", edit: func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1000000}}
		}},
		{name: "personality", script: "cat /proc/self/personality", want: "00000008\n", edit: func(s *specs.Spec) {
			s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
		}},
		{name: "nothing of the host's mounts", script: "while read a b c d at x; do case $at in /|/proc*|/dev*|/sys*) ;; *) echo $at;; esac; done </proc/self/mountinfo", want: ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := h.spec()
			if tt.edit != nil {
				tt.edit(s)
			}
			if r := h.script(s, tt.script); r.out != tt.want {
				t.Errorf("got %q, want %q", r.out, tt.want)
			}
		})
	}
}

// A program that cannot be executed fails Create, with the words that clients
// look for and the errno inside.
func TestCreate_program(t *testing.T) {
	h := newHarness(t)
	must(t, os.WriteFile(filepath.Join(h.rootfs, "plain"), []byte("x"), 0o644))
	must(t, os.WriteFile(filepath.Join(h.rootfs, "bin/denied"), []byte("x"), 0o644))
	must(t, os.Symlink("nowhere", filepath.Join(h.rootfs, "dangling")))
	must(t, os.Mkdir(filepath.Join(h.rootfs, "bin/dir"), 0o755))
	for _, tt := range []struct {
		program, want string
		errno         error
	}{
		{"foo", `exec: "foo": executable file not found in $PATH`, unix.ENOENT},
		{"/foo", `exec: "/foo": stat /foo: no such file or directory`, unix.ENOENT},
		{"./foo", `exec: "./foo": stat ./foo: no such file or directory`, unix.ENOENT},
		{"/dangling", `exec: "/dangling": stat /dangling: no such file or directory`, unix.ENOENT},
		{"/plain", `exec: "/plain": permission denied`, unix.EACCES},
		{"denied", `exec: "denied": permission denied`, unix.EACCES},
		{"/etc", `exec: "/etc": is a directory`, unix.EISDIR},
		{"/plain/x", `exec: "/plain/x": stat /plain/x: not a directory`, unix.ENOTDIR},
	} {
		t.Run(tt.program, func(t *testing.T) {
			h.write(h.spec(tt.program))
			id := h.id()
			_, err := h.rt.Create(t.Context(), id, CreateOptions{Bundle: h.bundle})
			reapAll()
			if err == nil || !errors.Is(err, tt.errno) || err.Error() != "unable to start container process: "+tt.want {
				t.Errorf("got %v, want %s", err, tt.want)
			}
			if _, err := h.rt.State(t.Context(), id); err == nil {
				t.Error("the failed container has a state")
			}
		})
	}
}

// An execve error that only execve finds is returned by Start.
func TestStart_execError(t *testing.T) {
	h := newHarness(t)
	for _, tt := range []struct{ name, content, want string }{
		{"format", "garbage", "exec /bad: exec format error"},
		{"interpreter", "#!/no/such/interpreter\n", "exec /bad: no such file or directory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			must(t, os.WriteFile(filepath.Join(h.rootfs, "bad"), []byte(tt.content), 0o755))
			h.write(h.spec("/bad"))
			id := h.id()
			pid, err := h.rt.Create(t.Context(), id, CreateOptions{Bundle: h.bundle})
			must(t, err)
			err = h.rt.Start(t.Context(), id)
			if err == nil || !strings.HasSuffix(err.Error(), tt.want) {
				t.Errorf("Start: got %v, want %s", err, tt.want)
			}
			if s, err := h.rt.State(t.Context(), id); err != nil || s.Status != specs.StateStopped {
				t.Errorf("state %v, error %v; want stopped", s.Status, err)
			}
			wait(t, pid)
			must(t, h.rt.Delete(t.Context(), id, false))
		})
	}
}

func TestRun_readonlyRoot(t *testing.T) {
	h := newHarness(t)
	s := h.spec()
	s.Root.Readonly = true
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/run/lock", Type: "tmpfs", Source: "tmpfs"})
	must(t, os.MkdirAll(filepath.Join(h.rootfs, "run/lock"), 0o755))
	r := h.script(s, "touch /x 2>/dev/null && echo root is writable; touch /run/lock/x && echo ok")
	if r.out != "ok\n" {
		t.Errorf("got %q, want %q", r.out, "ok\n")
	}
}

func TestRun_masks(t *testing.T) {
	h := newHarness(t)
	must(t, os.MkdirAll(filepath.Join(h.rootfs, "secret/dir"), 0o755))
	must(t, os.WriteFile(filepath.Join(h.rootfs, "secret/file"), []byte("s3cret"), 0o644))
	must(t, os.WriteFile(filepath.Join(h.rootfs, "secret/dir/inner"), nil, 0o644))
	must(t, os.WriteFile(filepath.Join(h.rootfs, "fixed"), nil, 0o666))
	s := h.spec()
	s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/secret/file", "/secret/dir", "/secret/file/x")
	s.Linux.ReadonlyPaths = append(s.Linux.ReadonlyPaths, "/fixed", "/nothing")
	r := h.script(s, `cat /secret/file; ls /secret/dir /sys/firmware | grep -v :; touch /secret/dir/y 2>/dev/null && echo writable
		echo x 2>/dev/null >/fixed && echo writable; echo 1 2>/dev/null >/proc/sys/kernel/msgmax && echo writable
		stat -c %t:%T /secret/file`)
	if want := "\n1:3\n"; r.out != want && r.out != want[1:] {
		t.Errorf("got %q, want %q", r.out, want)
	}
}

// Links in an image never lead a mount out of the root.
func TestRun_symlinkAttack(t *testing.T) {
	h := newHarness(t)
	outside := t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "canary"), nil, 0o644))
	up := strings.Repeat("../", 40) + strings.TrimPrefix(outside, "/")
	for name, target := range map[string]string{"abs": outside, "rel": up} {
		must(t, os.Symlink(target, filepath.Join(h.rootfs, name)))
	}
	src := t.TempDir()
	must(t, os.WriteFile(filepath.Join(src, "mine"), nil, 0o644))
	s := h.spec()
	s.Mounts = append(s.Mounts,
		specs.Mount{Destination: "/abs/sub", Type: "bind", Source: src, Options: []string{"rbind"}},
		specs.Mount{Destination: "/rel/sub2", Type: "tmpfs", Source: "tmpfs"},
		specs.Mount{Destination: "/../../../../etc/up", Type: "bind", Source: filepath.Join(src, "mine"), Options: []string{"bind", "ro"}})
	// The targets of the links are made inside of the root.
	must(t, os.MkdirAll(filepath.Join(h.rootfs, outside), 0o755))
	r := h.script(s, "ls "+outside+"/sub; test -f /etc/up && echo up; test -d /rel/sub2 && echo rel")
	if r.out != "mine\nup\nrel\n" {
		t.Errorf("got %q", r.out)
	}
	entries, err := os.ReadDir(outside)
	must(t, err)
	if len(entries) != 1 {
		t.Errorf("the host's directory has %d entries, want the canary alone: %v", len(entries), entries)
	}
}

// A symbolic link at /proc or /sys is refused, and a mount over /proc too.
func TestCreate_proc(t *testing.T) {
	h := newHarness(t)
	must(t, os.Remove(filepath.Join(h.rootfs, "proc")))
	must(t, os.Symlink("/tmp", filepath.Join(h.rootfs, "proc")))
	if _, err := h.run(h.spec("true")); !errors.Is(err, unix.ELOOP) {
		t.Errorf("symlinked /proc: got %v, want ELOOP", err)
	}
	must(t, os.Remove(filepath.Join(h.rootfs, "proc")))
	for _, dest := range []string{"/proc", "/proc/self/attr", "//proc/../proc/sys"} {
		s := h.spec("true")
		s.Mounts = append(s.Mounts, specs.Mount{Destination: dest, Type: "bind", Source: h.bundle, Options: []string{"bind"}})
		if _, err := h.run(s); err == nil || !strings.Contains(err.Error(), "/proc") {
			t.Errorf("mount on %s: got %v, want a refusal", dest, err)
		}
	}
}

func TestRun_mounts(t *testing.T) {
	h := newHarness(t)
	src := t.TempDir()
	must(t, os.Chmod(src, 0o755))
	must(t, os.WriteFile(filepath.Join(src, "f"), []byte("hello"), 0o644))
	must(t, os.Chown(filepath.Join(src, "f"), 10, 10))
	must(t, os.MkdirAll(filepath.Join(h.rootfs, "mode"), 0o755))
	must(t, os.Chmod(filepath.Join(h.rootfs, "mode"), 0o751|os.ModeSticky))
	must(t, os.MkdirAll(filepath.Join(h.rootfs, "up/d"), 0o755))
	must(t, os.WriteFile(filepath.Join(h.rootfs, "up/d/f"), []byte("copied"), 0o640))
	must(t, os.Symlink("/etc/shadow", filepath.Join(h.rootfs, "up/l")))
	id := []specs.LinuxIDMapping{{ContainerID: 10, HostID: 20, Size: 1}}
	for _, tt := range []struct {
		name, script, want string
		mount              specs.Mount
	}{
		{"bind directory", "cat /m/f; touch /m/g && echo -rw", "hello-rw\n", specs.Mount{Destination: "/m", Source: src, Options: []string{"rbind", "rprivate"}}},
		{"bind read-only", "touch /m/h 2>/dev/null || echo ro", "ro\n", specs.Mount{Destination: "/m", Type: "bind", Source: src, Options: []string{"bind", "ro"}}},
		{"bind recursively read-only", "touch /m/h 2>/dev/null || echo ro", "ro\n", specs.Mount{Destination: "/m", Type: "bind", Source: src, Options: []string{"rbind", "rro"}}},
		{"bind file", "cat /made/here", "hello", specs.Mount{Destination: "/made/here", Type: "bind", Source: filepath.Join(src, "f"), Options: []string{"bind"}}},
		{"bind attributes", "grep ' /m ' /proc/self/mountinfo | grep -c nosuid,nodev,noexec", "1\n",
			specs.Mount{Destination: "/m", Type: "bind", Source: src, Options: []string{"bind", "nosuid", "nodev", "noexec"}}},
		{"id mapped", "stat -c %u:%g /m/f", "20:20\n", specs.Mount{Destination: "/m", Type: "bind", Source: src, Options: []string{"bind"}, UIDMappings: id, GIDMappings: id}},
		{"tmpfs has the mode of the directory", "stat -c %a /mode", "1751\n", specs.Mount{Destination: "/mode", Type: "tmpfs", Source: "tmpfs"}},
		{"new tmpfs is sticky", "stat -c %a /new", "1777\n", specs.Mount{Destination: "/new", Type: "tmpfs", Source: "tmpfs"}},
		{"tmpfs with a mode", "stat -c %a /mode", "700\n", specs.Mount{Destination: "/mode", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=700"}}},
		{"tmpfs read-only", "touch /mode/x 2>/dev/null || echo ro", "ro\n", specs.Mount{Destination: "/mode", Type: "tmpfs", Source: "tmpfs", Options: []string{"ro"}}},
		{"tmpcopyup", "cat /up/d/f; stat -c %a /up/d/f; readlink /up/l; touch /up/x", "copied640\n/etc/shadow\n",
			specs.Mount{Destination: "/up", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup"}}},
		{"propagation", "grep ' /m ' /proc/self/mountinfo | grep -c -E 'shared|master'", "0\n",
			specs.Mount{Destination: "/m", Type: "bind", Source: src, Options: []string{"rbind", "rprivate"}}},
		{"shared", "grep ' /m ' /proc/self/mountinfo | grep -c shared:", "1\n",
			specs.Mount{Destination: "/m", Type: "bind", Source: src, Options: []string{"rbind", "rshared"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := h.spec()
			s.Mounts = append(s.Mounts, tt.mount)
			if r := h.script(s, tt.script); r.out != tt.want {
				t.Errorf("got %q, want %q", r.out, tt.want)
			}
		})
	}
	if _, err := os.Stat(filepath.Join(h.rootfs, "up/x")); err == nil {
		t.Error("tmpcopyup wrote to the root")
	}
}

// The root is mounted from layers and seen by the container alone.
func TestRun_overlayRootfs(t *testing.T) {
	h := newHarness(t)
	dir := t.TempDir()
	for _, d := range []string{"top", "upper", "work"} {
		must(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(dir, "top/file"), []byte("top"), 0o644))
	lower := filepath.Join(h.bundle, "base")
	must(t, os.Rename(h.rootfs, lower))
	s := h.spec("sh", "-c", "cat /file; touch /written; grep -c ^overlay /proc/mounts")
	o := CreateOptions{Rootfs: []Mount{{Type: "overlay", Source: "overlay", Options: []string{
		"index=off", "workdir=" + filepath.Join(dir, "work"), "upperdir=" + filepath.Join(dir, "upper"),
		"lowerdir=" + filepath.Join(dir, "top") + ":" + lower,
	}}}}
	before := mountCount(t, filepath.Dir(h.bundle), dir)
	h.write(s)
	id := h.id()
	r, err := h.capture(func(out *os.File) (int, error) {
		o.Bundle, o.Stdio.Out, o.Stdio.Err = h.bundle, out, out
		pid, err := h.rt.Create(t.Context(), id, o)
		if err != nil {
			return 0, err
		}
		if n := mountCount(t, filepath.Dir(h.bundle), dir); n != before {
			t.Errorf("the host has %d mounts, had %d", n, before)
		}
		return pid, h.rt.Start(t.Context(), id)
	})
	must(t, err)
	if r.out != "top1\n" {
		t.Errorf("got %q, want %q", r.out, "top1\n")
	}
	must(t, h.rt.Delete(t.Context(), id, false))
	if _, err := os.Stat(filepath.Join(dir, "upper/written")); err != nil {
		t.Errorf("the upper directory lacks what was written: %v", err)
	}
}

// mountCount counts the mounts of this mount namespace that have to do with one of
// the names: other programs of the machine mount, too.
func mountCount(t testing.TB, names ...string) int {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	n := 0
	for line := range strings.Lines(string(raw)) {
		for _, name := range names {
			if strings.Contains(line, name) {
				n++
				break
			}
		}
	}
	return n
}

func TestRun_userNamespace(t *testing.T) {
	h := newHarness(t)
	m := []specs.LinuxIDMapping{{HostID: 100000, Size: 65536}}
	s := h.spec()
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings, s.Linux.GIDMappings = m, m
	s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 50, Hard: 60}}
	must(t, os.Chown(filepath.Join(h.rootfs, "tmp"), 100000, 100000))
	must(t, os.Chown(h.rootfs, 100000, 100000))
	r := h.script(s, "id -u; read a b c </proc/self/uid_map; echo $a $b $c; touch /tmp/x; echo hi >/dev/null && ulimit -n; stat -c %u /tmp/x")
	if want := "0\n0 100000 65536\n50\n0\n"; r.out != want {
		t.Errorf("got %q, want %q", r.out, want)
	}
}

// Limits on what a container may get wrong: every one is an error that names the
// field.
func TestCreate_invalid(t *testing.T) {
	h := newHarness(t)
	for field, edit := range map[string]func(*specs.Spec){
		"ociVersion":               func(s *specs.Spec) { s.Version = "2.0.0" },
		"root.path":                func(s *specs.Spec) { s.Root.Path = "nowhere" },
		"process.args":             func(s *specs.Spec) { s.Process.Args = nil },
		"process.cwd":              func(s *specs.Spec) { s.Process.Cwd = "tmp" },
		"process.rlimits":          func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_X"}} },
		"linux.namespaces":         func(s *specs.Spec) { s.Linux.Namespaces = append(s.Linux.Namespaces, s.Linux.Namespaces[0]) },
		"linux.sysctl":             func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"vm.swappiness": "1"} },
		"linux.rootfsPropagation":  func(s *specs.Spec) { s.Linux.RootfsPropagation = "x" },
		"linux.uidMappings":        func(s *specs.Spec) { s.Linux.UIDMappings = []specs.LinuxIDMapping{{Size: 1}} },
		"linux.devices":            func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "z"}} },
		"hostname":                 func(s *specs.Spec) { s.Linux.Namespaces = without(s.Linux.Namespaces, specs.UTSNamespace) },
		"linux.personality.domain": func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: "X"} },
		"mounts[6].type":           func(s *specs.Spec) { s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x"}) },
		"mounts[6].destination":    func(s *specs.Spec) { s.Mounts = append(s.Mounts, specs.Mount{Destination: "/", Type: "tmpfs"}) },
	} {
		t.Run(field, func(t *testing.T) {
			s := h.spec("true")
			edit(s)
			if _, err := h.run(s); err == nil || !strings.Contains(err.Error(), field) {
				t.Errorf("got %v, want an error that names the field", err)
			}
		})
	}
}

func without(list []specs.LinuxNamespace, t specs.LinuxNamespaceType) []specs.LinuxNamespace {
	var out []specs.LinuxNamespace
	for _, n := range list {
		if n.Type != t {
			out = append(out, n)
		}
	}
	return out
}
