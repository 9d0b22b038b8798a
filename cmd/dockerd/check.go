package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	api "github.com/moby/moby/api/types/container"

	"lighter/engine/log/driver"
)

// check refuses values that can't work, completes what depends on others and
// makes paths absolute.
func (c *config) check() error {
	for _, p := range []*string{&c.DataRoot, &c.ExecRoot, &c.Pidfile} {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return err
		}
		*p = abs
	}
	if c.DataRoot == "" || c.ExecRoot == "" {
		return errors.New("data-root and exec-root must not be empty")
	}
	for _, step := range []func() error{
		c.checkDaemon, c.checkRegistries, c.checkContainers, c.checkNetwork, c.checkMissing, c.checkTLS, c.checkHosts,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// checkDaemon checks what concerns the daemon itself.
func (c *config) checkDaemon() error {
	if c.Debug {
		c.LogLevel = "debug"
	}
	if _, err := parseLevel(c.LogLevel); err != nil {
		return err
	}
	if c.LogFormat != "text" && c.LogFormat != "json" {
		return fmt.Errorf("invalid log format: %s", c.LogFormat)
	}
	if c.Containerd == "" && (c.Namespace == "" || c.PluginsNamespace == "") {
		return errors.New("containerd namespaces must not be empty")
	}
	seen := map[string]string{}
	for _, l := range c.Labels {
		k, v, ok := strings.Cut(l, "=")
		if !ok || k == "" {
			return fmt.Errorf("bad attribute format: %s", l)
		}
		if old, dup := seen[k]; dup && old != v {
			return fmt.Errorf("conflict labels for %s=%s and %s=%s", k, v, k, old)
		}
		seen[k] = v
	}
	if c.MetricsAddr != "" {
		if _, port, err := net.SplitHostPort(c.MetricsAddr); err != nil {
			return fmt.Errorf("invalid metrics address %q: %w", c.MetricsAddr, err)
		} else if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return fmt.Errorf("invalid metrics address %q: invalid port %q", c.MetricsAddr, port)
		}
	}
	for name, proxy := range map[string]string{"http-proxy": c.Proxies.HTTP, "https-proxy": c.Proxies.HTTPS} {
		if _, err := url.Parse(proxy); err != nil {
			return fmt.Errorf("invalid %s: not a URL", name) // the error would show a password
		}
	}
	return nil
}

func (c *config) checkRegistries() error {
	for i, m := range c.Mirrors {
		u, err := url.Parse(m)
		switch {
		case err != nil:
			return fmt.Errorf("invalid mirror: %q is not a valid URI", m)
		case u.Scheme != "http" && u.Scheme != "https":
			return fmt.Errorf("invalid mirror: no scheme specified for %q: must use either 'https://' or 'http://'", m)
		case u.Host == "" || u.RawQuery != "" || u.Fragment != "":
			return fmt.Errorf("invalid mirror: query or fragment at end of the URI %q", m)
		case u.User != nil:
			return fmt.Errorf("invalid mirror: username/password not allowed in URI %q", maskURL(m))
		}
		if !strings.HasSuffix(m, "/") {
			c.Mirrors[i] = m + "/"
		}
	}
	for i, r := range c.InsecureRegistry {
		if rest, ok := strings.CutPrefix(strings.TrimPrefix(r, "https://"), "http://"); ok || rest != r {
			c.InsecureRegistry[i] = strings.TrimSuffix(rest, "/")
			continue
		}
		if strings.Contains(r, "://") {
			return fmt.Errorf("insecure registry %s should not contain '://'", r)
		}
	}
	for name, n := range map[string]int{
		"max concurrent downloads": c.MaxDownloads, "max concurrent uploads": c.MaxUploads,
	} {
		if n < 0 {
			return fmt.Errorf("invalid %s: %d", name, n)
		}
	}
	if c.DownloadAttempts < 1 {
		return fmt.Errorf("invalid max download attempts: %d", c.DownloadAttempts)
	}
	return nil
}

func (c *config) checkContainers() error {
	if c.StopTimeout < 0 {
		return fmt.Errorf("invalid default stop timeout %d: must not be negative", c.StopTimeout)
	}
	if c.ContainerLogLimit < 0 {
		return fmt.Errorf("invalid container-log-limit %d: must not be negative", c.ContainerLogLimit)
	}
	if err := driver.Check(c.LogDriver, c.LogOpts); err != nil {
		return fmt.Errorf("failed to set log opts: %w", err)
	}
	if c.ShmSize < 0 {
		return fmt.Errorf("invalid default shm size %d: must not be negative", c.ShmSize)
	}
	if m := api.IpcMode(c.IPCMode); !m.IsEmpty() && !m.IsPrivate() && !m.IsShareable() {
		return fmt.Errorf("IPC mode %q is not supported as the default: use private or shareable", c.IPCMode)
	}
	if m := api.CgroupnsMode(c.CgroupNS); !m.Valid() {
		return fmt.Errorf("default cgroup namespace mode (%s) is invalid; use 'host' or 'private'", c.CgroupNS)
	}
	for name, r := range c.Runtimes {
		switch {
		case name == defaultRuntime:
			return errors.New("runtime name 'runc' is reserved")
		case r.Path == "" && r.Type == "":
			return fmt.Errorf("runtime %s: either a runtimeType or a path must be configured", name)
		case r.Type != "" && (r.Path != "" || len(r.Args) > 0):
			return fmt.Errorf("runtime %s: cannot configure both path and runtimeType for the same runtime", name)
		case r.Type == "" && len(r.Options) > 0:
			return fmt.Errorf("runtime %s: options cannot be used with a path runtime", name)
		}
	}
	if len(c.CDISpecDirs) == 1 && c.CDISpecDirs[0] == "" {
		c.CDISpecDirs = nil // the way to disable it
	}
	if _, ok := c.Runtimes[c.DefaultRuntime]; !ok && c.DefaultRuntime != defaultRuntime && !strings.HasPrefix(c.DefaultRuntime, "io.containerd.") {
		return fmt.Errorf("specified default runtime '%s' does not exist", c.DefaultRuntime)
	}
	for name, l := range c.Ulimits {
		if l == nil || l.Name != "" && l.Name != name {
			return fmt.Errorf("invalid default ulimit %q", name)
		}
		l.Name = name
		if l.Hard != -1 && (l.Soft == -1 || l.Soft > l.Hard) {
			return fmt.Errorf("ulimit soft limit must be less than or equal to hard limit: %d > %d", l.Soft, l.Hard)
		}
	}
	for _, o := range c.ExecOpts {
		key, value, ok := strings.Cut(o, "=")
		switch {
		case !ok:
			return fmt.Errorf("invalid exec-opt %q: key=value is wanted", o)
		case key != "native.cgroupdriver":
			return fmt.Errorf("invalid option: %q", key)
		case value == "systemd":
			return errors.New("native.cgroupdriver=systemd is not implemented: only cgroupfs is")
		case value != "cgroupfs":
			return fmt.Errorf("option native.cgroupdriver: %q is not supported: use cgroupfs", value)
		}
	}
	if p := c.SeccompProfile; p != "" && p != "builtin" && p != "unconfined" {
		if raw, err := os.ReadFile(p); err != nil {
			return fmt.Errorf("opening seccomp profile (%s) failed: %w", p, err)
		} else if !validJSON(raw) {
			return fmt.Errorf("seccomp profile (%s) is not a JSON object", p)
		}
	}
	return nil
}

func (c *config) checkNetwork() error {
	if c.BIP != "" {
		if c.Bridge != "" && c.Bridge != "docker0" {
			return errors.New("you specified -b & --bip, mutually exclusive options. Please specify only one")
		}
		if p, err := netip.ParsePrefix(c.BIP); err != nil || !p.Addr().Is4() {
			return fmt.Errorf("invalid --bip %q: an IPv4 address with its prefix length, such as 172.17.0.1/16, is wanted", c.BIP)
		}
	}
	if c.FixedCIDR != "" {
		if _, err := netip.ParsePrefix(c.FixedCIDR); err != nil {
			return fmt.Errorf("invalid --fixed-cidr %q: %w", c.FixedCIDR, err)
		}
	}
	for name, value := range map[string]string{"bip6": c.BIP6, "fixed-cidr-v6": c.FixedCIDR6} {
		if p, err := netip.ParsePrefix(value); value != "" && (err != nil || !p.Addr().Is6() || p.Bits() > 126) {
			return fmt.Errorf("invalid --%s %q: an IPv6 address with its prefix length, such as fd00::1/64, is wanted", name, value)
		}
	}
	if addr, err := netip.ParseAddr(c.Gateway6); c.Gateway6 != "" && (err != nil || !addr.Is6()) {
		return fmt.Errorf("invalid --default-gateway-v6 %q: an IPv6 address is wanted", c.Gateway6)
	}
	if !c.IPTables && !c.ICC {
		return errors.New("you specified --iptables=false with --icc=false. ICC=false uses iptables to function. Please set --icc or --iptables to true")
	}
	if !c.IPTables {
		c.IPMasq = false // Docker compatibility: nothing can masquerade without rules
	}
	for name, value := range map[string]string{"default-gateway": c.Gateway, "ip": c.BindIP} {
		if _, err := netip.ParseAddr(value); value != "" && err != nil {
			return fmt.Errorf("invalid --%s %q: an IP address is wanted", name, value)
		}
	}
	four, six := 0, 0
	for _, value := range c.HostGatewayIPs {
		addr, err := netip.ParseAddr(value)
		if err != nil {
			return fmt.Errorf("invalid host gateway IP %q: an IP address is wanted", value)
		}
		if addr.Unmap().Is4() {
			four++
		} else {
			six++
		}
	}
	if four > 1 || six > 1 {
		return errors.New("at most one IPv4 and one IPv6 address can be given for host-gateway-ip")
	}
	for _, d := range c.DNS {
		if _, err := netip.ParseAddr(d); err != nil {
			return fmt.Errorf("invalid --dns %q: an IP address is wanted", d)
		}
	}
	for _, p := range c.AddressPools {
		base, err := netip.ParsePrefix(p.Base)
		if err != nil {
			return fmt.Errorf("invalid default address pool %q: %w", p.Base, err)
		}
		if p.Size < base.Bits() || p.Size > base.Addr().BitLen() {
			return fmt.Errorf("invalid default address pool %q: size %d is not between %d and %d", p.Base, p.Size, base.Bits(), base.Addr().BitLen())
		}
	}
	if c.FirewallMode != "" && c.FirewallMode != "translate" && c.FirewallMode != "respect" {
		return fmt.Errorf("invalid firewall-mode %q: use translate or respect", c.FirewallMode)
	}
	if _, _, err := parseMark(c.AcceptFwmark); err != nil {
		return fmt.Errorf("invalid bridge-accept-fwmark %q: %w", c.AcceptFwmark, err)
	}
	if c.FirewallBackend != "" && c.FirewallBackend != "nftables" && c.FirewallBackend != "iptables" {
		return fmt.Errorf("invalid firewall-backend %q: use iptables or nftables", c.FirewallBackend)
	}
	if c.UserlandProxyPath != "" && !filepath.IsAbs(c.UserlandProxyPath) {
		return fmt.Errorf("invalid userland-proxy-path: must be an absolute path: %s", c.UserlandProxyPath)
	}
	return nil
}

var remapName = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.-]*(:[a-zA-Z0-9_][a-zA-Z0-9_.-]*)?$`)

// checkMissing refuses what this engine cannot do, rather than run without it.
func (c *config) checkMissing() error {
	if c.UsernsRemap != "" && !remapName.MatchString(c.UsernsRemap) {
		return fmt.Errorf("invalid userns-remap %q: default, user or user:group is wanted", c.UsernsRemap)
	}
	switch c.StorageDriver {
	case "", "overlayfs", "overlay2", "native", "vfs":
	default:
		return fmt.Errorf("[graphdriver] ERROR: the storage driver %q is not available: use overlayfs or native", c.StorageDriver)
	}
	if err := c.Builder.check(); err != nil {
		return err
	}
	snapshotter, listed := c.Features["containerd-snapshotter"]
	for _, m := range []struct {
		wanted    bool
		key, what string
	}{
		{c.CRI, "cri-containerd", "the Kubernetes interface of containerd"},
		{c.UsernsRemap != "", "userns-remap", "running containers in a user namespace"},
		{c.Rootless, "rootless", "running without root"},
		{c.SELinux, "selinux-enabled", "SELinux labels"},
		{c.CPURealtimePeriod != 0, "cpu-rt-period", "real-time scheduling of containers"},
		{c.CPURealtimeRun != 0, "cpu-rt-runtime", "real-time scheduling of containers"},
		{len(c.StorageOpts) > 0, "storage-opts", "options of the storage driver"},
		{listed && !snapshotter, "features.containerd-snapshotter=false", "image storage outside of containerd"},
		{c.NRI.Enable, "nri-opts", "the node resource interface"},
		{c.FirewallBackend == "iptables", "firewall-backend=iptables", "a firewall by iptables instead of nftables"},
		{c.DiagnosticPort != 0, "network-diagnostic-port", "the network diagnostic server"},
		{c.ControlPlaneMTU != 1500, "network-control-plane-mtu", "clustering"},
		{c.AdvertiseAddr != "", "swarm-default-advertise-addr", "clustering"},
		{len(c.GenericResources) > 0, "node-generic-resources", "clustering"},
	} {
		if m.wanted {
			return fmt.Errorf("%s: %s is not implemented by this version of the engine", m.key, m.what)
		}
	}
	return nil
}

// notes say which settings have no effect here, for the log.
func (c *config) notes() []string {
	var out []string
	if c.UserlandProxyPath != "" {
		out = append(out, "userland-proxy-path has no effect: published ports are forwarded without another program")
	}
	if c.IPTables != c.IP6Tables {
		out = append(out, "ip6tables has no effect: one table has the rules of IPv4 and IPv6, iptables turns it on and off")
	}
	if c.StorageDriver == "overlay2" || c.StorageDriver == "vfs" {
		out = append(out, fmt.Sprintf("storage-driver %s is taken for %s: images are in the containerd store", c.StorageDriver, c.snapshotter()))
	}
	return out
}

// snapshotter is the containerd snapshotter of the storage driver, "" for the
// default.
func (c *config) snapshotter() string {
	switch c.StorageDriver {
	case "overlay2", "overlayfs":
		return "overlayfs"
	case "vfs", "native":
		return "native"
	}
	return ""
}

// checkTLS completes the certificates' paths and sees that they can be used.
func (c *config) checkTLS() error {
	if c.TLS == nil && c.TLSVerify == nil {
		return nil
	}
	if !c.useTLS() {
		return nil
	}
	dir := os.Getenv("DOCKER_CERT_PATH")
	if dir == "" {
		if dir = os.Getenv("DOCKER_CONFIG"); dir == "" {
			home, _ := os.UserHomeDir()
			dir = filepath.Join(home, ".docker")
		}
	}
	for path, name := range map[*string]string{&c.TLSCACert: "ca.pem", &c.TLSCert: "cert.pem", &c.TLSKey: "key.pem"} {
		if *path == "" {
			*path = filepath.Join(dir, name)
		}
	}
	_, err := c.tlsConfig()
	return err
}

func (c *config) checkHosts() error {
	if len(c.Hosts) == 0 {
		c.Hosts = []string{"unix://"}
		if c.useTLS() {
			c.Hosts = []string{"tcp://"}
		}
	}
	for i, h := range c.Hosts {
		normal, err := normalizeHost(h, c.useTLS())
		if err != nil {
			return err
		}
		c.Hosts[i] = normal
	}
	slices.Sort(c.Hosts)
	c.Hosts = slices.Compact(c.Hosts)
	return nil
}
