package plan

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// input returns the Container of a spec, as the runtime would fill it in for root
// on cgroup v2.
func input(t *testing.T, s *specs.Spec) *Container {
	t.Helper()
	c := &Container{
		ID: "c1", Spec: s, Root: "/bundle/rootfs", RootDetached: true, CgroupV2: true,
		Namespaces: unix.CLONE_NEWNS | unix.CLONE_NEWPID, Unshare: unix.CLONE_NEWCGROUP,
		Sources: make([]Source, len(s.Mounts)),
		Process: &Process{
			Args: s.Process.Args, Env: s.Process.Env, Cwd: s.Process.Cwd, Umask: 0o22, UID: s.Process.User.UID,
			Have: 1<<unix.CAP_KILL | 1<<unix.CAP_SYS_ADMIN, NoNewPrivs: s.Process.NoNewPrivileges,
			Terminal: s.Process.Terminal, Rlimits: s.Process.Rlimits,
		},
	}
	for i := range s.Mounts {
		o, err := ParseOptions(&s.Mounts[i])
		if err != nil {
			t.Fatal(err)
		}
		c.Options = append(c.Options, o)
		c.Sources[i] = Source{Detached: o.Bind, Dir: true}
	}
	c.Process.Caps, _, _ = ParseCaps(s.Process.Capabilities, c.Process.Have)
	return c
}

func minimal(args ...string) *specs.Spec {
	return &specs.Spec{
		Version: "1.2.0", Root: &specs.Root{Path: "rootfs"}, Linux: &specs.Linux{},
		Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}},
	}
}

// The plans of a few configurations, step by step: what a review reads.
func TestCompile_golden(t *testing.T) {
	docker := minimal("sh")
	docker.Hostname = "box"
	docker.Process.User.UID = 1000
	docker.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}}
	docker.Mounts = []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc"},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "ro"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "gid=5"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro"}},
		{Destination: "/data", Type: "bind", Source: "/srv", Options: []string{"rbind", "ro"}},
	}
	docker.Linux.MaskedPaths = []string{"/proc/kcore"}
	docker.Linux.ReadonlyPaths = []string{"/proc/sys"}
	docker.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}

	for name, c := range map[string]*Container{
		"minimal": input(t, minimal("/bin/true")),
		"docker": func() *Container {
			c := input(t, docker)
			c.Process.Filter = &Filter{Program: make([]unix.SockFilter, 3)}
			c.Process.Gate = true
			return c
		}(),
		"terminal": func() *Container {
			s := minimal("sh")
			s.Process.Terminal = true
			s.Root.Readonly = true
			return input(t, s)
		}(),
		"userns-join": func() *Container {
			c := input(t, minimal("/bin/true"))
			c.NewUser, c.Fork, c.Namespaces = true, true, 0
			c.Join = []Join{{specs.UserNamespace, unix.CLONE_NEWUSER}, {specs.NetworkNamespace, unix.CLONE_NEWNET}}
			c.Unshare = unix.CLONE_NEWPID | unix.CLONE_NEWNS
			return c
		}(),
	} {
		p, err := Compile(c)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		golden(t, name, p)
	}
	p, err := CompileExec(&Exec{ID: "c1", Namespaces: unix.CLONE_NEWNS, Process: input(t, minimal("ps")).Process})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "exec", p)
	p, err = CompileHook(&Hook{Path: "/bin/hook", Args: []string{"hook"}, Cwd: "/bundle"})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "hook", p)
}

func golden(t *testing.T, name string, p *Plan) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(p.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got, lines := strings.Split(p.String(), "\n"), strings.Split(string(want), "\n")
	for i := range max(len(got), len(lines)) {
		var g, w string
		if i < len(got) {
			g = got[i]
		}
		if i < len(lines) {
			w = lines[i]
		}
		if g != w {
			t.Errorf("%s line %d (run with -update if this is meant):\ngot  %s\nwant %s", path, i+1, g, w)
			return
		}
	}
}

// Security invariants that hold for every plan, whatever the configuration.
func TestCompile_invariants(t *testing.T) {
	s := minimal("sh")
	s.Mounts = []specs.Mount{{Destination: "/proc", Type: "proc"}, {Destination: "/a/../../b", Type: "tmpfs"}}
	s.Linux.MaskedPaths = []string{"/proc/kcore", "/../x"}
	c := input(t, s)
	c.Process.Filter = &Filter{Program: make([]unix.SockFilter, 1)}
	p, err := Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	index := func(name string) int {
		for i := range p.Steps {
			if p.Steps[i].name() == name {
				return i
			}
		}
		t.Fatalf("no step %s", name)
		return 0
	}
	if p.Steps[0].Op != CloseOthers || p.Steps[1].name() != "prctl" || p.Steps[1].Args[0].N != unix.PR_SET_DUMPABLE {
		t.Error("the plan does not begin by closing descriptors and becoming non-dumpable")
	}
	if last := p.Steps[len(p.Steps)-1]; last.name() != "execve" {
		t.Errorf("the plan ends with %s", last.name())
	}
	if !(index("pivot_root") < index("setresuid") && index("setresuid") < index("capset") && index("capset") < index("seccomp")) {
		t.Error("root, user, capabilities, seccomp are not in this order")
	}
	closes, chdir := 0, index("setresuid")
	for i := index("pivot_root"); i < chdir; i++ {
		if p.Steps[i].Op == CloseOthers {
			closes++
		}
	}
	if closes == 0 {
		t.Error("descriptors are not closed between pivot_root and the user's directory")
	}
	for i := index("move_mount"); i < index("pivot_root"); i++ {
		if p.Steps[i].name() != "openat2" {
			continue
		}
		how := p.Buffers[p.Steps[i].Args[2].Buf-1].Data
		if how[16]&unix.RESOLVE_IN_ROOT == 0 || how[16]&unix.RESOLVE_NO_MAGICLINKS == 0 {
			t.Errorf("step %d (%s) resolves without RESOLVE_IN_ROOT and NO_MAGICLINKS", i, p.Steps[i].What)
		}
	}
}

func TestCheck(t *testing.T) {
	for name, p := range map[string]*Plan{
		"backward label":     {Steps: []Step{{}, {OnOK: 1}}, Labels: []int{1}},
		"unplaced label":     {Steps: []Step{{OnOK: 1}}, Labels: []int{-1}},
		"missing label":      {Steps: []Step{{OnIgnored: 1}}},
		"missing register":   {Steps: []Step{{Args: []Arg{{Kind: Register, N: 1}}}}},
		"register 0":         {Steps: []Step{{Args: []Arg{{Kind: Register}}}}, Regs: []string{"a"}},
		"save":               {Steps: []Step{{Save: 1}}},
		"address":            {Steps: []Step{{Args: []Arg{{Kind: Address, Buf: 1}}}}},
		"word past the end":  {Steps: []Step{{Args: []Arg{{Kind: Word, Buf: 1, N: 4}}}}, Buffers: []Buffer{{Data: make([]byte, 4)}}},
		"unaligned word":     {Steps: []Step{{Args: []Arg{{Kind: Word, Buf: 1, N: 2}}}}, Buffers: []Buffer{{Data: make([]byte, 8)}}},
		"store past the end": {Steps: []Step{{Store: 1, StoreAt: 1}}, Buffers: []Buffer{{Data: make([]byte, 4)}}},
		"reference":          {Buffers: []Buffer{{Data: make([]byte, 4), Refs: []Ref{{To: 1}}}}},
		"slot":               {Buffers: []Buffer{{Data: make([]byte, 3), Slots: []Slot{{Name: "x"}}}}},
		"file":               {Steps: []Step{{Args: []Arg{{Kind: File}}}}},
		"arguments":          {Steps: []Step{{Args: make([]Arg, 7)}}},
	} {
		if p.Check() == nil {
			t.Errorf("%s: passes", name)
		}
	}
}

func TestParseOptions(t *testing.T) {
	for _, tt := range []struct {
		mount      specs.Mount
		set, clear uint64 // of a bind mount
		bad        bool
	}{
		{mount: specs.Mount{Type: "bind", Options: []string{"rbind"}}},
		{mount: specs.Mount{Options: []string{"bind", "ro"}}, set: unix.MOUNT_ATTR_RDONLY,
			clear: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NOSYMFOLLOW},
		{mount: specs.Mount{Type: "bind", Options: []string{"ro", "rw", "nosuid", "nodev", "noexec", "nosymfollow"}},
			set:   unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NOSYMFOLLOW,
			clear: unix.MOUNT_ATTR_RDONLY},
		{mount: specs.Mount{Type: "bind", Options: []string{"size=1"}}, bad: true},
		{mount: specs.Mount{Type: "tmpfs", Options: []string{"idmap"}}, bad: true},
		{mount: specs.Mount{Type: "proc", Options: []string{"tmpcopyup"}}, bad: true},
		{mount: specs.Mount{Type: "bind", UIDMappings: []specs.LinuxIDMapping{{Size: 1}}}, bad: true},
	} {
		o, err := ParseOptions(&tt.mount)
		if tt.bad {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("%+v: got %v, want InvalidArgument", tt.mount, err)
			}
			continue
		}
		if set, clear := o.BindAttr(); err != nil || set != tt.set || clear != tt.clear {
			t.Errorf("%+v: set %#x clear %#x error %v; want %#x %#x", tt.mount, set, clear, err, tt.set, tt.clear)
		}
	}
}

func TestEnvironment(t *testing.T) {
	got := strings.Join(Environment([]string{"A=1", "HOME=", "A=2", "B=x=y"}, "/h"), " ")
	if want := "A=2 HOME=/h B=x=y"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestSysctlPath(t *testing.T) {
	for key, want := range map[string]string{
		"net.ipv4.ip_forward":          "net/ipv4/ip_forward",
		"net/ipv4/ip_forward":          "net/ipv4/ip_forward",
		"net.ipv4.conf.eth0/1.rp":      "net/ipv4/conf/eth0.1/rp",
		"net/ipv4/conf/eth0.1/rp":      "net/ipv4/conf/eth0.1/rp",
		"fs.mqueue.msg_max":            "fs/mqueue/msg_max",
		"kernel.shm_rmid_forced":       "kernel/shm_rmid_forced",
		"net.ipv4.neigh.default.proxy": "net/ipv4/neigh/default/proxy",
	} {
		if got := SysctlPath(key); got != want {
			t.Errorf("%s: got %s, want %s", key, got, want)
		}
	}
}

func TestParseList(t *testing.T) {
	for list, want := range map[string]byte{"": 0, "0": 1, "0-2": 7, "1, 3-4": 0x1a} {
		got, err := ParseList(list, 8)
		if err != nil || got[0] != want {
			t.Errorf("%q: %x, error %v; want %x", list, got, err, want)
		}
	}
	for _, list := range []string{"8", "3-1", "x", "-1", "1-", "0-99999999999"} {
		if _, err := ParseList(list, 8); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: got %v, want InvalidArgument", list, err)
		}
	}
}

func TestStepError(t *testing.T) {
	err := error(&StepError{Step: Step{What: "mount proc on /proc"}, Errno: syscall.EPERM})
	if err.Error() != "mount proc on /proc: operation not permitted" || !errors.Is(err, syscall.EPERM) {
		t.Errorf("got %q", err)
	}
}

func TestMessage(t *testing.T) {
	m := Message{Kind: Failed, Index: 7, Value: 9}
	if got := Decode(m.Encode()); got != m {
		t.Errorf("got %+v, want %+v", got, m)
	}
}

// Any configuration that is JSON compiles or is refused; none panics and none
// yields a plan that does not check.
func FuzzCompile(f *testing.F) {
	for _, s := range []*specs.Spec{minimal("sh"), minimal("/bin/true", "x")} {
		raw, err := json.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte(`{"process":{"args":["a\u0000b"],"cwd":"/x"},"mounts":[{"destination":"/d","type":"tmpfs","options":["mode=1","rro","=x"]}],"linux":{"devices":[{"path":"/dev/a/b","type":"c"}],"sysctl":{"a":""}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s := minimal("sh")
		if json.Unmarshal(raw, s) != nil || s.Process == nil || s.Linux == nil || s.Root == nil {
			return
		}
		c := &Container{ID: "f", Spec: s, Root: "/r", Process: &Process{Args: s.Process.Args, Env: s.Process.Env, Cwd: s.Process.Cwd,
			Rlimits: s.Process.Rlimits, Scheduler: s.Process.Scheduler, Memory: s.Linux.MemoryPolicy}, Sources: make([]Source, len(s.Mounts))}
		for i := range s.Mounts {
			o, err := ParseOptions(&s.Mounts[i])
			if err != nil {
				return
			}
			c.Options = append(c.Options, o)
		}
		p, err := Compile(c)
		if err != nil {
			return
		}
		if err := p.Check(); err != nil {
			t.Error(err)
		}
		_ = p.String()
	})
}
