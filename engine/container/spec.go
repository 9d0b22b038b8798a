package container

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	mounttypes "github.com/moby/moby/api/types/mount"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"
)

const (
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	initTarget  = "/sbin/docker-init" // where docker-init is mounted
)

// The type URLs under which containerd and its shims know OCI documents.
const (
	urlSpec      = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
	urlProcess   = "types.containerd.io/opencontainers/runtime-spec/1/Process"
	urlResources = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
)

// specInput is what a spec depends on beside the record. A spec is always made
// anew from the API request; nothing of an image but its config values, which
// the record holds merged, reaches it (CVE-2014-6408, CVE-2026-53488).
type specInput struct {
	user specs.User
	// namespaces to join by path, of those in namespaceTypes; "host" for the
	// host's, absent for a new one.
	namespaces map[specs.LinuxNamespaceType]string
	files      []specs.Mount // hosts, hostname, resolv.conf, shared memory
	cgroupV2   bool
	devices    devices
	env        []string // of links
	// sources are the mounts, by destination, that openSources made.
	sources map[string]specs.Mount
}

// spec returns the OCI runtime configuration of r.
func (m *Manager) spec(r *record, in specInput) (*specs.Spec, error) {
	h := r.HostConfig
	sec, err := parseSecurity(h.SecurityOpt)
	if err != nil {
		return nil, err
	}
	process, err := m.process(r, in, sec)
	if err != nil {
		return nil, err
	}
	resources, err := resources(&h.Resources)
	if err != nil {
		return nil, err
	}
	resources.Devices = in.devices.rules
	parent := h.CgroupParent
	if parent == "" {
		parent = m.cfg.CgroupParent
	}
	s := &specs.Spec{
		Version:     specs.Version,
		Process:     process,
		Root:        &specs.Root{Path: "rootfs", Readonly: h.ReadonlyRootfs},
		Hostname:    r.Config.Hostname,
		Annotations: h.Annotations,
		Linux: &specs.Linux{
			CgroupsPath:   path.Join("/", parent, r.ID),
			Resources:     resources,
			Devices:       in.devices.nodes,
			Sysctl:        sysctls(r),
			MaskedPaths:   maskedPaths(r),
			ReadonlyPaths: readonlyPaths(r),
			Namespaces:    namespaceList(r, in),
		},
	}
	if h.UTSMode.IsHost() {
		s.Hostname = ""
	}
	if err := m.mounts(s, r, in, sec); err != nil {
		return nil, err
	}
	if m.wantsInit(r) {
		s.Process.Args = append([]string{initTarget, "--"}, s.Process.Args...)
		s.Mounts = append(s.Mounts, specs.Mount{
			Destination: initTarget, Type: "bind", Source: m.cfg.InitPath, Options: []string{"bind", "ro", "rprivate"},
		})
	}
	if err := m.injectDevices(s, r); err != nil {
		return nil, err
	}
	text := sec.seccomp
	if text == "" && h.Privileged {
		text = "unconfined"
	} else if text == "" {
		text = m.cfg.SeccompProfile
	}
	if s.Linux.Seccomp, err = m.profiles.profile(text, s); err != nil {
		return nil, err
	}
	return s, nil
}

// wantsInit reports whether the container's program runs below docker-init,
// which makes no sense in a pid namespace that has an init already.
func (m *Manager) wantsInit(r *record) bool {
	if !r.HostConfig.PidMode.IsPrivate() {
		return false
	}
	if r.HostConfig.Init != nil {
		return *r.HostConfig.Init
	}
	return m.cfg.Init
}

// process returns the init process.
func (m *Manager) process(r *record, in specInput, sec security) (*specs.Process, error) {
	h := r.HostConfig
	caps, err := capabilities(h.CapAdd, h.CapDrop, h.Privileged)
	if err != nil {
		return nil, err
	}
	cwd := r.Config.WorkingDir
	if cwd == "" {
		cwd = "/"
	}
	u := in.user
	if h.Umask != nil {
		u.Umask = h.Umask
	}
	score := h.OomScoreAdj
	p := &specs.Process{
		Terminal:        r.Config.Tty,
		User:            u,
		Args:            append([]string{r.Path}, r.Args...),
		Env:             m.environment(r, r.Config.Tty, in.env...),
		Cwd:             cwd,
		Capabilities:    &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		Rlimits:         m.rlimits(r),
		NoNewPrivileges: m.cfg.NoNewPrivileges,
		OOMScoreAdj:     &score,
	}
	if sec.noNewPrivileges != nil {
		p.NoNewPrivileges = *sec.noNewPrivileges
	}
	if size := h.ConsoleSize; r.Config.Tty && size != [2]uint{} {
		p.ConsoleSize = &specs.Box{Height: size[0], Width: size[1]}
	}
	return p, nil
}

// environment returns the variables of a process: the engine's and extra,
// overridden by the container's.
func (m *Manager) environment(r *record, tty bool, extra ...string) []string {
	env := []string{"PATH=" + defaultPath, "HOSTNAME=" + r.Config.Hostname}
	if tty {
		env = append(env, "TERM=xterm")
	}
	env = mergeEnv(env, m.cfg.DefaultEnv)
	env = mergeEnv(env, extra)
	return mergeEnv(env, r.Config.Env)
}

// mergeEnv returns base with the variables of over set; one without "=" is
// removed.
func mergeEnv(base, over []string) []string {
	env := slices.Clone(base)
	for _, v := range over {
		key, _, set := strings.Cut(v, "=")
		at := slices.IndexFunc(env, func(e string) bool { return strings.HasPrefix(e, key+"=") })
		switch {
		case set && at >= 0:
			env[at] = v
		case set:
			env = append(env, v)
		case at >= 0:
			env = slices.Delete(env, at, at+1)
		}
	}
	return env
}

// rlimits returns the limits asked for, completed by the engine's defaults.
func (m *Manager) rlimits(r *record) []specs.POSIXRlimit {
	var out []specs.POSIXRlimit
	seen := map[string]bool{}
	for _, list := range [2]any{r.HostConfig.Ulimits, m.cfg.DefaultUlimits} {
		for _, u := range list.([]*ulimit) {
			if seen[u.Name] {
				continue
			}
			seen[u.Name] = true
			out = append(out, specs.POSIXRlimit{
				Type: "RLIMIT_" + strings.ToUpper(u.Name), Soft: uint64(u.Soft), Hard: uint64(u.Hard),
			})
		}
	}
	return out
}

// namespaceTypes are the namespaces that containers can have.
var namespaceTypes = []specs.LinuxNamespaceType{
	specs.MountNamespace, specs.NetworkNamespace, specs.UTSNamespace,
	specs.PIDNamespace, specs.IPCNamespace, specs.CgroupNamespace,
}

func namespaceList(r *record, in specInput) []specs.LinuxNamespace {
	h := r.HostConfig
	host := map[specs.LinuxNamespaceType]bool{
		specs.NetworkNamespace: h.NetworkMode.IsHost() && !r.Config.NetworkDisabled,
		specs.UTSNamespace:     h.UTSMode.IsHost(),
		specs.PIDNamespace:     h.PidMode.IsHost(),
		specs.IPCNamespace:     h.IpcMode.IsHost(),
		specs.CgroupNamespace:  !h.CgroupnsMode.IsPrivate(),
	}
	var list []specs.LinuxNamespace
	for _, typ := range namespaceTypes {
		if !host[typ] {
			list = append(list, specs.LinuxNamespace{Type: typ, Path: in.namespaces[typ]})
		}
	}
	return list
}

func sysctls(r *record) map[string]string {
	all := map[string]string{}
	if r.Config.Domainname != "" && !r.HostConfig.UTSMode.IsHost() {
		all["kernel.domainname"] = r.Config.Domainname // the OCI's field of that name is younger than the runtimes in use
	}
	if mode := r.HostConfig.NetworkMode; !mode.IsHost() && !mode.IsContainer() {
		// Safe inside a network namespace of its own: ping and low ports without
		// a capability.
		all["net.ipv4.ping_group_range"] = "0 2147483647"
		all["net.ipv4.ip_unprivileged_port_start"] = "0"
	}
	for key, value := range r.HostConfig.Sysctls {
		all[key] = value
	}
	return all
}

// defaultMasked are files that say or do too much on the host.
var defaultMasked = []string{
	"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
	"/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
	"/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
}

var defaultReadonly = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}

func maskedPaths(r *record) []string {
	switch {
	case r.HostConfig.MaskedPaths != nil:
		return r.HostConfig.MaskedPaths
	case r.HostConfig.Privileged:
		return nil
	}
	return append(slices.Clone(defaultMasked), thermalThrottle()...)
}

func readonlyPaths(r *record) []string {
	switch {
	case r.HostConfig.ReadonlyPaths != nil:
		return r.HostConfig.ReadonlyPaths
	case r.HostConfig.Privileged:
		return nil
	}
	return slices.Clone(defaultReadonly)
}

// thermalThrottle returns the counters of each processor, through which
// containers could tell what others do.
func thermalThrottle() []string {
	var paths []string
	text, err := readSmall("/sys/devices/system/cpu/possible")
	if err != nil {
		return nil
	}
	cpus, err := parseSet(strings.TrimSpace(text))
	if err != nil {
		return nil
	}
	for n := range maxSet + 1 {
		if !cpus[n] {
			continue
		}
		p := "/sys/devices/system/cpu/cpu" + strconv.Itoa(n) + "/thermal_throttle"
		if _, err := os.Stat(p); err == nil {
			paths = append(paths, p)
		}
	}
	return paths
}

// baseMounts are the kernel's file systems that every container has.
func baseMounts(r *record) []specs.Mount {
	all := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}},
	}
	if !r.HostConfig.IpcMode.IsHost() { // else the host's is in the input's files
		all = append(all, specs.Mount{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}})
	}
	if r.HostConfig.IpcMode.IsPrivate() || r.HostConfig.IpcMode.IsEmpty() {
		all = append(all, specs.Mount{
			Destination: "/dev/shm", Type: "tmpfs", Source: "shm",
			Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=" + strconv.FormatInt(r.HostConfig.ShmSize, 10)},
		})
	}
	return all
}

// mounts sets the mounts of s: the kernel's, the engine's files, tmpfs, and the
// container's own, each over what a former one put there.
func (m *Manager) mounts(s *specs.Spec, r *record, in specInput, sec security) error {
	own, err := ownMounts(s, r, in.sources)
	if err != nil {
		return err
	}
	for _, f := range in.files {
		if !slices.ContainsFunc(own, func(o specs.Mount) bool { return o.Destination == f.Destination }) {
			own = append(own, f)
		}
	}
	slices.SortStableFunc(own, func(a, b specs.Mount) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
	taken := map[string]bool{}
	for _, o := range own {
		taken[o.Destination] = true
	}
	for _, b := range baseMounts(r) {
		if taken[b.Destination] || taken["/dev"] && strings.HasPrefix(b.Destination, "/dev/") {
			continue
		}
		writable := r.HostConfig.Privileged
		if b.Type == "cgroup" && sec.writableCgroups != nil {
			writable = *sec.writableCgroups
		}
		switch {
		case writable && (b.Type == "sysfs" || b.Type == "cgroup"):
			b.Options = slices.DeleteFunc(b.Options, func(o string) bool { return o == "ro" })
		case r.HostConfig.ReadonlyRootfs && (b.Type == "sysfs" || b.Type == "cgroup") && !slices.Contains(b.Options, "ro"):
			b.Options = append(b.Options, "ro")
		}
		s.Mounts = append(s.Mounts, b)
	}
	s.Mounts = append(s.Mounts, own...)
	return nil
}

// ownMounts returns the volumes, binds, images and tmpfs of r.
func ownMounts(s *specs.Spec, r *record, sources map[string]specs.Mount) ([]specs.Mount, error) {
	var all []specs.Mount
	for dest, data := range r.HostConfig.Tmpfs {
		all = append(all, tmpfs(path.Clean(dest), strings.FieldsFunc(data, func(c rune) bool { return c == ',' })))
	}
	slices.SortFunc(all, func(a, b specs.Mount) int { return strings.Compare(a.Destination, b.Destination) })
	for _, p := range r.Mounts {
		if made, ok := sources[p.Destination]; ok {
			all = append(all, made)
			continue
		}
		switch p.Type {
		case mounttypes.TypeTmpfs:
			opts, err := tmpfsOptions(p.Spec)
			if err != nil {
				return nil, err
			}
			all = append(all, tmpfs(p.Destination, opts))
		case mounttypes.TypeBind, mounttypes.TypeVolume:
			opts := bindOptions(p)
			switch p.Propagation {
			case mounttypes.PropagationShared, mounttypes.PropagationRShared:
				s.Linux.RootfsPropagation = "shared"
			case mounttypes.PropagationSlave, mounttypes.PropagationRSlave:
				if s.Linux.RootfsPropagation == "" {
					s.Linux.RootfsPropagation = "rslave"
				}
			}
			all = append(all, specs.Mount{Destination: p.Destination, Type: "bind", Source: p.Source, Options: opts})
		default:
			return nil, fmt.Errorf("mount %s: type %q is not supported", p.Destination, p.Type)
		}
	}
	return all, nil
}

func bindOptions(p mountPoint) []string {
	opts, readOnly := []string{"rbind"}, "rro"
	if p.Spec != nil && p.Spec.BindOptions != nil {
		o := p.Spec.BindOptions
		if o.NonRecursive {
			opts, readOnly = []string{"bind"}, "ro"
		}
		if o.ReadOnlyNonRecursive {
			readOnly = "ro"
		}
	}
	if !p.RW {
		opts = append(opts, readOnly)
	}
	if p.Propagation != "" {
		opts = append(opts, string(p.Propagation))
	} else {
		opts = append(opts, "rprivate")
	}
	return opts
}

// tmpfs returns a tmpfs mount with the safe options unless others contradict.
func tmpfs(dest string, options []string) specs.Mount {
	opts := []string{"noexec", "nosuid", "nodev", "rprivate"}
	opposite := map[string]string{
		"exec": "noexec", "noexec": "exec", "suid": "nosuid", "nosuid": "suid", "dev": "nodev", "nodev": "dev", "rw": "ro", "ro": "rw",
	}
	for _, o := range options {
		key, _, _ := strings.Cut(o, "=")
		opts = slices.DeleteFunc(opts, func(have string) bool {
			k, _, _ := strings.Cut(have, "=")
			return have == opposite[o] || k == key
		})
		opts = append(opts, o)
	}
	return specs.Mount{Destination: dest, Type: "tmpfs", Source: "tmpfs", Options: opts}
}

// anyOf wraps an encoded OCI document.
func anyOf(url string, data []byte) *anypb.Any { return &anypb.Any{TypeUrl: url, Value: data} }
