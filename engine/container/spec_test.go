package container

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// specOf returns the spec of a container created from the given configuration,
// with what differs from host to host taken out.
func specOf(t *testing.T, edit func(*api.Config, *api.HostConfig)) *specs.Spec {
	t.Helper()
	w := newWorld(t)
	w.cfg.DefaultCgroupNS = "private"
	m := w.open()
	defer w.close(m)
	id := w.createWith(m, "golden", edit, "sleep", "1")
	e, _ := m.lookup(id)
	r := *e.rec.Load()
	r.ID = strings.Repeat("0", 64)
	if r.Config.Hostname == id[:12] {
		c := *r.Config
		c.Hostname = r.ID[:12]
		r.Config = &c
	}
	in := specInput{user: specs.User{AdditionalGids: []uint32{0}}}
	in.devices.rules = defaultDeviceRules()
	in.files = []specs.Mount{bind("/files/hosts", "/etc/hosts"), bind("/files/resolv.conf", "/etc/resolv.conf")}
	s, err := m.spec(&r, in)
	if err != nil {
		t.Fatal(err)
	}
	for i := range s.Mounts {
		s.Mounts[i].Source = strings.Replace(s.Mounts[i].Source, w.dir, "/world", 1)
	}
	s.Linux.MaskedPaths = slices.DeleteFunc(s.Linux.MaskedPaths, func(p string) bool { return strings.Contains(p, "thermal_throttle") })
	if s.Linux.Seccomp != nil { // its content is the profile package's
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: s.Linux.Seccomp.DefaultAction}
	}
	return s
}

func TestSpecGolden(t *testing.T) {
	limit := int64(64)
	for name, edit := range map[string]func(*api.Config, *api.HostConfig){
		"default": func(*api.Config, *api.HostConfig) {},
		"everything": func(c *api.Config, h *api.HostConfig) {
			c.Hostname, c.Domainname, c.Tty, c.WorkingDir = "web", "example.org", true, "/srv/./app"
			c.Env = []string{"TERM=vt100", "A=1", "FROM=me"}
			h.Binds = []string{"/tmp:/host:ro", "data:/data"}
			h.Tmpfs = map[string]string{"/run": "size=1m,exec"}
			h.Mounts = []mount.Mount{{Type: mount.TypeTmpfs, Target: "/scratch", TmpfsOptions: &mount.TmpfsOptions{SizeBytes: 1 << 20, Mode: 0o1770}}}
			h.CapAdd, h.CapDrop = []string{"NET_ADMIN"}, []string{"cap_mknod"}
			h.Memory, h.NanoCPUs, h.PidsLimit, h.CPUShares = 64<<20, 5e8, &limit, 512
			h.ReadonlyRootfs, h.IpcMode, h.PidMode = true, "none", "host"
			h.SecurityOpt = []string{"no-new-privileges", "seccomp=unconfined"}
			h.Ulimits = []*units.Ulimit{{Name: "nofile", Soft: 10, Hard: 20}}
			h.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "80"}
			h.OomScoreAdj, h.CgroupParent, h.ShmSize = 100, "/mine", 1<<20
			h.DeviceCgroupRules = []string{"c 10:200 rwm"}
			h.Annotations = map[string]string{"k": "v"}
		},
		"hostnet": func(c *api.Config, h *api.HostConfig) {
			c.Hostname = "pinned"
			h.NetworkMode, h.CgroupnsMode = "host", "host"
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := json.MarshalIndent(specOf(t, edit), "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name+".golden.json")
			if *update {
				if err := os.WriteFile(path, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if string(got)+"\n" != string(want) {
				t.Errorf("the spec differs from %s:\n%s", path, firstDifference(string(want), string(got)+"\n"))
			}
		})
	}
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(w), len(g)) {
		if w[i] != g[i] {
			return "-" + w[i] + "\n+" + g[i]
		}
	}
	return "one is longer"
}

func TestPrivilegedSpec(t *testing.T) {
	s := specOf(t, func(_ *api.Config, h *api.HostConfig) { h.Privileged = true })
	if s.Linux.Seccomp != nil || s.Linux.MaskedPaths != nil || s.Linux.ReadonlyPaths != nil {
		t.Error("a privileged container is confined")
	}
	if got := s.Process.Capabilities.Bounding; len(got) != len(hostCaps()) || s.Process.Capabilities.Inheritable != nil {
		t.Errorf("capabilities = %v", got)
	}
	for _, m := range s.Mounts {
		if m.Type == "sysfs" && slices.Contains(m.Options, "ro") {
			t.Error("/sys is read-only")
		}
	}
}

func TestCapabilities(t *testing.T) {
	for _, tt := range []struct {
		add, drop []string
		want      func([]string) bool
	}{
		{nil, []string{"ALL"}, func(c []string) bool { return len(c) == 0 }},
		{[]string{"chown"}, []string{"all"}, func(c []string) bool { return slices.Equal(c, []string{"CAP_CHOWN"}) }},
		{[]string{"ALL"}, []string{"SYS_ADMIN"}, func(c []string) bool {
			return len(c) == len(hostCaps())-1 && !slices.Contains(c, "CAP_SYS_ADMIN")
		}},
		{nil, nil, func(c []string) bool { return slices.Equal(c, defaultCaps) }},
	} {
		got, err := capabilities(tt.add, tt.drop, false)
		if err != nil || !tt.want(got) {
			t.Errorf("capabilities(%v, %v) = %v, %v", tt.add, tt.drop, got, err)
		}
	}
	if _, err := capabilities([]string{"BOGUS"}, nil, false); err == nil {
		t.Error("an unknown capability was accepted")
	}
}

func TestUsers(t *testing.T) {
	a := accounts{
		passwd: []byte("root:x:0:0::/root:/bin/sh\nweb:x:33:34::/:/bin/sh\n1000:x:7:7::/:/bin/sh\nhuge:x:99999999999:0::/:\n"),
		group:  []byte("root:x:0:\nweb:x:34:\nwheel:x:10:root,web\nadm:x:4:web\n"),
	}
	for _, tt := range []struct {
		spec     string
		add      []string
		uid, gid uint32
		groups   []uint32
		fails    string
	}{
		{"", nil, 0, 0, []uint32{0, 10}, ""},
		{"web", nil, 33, 34, []uint32{34, 10, 4}, ""},
		{"33", nil, 33, 34, []uint32{34, 10, 4}, ""},
		{"web:root", nil, 33, 0, []uint32{0}, ""},
		{"web:5", []string{"adm", "77"}, 33, 5, []uint32{5, 4, 77}, ""},
		{"1000", nil, 1000, 0, []uint32{0}, ""}, // a number, though a user is called so
		{"nobody", nil, 0, 0, nil, "unable to find user nobody: no matching entries in passwd file"},
		{"web:nogroup", nil, 0, 0, nil, "unable to find group nogroup: no matching entries in group file"},
		{"4294967296", nil, 0, 0, nil, "uids and gids must be in range 0-2147483647"},
		{"-1", nil, 0, 0, nil, "uids and gids must be in range 0-2147483647"},
		{"huge", nil, 0, 0, nil, "unable to find user huge: no matching entries in passwd file"},
	} {
		u, err := a.user(tt.spec, tt.add)
		if tt.fails != "" {
			if err == nil || err.Error() != tt.fails {
				t.Errorf("user(%q) = %v, want error %q", tt.spec, err, tt.fails)
			}
			continue
		}
		if err != nil || u.UID != tt.uid || u.GID != tt.gid || !slices.Equal(u.AdditionalGids, tt.groups) {
			t.Errorf("user(%q, %v) = %+v, %v", tt.spec, tt.add, u, err)
		}
	}
}

func TestCreateRefuses(t *testing.T) {
	w := newWorld(t)
	m := w.open()
	defer w.close(m)
	for _, tt := range []struct {
		text string
		edit func(*api.Config, *api.HostConfig)
	}{
		{"Minimum memory limit allowed is 6MB", func(_ *api.Config, h *api.HostConfig) { h.Memory = 1 << 20 }},
		{"You should always set the Memory limit when using Memoryswap limit, see usage", func(_ *api.Config, h *api.HostConfig) { h.MemorySwap = 1 << 30 }},
		{"Conflicting options: Nano CPUs and CPU Period cannot both be set", func(_ *api.Config, h *api.HostConfig) { h.NanoCPUs, h.CPUPeriod = 1, 1000 }},
		{"invalid volume specification: '/x:foo': invalid mount config for type \"bind\": invalid mount path: 'foo' mount path must be absolute", func(_ *api.Config, h *api.HostConfig) { h.Binds = []string{"/x:foo"} }},
		{"invalid volume specification: '/x:/:ro:z'", func(_ *api.Config, h *api.HostConfig) { h.Binds = []string{"/x:/:ro:z"} }},
		{"invalid mode: bogus", func(_ *api.Config, h *api.HostConfig) { h.Binds = []string{"/x:/y:bogus"} }},
		{"invalid mount config for type \"bind\": bind source path does not exist: /no/such", func(_ *api.Config, h *api.HostConfig) {
			h.Mounts = []mount.Mount{{Type: mount.TypeBind, Source: "/no/such", Target: "/x"}}
		}},
		{"invalid mount config for type \"bind\": invalid mount path: 'foo' mount path must be absolute", func(_ *api.Config, h *api.HostConfig) {
			h.Mounts = []mount.Mount{{Type: mount.TypeBind, Source: "foo", Target: "/x"}}
		}},
		{"Duplicate mount point: /x", func(_ *api.Config, h *api.HostConfig) { h.Binds = []string{"/tmp:/x", "/usr:/x"} }},
		{"can't create 'AutoRemove' container with restart policy", func(_ *api.Config, h *api.HostConfig) { h.AutoRemove, h.RestartPolicy.Name = true, "always" }},
		{"invalid restart policy: maximum retry count can only be used with 'on-failure'", func(_ *api.Config, h *api.HostConfig) {
			h.RestartPolicy = api.RestartPolicy{Name: "always", MaximumRetryCount: 3}
		}},
		{"invalid CapAdd: unknown capability: \"CAP_NOPE\"", func(_ *api.Config, h *api.HostConfig) { h.CapAdd = []string{"NOPE"} }},
		{"invalid IPC mode: bogus", func(_ *api.Config, h *api.HostConfig) { h.IpcMode = "bogus" }},
		{"invalid environment variable: =x", func(c *api.Config, _ *api.HostConfig) { c.Env = []string{"=x"} }},
		{"the working directory 'rel' is invalid, it needs to be an absolute path", func(c *api.Config, _ *api.HostConfig) { c.WorkingDir = "rel" }},
		{"Interval in Healthcheck cannot be less than 1ms", func(c *api.Config, _ *api.HostConfig) { c.Healthcheck = &api.HealthConfig{Interval: 1} }},
		{"logger: no log driver named 'bogus' is registered", func(_ *api.Config, h *api.HostConfig) { h.LogConfig.Type = "bogus" }},
		{"unknown log opt 'x' for json-file log driver", func(_ *api.Config, h *api.HostConfig) {
			h.LogConfig.Type = "json-file"
			h.LogConfig.Config = map[string]string{"x": "1"}
		}},
		{"invalid signal: NOPE", func(c *api.Config, _ *api.HostConfig) { c.StopSignal = "NOPE" }},
		{"unknown or invalid runtime name: bogus", func(_ *api.Config, h *api.HostConfig) { h.Runtime = "bogus" }},
		{"invalid --security-opt 2: \"bogus=1\"", func(_ *api.Config, h *api.HostConfig) { h.SecurityOpt = []string{"bogus=1"} }},
		{"create ./rel: \"./rel\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path",
			func(_ *api.Config, h *api.HostConfig) { h.Binds = []string{"./rel:/x"} }},
	} {
		c, h := &api.Config{Image: "img"}, &api.HostConfig{}
		tt.edit(c, h)
		_, err := m.Create(t.Context(), CreateOptions{Config: c, HostConfig: h})
		if err == nil || !strings.HasPrefix(err.Error(), tt.text) || !errdefs.IsInvalidArgument(err) {
			t.Errorf("Create() = %v, want %q as InvalidArgument", err, tt.text)
		}
	}
	if _, err := m.Create(t.Context(), CreateOptions{Config: &api.Config{}}); err == nil || err.Error() != "no command specified" {
		t.Errorf("no command: %v", err)
	}
	if n := m.Count().Total; n != 0 || w.snaps.count() != 0 || len(m.names) != 0 {
		t.Errorf("refused creates left %d containers, %d snapshots, names %v", n, w.snaps.count(), m.names)
	}
}

func TestParseSignal(t *testing.T) {
	for in, want := range map[string]int{"KILL": 9, "SIGTERM": 15, "term": 15, "2": 2, "RTMIN": 34, "SIGRTMIN+3": 37, "RTMAX-1": 63, "64": 64} {
		if got, err := parseSignal(in); err != nil || int(got) != want {
			t.Errorf("parseSignal(%q) = %d, %v, want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "0", "-1", "65", "NOPE", "RTMIN+31", "RTMAX-x"} {
		if got, err := parseSignal(in); err == nil {
			t.Errorf("parseSignal(%q) = %d", in, got)
		}
	}
}

func TestMergeEnv(t *testing.T) {
	got := mergeEnv([]string{"A=1", "B=2", "C=3"}, []string{"B=x", "C", "D=4", "E"})
	if want := []string{"A=1", "B=x", "D=4"}; !slices.Equal(got, want) {
		t.Errorf("mergeEnv() = %v, want %v", got, want)
	}
}

func TestFilterPS(t *testing.T) {
	out := "  PID COMMAND\n    1 init splash\n    7 sh -c x y\n    - thread\n    9 other\n    - hidden\n"
	top, err := filterPS(out, []uint32{7})
	if err != nil || len(top.Processes) != 2 || top.Processes[0][1] != "sh -c x y" || top.Processes[1][1] != "thread" {
		t.Errorf("filterPS() = %+v, %v", top, err)
	}
	if _, err := filterPS("CMD\nx\n", nil); err == nil {
		t.Error("output without a PID column was accepted")
	}
}

func FuzzParseBind(f *testing.F) {
	f.Add("/a:/b:ro,z")
	f.Add("::")
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := parseBind(s); err == nil && (p.Destination == "/" || p.Destination == "" || p.Destination[0] != '/') {
			t.Errorf("parseBind(%q) mounts at %q", s, p.Destination)
		}
	})
}

func FuzzUsers(f *testing.F) {
	f.Add("web:x", "web:x:1:2:::\n", "g:x:3:web\n")
	f.Fuzz(func(t *testing.T, spec, passwd, group string) {
		u, err := accounts{[]byte(passwd), []byte(group)}.user(spec, nil)
		if err == nil && (u.UID > maxID || u.GID > maxID) {
			t.Errorf("user(%q) = %+v", spec, u)
		}
	})
}
