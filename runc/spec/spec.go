// Package spec reads config.json of a bundle and checks what the runtime relies
// on. It refuses values that it does not know or cannot carry out, naming the
// field; properties that the specification does not define are ignored, as it
// demands.
package spec

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Version is the newest version of the runtime specification that is understood.
const Version = "1.3.0"

// maxSize bounds config.json, in bytes.
const maxSize = 16 << 20

// Load reads and validates bundle/config.json. It also returns the bytes read.
//
// Errors: NotFound if there is no config.json; InvalidArgument or NotImplemented
// for its content.
func Load(bundle string) (*specs.Spec, []byte, error) {
	f, err := os.Open(filepath.Join(bundle, "config.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, fmt.Errorf("load bundle: %w: %w", err, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("load bundle: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, nil, fmt.Errorf("load bundle: %w", err)
	}
	if len(raw) > maxSize {
		return nil, nil, fmt.Errorf("load bundle: config.json is larger than %d bytes: %w", maxSize, errdefs.ErrInvalidArgument)
	}
	s, err := Parse(raw)
	return s, raw, err
}

// config is specs.Spec without the parts for other platforms. Package json
// prepares itself for every type that it might meet, which for all of specs.Spec
// takes longer than the decoding.
type config struct {
	Version     string            `json:"ociVersion"`
	Process     *specs.Process    `json:"process"`
	Root        *specs.Root       `json:"root"`
	Hostname    string            `json:"hostname"`
	Domainname  string            `json:"domainname"`
	Mounts      []specs.Mount     `json:"mounts"`
	Hooks       *specs.Hooks      `json:"hooks"`
	Annotations map[string]string `json:"annotations"`
	Linux       *specs.Linux      `json:"linux"`
}

func (c *config) spec() *specs.Spec {
	return &specs.Spec{
		Version: c.Version, Process: c.Process, Root: c.Root, Hostname: c.Hostname, Domainname: c.Domainname,
		Mounts: c.Mounts, Hooks: c.Hooks, Annotations: c.Annotations, Linux: c.Linux,
	}
}

// Parse decodes and validates a config.json. Process and Linux of the result are
// not nil.
func Parse(raw []byte) (*specs.Spec, error) {
	var c config
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, fmt.Errorf("parse config.json: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	s := c.spec()
	if s.Linux == nil {
		s.Linux = &specs.Linux{}
	}
	if err := validate(s); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	return s, nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

func missing(field string) error {
	return fmt.Errorf("%s: %w", field, errdefs.ErrNotImplemented)
}

func validate(s *specs.Spec) error {
	major, _, _ := strings.Cut(s.Version, ".")
	if n, err := strconv.Atoi(major); err != nil || n != 1 {
		return invalid("ociVersion: %q is not a version 1.x", s.Version)
	}
	if s.Root == nil || s.Root.Path == "" {
		return invalid("root.path: is required")
	}
	if s.Process == nil {
		return invalid("process: is required")
	}
	if err := ValidateProcess(s.Process); err != nil {
		return err
	}
	spaces, err := namespaces(s.Linux)
	if err != nil {
		return err
	}
	if s.Hostname != "" && spaces[specs.UTSNamespace] == nil {
		return invalid("hostname: needs a uts namespace of the container")
	}
	if s.Domainname != "" && spaces[specs.UTSNamespace] == nil {
		return invalid("domainname: needs a uts namespace of the container")
	}
	for i, m := range s.Mounts {
		if err := mount(&m); err != nil {
			return fmt.Errorf("mounts[%d]: %w", i, err)
		}
	}
	return linux(s.Linux, spaces)
}

// ValidateProcess checks a process, of config.json or of an exec.
func ValidateProcess(p *specs.Process) error {
	if len(p.Args) == 0 {
		return invalid("process.args: at least one argument is needed")
	}
	if p.Args[0] == "" {
		return invalid("process.args: the program's name is empty")
	}
	if !filepath.IsAbs(p.Cwd) {
		return invalid("process.cwd: %q is not absolute", p.Cwd)
	}
	seen := map[string]bool{}
	for _, l := range p.Rlimits {
		if seen[l.Type] {
			return invalid("process.rlimits: %s is given twice", l.Type)
		}
		seen[l.Type] = true
		if l.Soft > l.Hard {
			return invalid("process.rlimits: %s: soft limit %d is above hard limit %d", l.Type, l.Soft, l.Hard)
		}
	}
	if a := p.OOMScoreAdj; a != nil && (*a < -1000 || *a > 1000) {
		return invalid("process.oomScoreAdj: %d is not within -1000..1000", *a)
	}
	for _, e := range p.Env {
		if strings.IndexByte(e, '=') < 1 {
			return invalid("process.env: %q is not NAME=value", e)
		}
	}
	return nil
}

func namespaces(l *specs.Linux) (map[specs.LinuxNamespaceType]*specs.LinuxNamespace, error) {
	m := map[specs.LinuxNamespaceType]*specs.LinuxNamespace{}
	for i := range l.Namespaces {
		n := &l.Namespaces[i]
		switch n.Type {
		case specs.PIDNamespace, specs.NetworkNamespace, specs.MountNamespace, specs.IPCNamespace, specs.UTSNamespace,
			specs.UserNamespace, specs.CgroupNamespace, specs.TimeNamespace:
		default:
			return nil, invalid("linux.namespaces: unknown type %q", n.Type)
		}
		if m[n.Type] != nil {
			return nil, invalid("linux.namespaces: %s is given twice", n.Type)
		}
		if n.Path != "" && !filepath.IsAbs(n.Path) {
			return nil, invalid("linux.namespaces: path %q of %s is not absolute", n.Path, n.Type)
		}
		m[n.Type] = n
	}
	return m, nil
}

func linux(l *specs.Linux, spaces map[specs.LinuxNamespaceType]*specs.LinuxNamespace) error {
	user := spaces[specs.UserNamespace]
	switch m := spaces[specs.MountNamespace]; {
	case m != nil && m.Path != "":
		return missing("linux.namespaces: a mount namespace given by path")
	case m == nil && len(l.MaskedPaths)+len(l.ReadonlyPaths) > 0:
		return invalid("linux.maskedPaths and readonlyPaths: need a mount namespace of the container")
	case m == nil && user != nil:
		return invalid("linux.namespaces: a user namespace needs a mount namespace of the container")
	}
	mapped := len(l.UIDMappings)+len(l.GIDMappings) > 0
	switch {
	case user == nil && mapped:
		return invalid("linux.uidMappings: need a user namespace")
	case user != nil && user.Path == "" && (len(l.UIDMappings) == 0 || len(l.GIDMappings) == 0):
		return invalid("linux.uidMappings and gidMappings: are required with a new user namespace")
	}
	if t := spaces[specs.TimeNamespace]; len(l.TimeOffsets) > 0 && (t == nil || t.Path != "") {
		return invalid("linux.timeOffsets: need a new time namespace")
	}
	for clock := range l.TimeOffsets {
		if clock != "monotonic" && clock != "boottime" {
			return invalid("linux.timeOffsets: unknown clock %q", clock)
		}
	}
	switch l.RootfsPropagation {
	case "", "private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable":
	default:
		return invalid("linux.rootfsPropagation: unknown value %q", l.RootfsPropagation)
	}
	if l.IntelRdt != nil {
		return missing("linux.intelRdt")
	}
	if err := netDevices(l, spaces); err != nil {
		return err
	}
	for _, paths := range [][]string{l.MaskedPaths, l.ReadonlyPaths} {
		for _, p := range paths {
			if !filepath.IsAbs(p) {
				return invalid("linux.maskedPaths and readonlyPaths: %q is not absolute", p)
			}
		}
	}
	for key := range l.Sysctl {
		if err := sysctl(key, spaces); err != nil {
			return err
		}
	}
	return nil
}

// netDevices checks the devices that the container gets.
func netDevices(l *specs.Linux, spaces map[specs.LinuxNamespaceType]*specs.LinuxNamespace) error {
	if len(l.NetDevices) > 0 && spaces[specs.NetworkNamespace] == nil {
		return invalid("linux.netDevices: need a network namespace of the container")
	}
	taken := map[string]bool{}
	for host, d := range l.NetDevices {
		name := d.Name
		if name == "" {
			name = host
		}
		for _, n := range []string{host, name} {
			if n == "" || len(n) > 15 || n == "." || n == ".." || strings.ContainsAny(n, "/:% \t\n\v\f\r\x00") {
				return invalid("linux.netDevices: invalid network device name %q", n)
			}
		}
		if taken[name] {
			return invalid("linux.netDevices: name %q is given twice", name)
		}
		taken[name] = true
	}
	return nil
}

// sysctl allows the sysctls that belong to a namespace of the container.
func sysctl(key string, spaces map[specs.LinuxNamespaceType]*specs.LinuxNamespace) error {
	name := strings.ReplaceAll(key, "/", ".")
	need := func(t specs.LinuxNamespaceType) error {
		if spaces[t] == nil {
			return invalid("linux.sysctl: %q needs a %s namespace of the container", key, t)
		}
		return nil
	}
	if strings.Contains(name, "..") {
		return invalid("linux.sysctl: bad key %q", key)
	}
	switch name {
	case "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax",
		"kernel.shmmni", "kernel.shm_rmid_forced":
		return need(specs.IPCNamespace)
	case "kernel.domainname":
		return need(specs.UTSNamespace)
	case "kernel.hostname":
		return invalid("linux.sysctl: %q: set hostname instead", key)
	}
	switch {
	case strings.HasPrefix(name, "fs.mqueue."):
		return need(specs.IPCNamespace)
	case strings.HasPrefix(name, "net."):
		if n := spaces[specs.NetworkNamespace]; n == nil {
			return need(specs.NetworkNamespace)
		}
		return nil
	case strings.HasPrefix(name, "user."):
		return need(specs.UserNamespace)
	}
	return invalid("linux.sysctl: %q does not belong to a namespace of the container", key)
}

// mountableInProc are the files below /proc that may be replaced one by one, as
// lxcfs does.
var mountableInProc = []string{
	"/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps", "/proc/uptime", "/proc/loadavg",
	"/proc/slabinfo", "/proc/net/dev", "/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled",
}

// mount refuses mounts over procfs, which would let an image choose what the
// runtime and security tools see there (CVE-2019-16884).
func mount(m *specs.Mount) error {
	if m.Destination == "" {
		return invalid("destination: is required")
	}
	dest := filepath.Clean("/" + m.Destination)
	if dest == "/proc" {
		if m.Type == "proc" || procfs(m.Source) {
			return nil
		}
		return invalid("destination: only proc can be mounted on /proc, not %q", m.Type)
	}
	if !strings.HasPrefix(dest, "/proc/") {
		return nil
	}
	for _, ok := range mountableInProc {
		if dest == ok {
			return nil
		}
	}
	return invalid("destination: %q is inside /proc and cannot be mounted over", m.Destination)
}
