package container

import (
	"encoding/json"
	"errors"
	"net/netip"
	"path"
	"runtime"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/profiles/seccomp"
)

// The smallest limits that Docker accepts, and what the kernel can hold.
const (
	minMemoryBytes = 6 << 20
	maxHostname    = 64
)

// checkConfig validates what of a create request needs no other container and no
// image. Its order and texts are Docker's.
func checkConfig(c *api.Config) error {
	if c.WorkingDir != "" {
		if !path.IsAbs(c.WorkingDir) {
			return invalid("the working directory '%s' is invalid, it needs to be an absolute path", c.WorkingDir)
		}
		c.WorkingDir = path.Clean(c.WorkingDir)
	}
	if c.StopSignal != "" {
		if _, err := parseSignal(c.StopSignal); err != nil {
			return err
		}
	}
	for _, env := range c.Env {
		if key, _, _ := strings.Cut(env, "="); key == "" {
			return invalid("invalid environment variable: %s", env)
		}
	}
	return checkHealth(c.Healthcheck)
}

func checkHealth(h *api.HealthConfig) error {
	if h == nil {
		return nil
	}
	for _, d := range []struct {
		name  string
		value int64
	}{{"Interval", int64(h.Interval)}, {"Timeout", int64(h.Timeout)}} {
		if d.value != 0 && d.value < int64(api.MinimumDuration) {
			return invalid("%s in Healthcheck cannot be less than %s", d.name, api.MinimumDuration)
		}
	}
	if h.Retries < 0 {
		return invalid("Retries in Healthcheck cannot be negative")
	}
	if h.StartPeriod != 0 && h.StartPeriod < api.MinimumDuration {
		return invalid("StartPeriod in Healthcheck cannot be less than %s", api.MinimumDuration)
	}
	if h.StartInterval != 0 && h.StartInterval < api.MinimumDuration {
		return invalid("StartInterval in Healthcheck cannot be less than %s", api.MinimumDuration)
	}
	return nil
}

// checkHostConfig validates h and returns warnings.
func checkHostConfig(c *api.Config, h *api.HostConfig) (warnings []string, err error) {
	if h.AutoRemove && !h.RestartPolicy.IsNone() {
		return nil, invalid("can't create 'AutoRemove' container with restart policy")
	}
	for i := range h.Mounts {
		if err := checkMount(&h.Mounts[i], true); err != nil {
			return nil, err
		}
	}
	for _, host := range h.ExtraHosts {
		if err := checkExtraHost(host); err != nil {
			return nil, err
		}
	}
	for _, limit := range h.Ulimits {
		if _, err := limit.GetRlimit(); err != nil {
			return nil, invalid("%s", err)
		}
	}
	if err := checkDeviceRequests(h.DeviceRequests); err != nil {
		return nil, err
	}
	for _, rule := range h.DeviceCgroupRules {
		if _, err := parseDeviceRule(rule); err != nil {
			return nil, err
		}
	}
	if err := checkPorts(h.PortBindings); err != nil {
		return nil, err
	}
	if err := api.ValidateRestartPolicy(h.RestartPolicy); err != nil {
		return nil, invalid("%s", err)
	}
	if _, err := normalizeCaps(h.CapAdd); err != nil {
		return nil, invalid("invalid CapAdd: %s", err)
	}
	if _, err := normalizeCaps(h.CapDrop); err != nil {
		return nil, invalid("invalid CapDrop: %s", err)
	}
	if !h.Isolation.IsValid() {
		return nil, invalid("invalid isolation '%s' on %s", h.Isolation, runtime.GOOS)
	}
	if _, ok := h.Annotations[""]; ok {
		return nil, invalid("invalid Annotations: the empty string is not permitted as an annotation key")
	}
	if err := checkHostname("hostname", c.Hostname); err != nil {
		return nil, err
	}
	if err := checkHostname("domainname", c.Domainname); err != nil {
		return nil, err
	}
	if err := checkResources(&h.Resources, false); err != nil {
		return nil, err
	}
	if err := checkModes(c, h); err != nil {
		return nil, err
	}
	if h.NetworkMode.IsHost() && len(h.PortBindings) > 0 {
		warnings = append(warnings, "Published ports are discarded when using host network mode")
	}
	if err := checkUnsupported(h); err != nil {
		return nil, err
	}
	for dest := range h.Tmpfs {
		if err := checkFreshTarget(dest); err != nil {
			return nil, invalid("%s", err)
		}
	}
	if _, err := parseSecurity(h.SecurityOpt); err != nil {
		return nil, err
	}
	if o := h.OomKillDisable; o != nil && *o && h.Memory == 0 {
		warnings = append(warnings, "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources.")
	}
	return warnings, nil
}

// checkModes validates the namespace modes and what contradicts them.
func checkModes(c *api.Config, h *api.HostConfig) error {
	switch {
	case !h.IpcMode.Valid():
		return invalid("invalid IPC mode: %v", h.IpcMode)
	case !h.PidMode.Valid():
		return invalid("invalid PID mode: %v", h.PidMode)
	case h.ShmSize < 0:
		return invalid("SHM size can not be less than 0")
	case !h.UTSMode.Valid():
		return invalid("invalid UTS mode: %v", h.UTSMode)
	case h.OomScoreAdj < -1000 || h.OomScoreAdj > 1000:
		return invalid("Invalid value %d, range for oom score adj is [-1000, 1000]", h.OomScoreAdj)
	case !h.CgroupnsMode.Valid():
		return invalid("invalid cgroup namespace mode: %v", h.CgroupnsMode)
	case !h.UsernsMode.Valid():
		return invalid("invalid user namespace mode: %v", h.UsernsMode)
	case h.UTSMode.IsHost() && c.Hostname != "":
		return invalid("conflicting options: hostname and the UTS mode")
	}
	if !h.NetworkMode.IsContainer() {
		return nil
	}
	switch {
	case h.NetworkMode.ConnectedContainer() == "":
		return invalid("invalid container format container:<name|id>")
	case c.Hostname != "":
		return invalid("conflicting options: hostname and the network mode")
	case len(h.Links) > 0:
		return invalid("conflicting options: container type network can't be used with links. This would result in undefined behavior")
	case len(h.DNS) > 0:
		return invalid("conflicting options: dns and the network mode")
	case len(h.ExtraHosts) > 0:
		return invalid("conflicting options: custom host-to-IP mapping and the network mode")
	case len(h.PortBindings) > 0 || h.PublishAllPorts:
		return invalid("conflicting options: port publishing and the container type network mode")
	case len(c.ExposedPorts) > 0:
		return invalid("conflicting options: port exposing and the container type network mode")
	}
	return nil
}

// checkUnsupported refuses options that this engine does not have, so that none
// is silently ignored.
func checkUnsupported(h *api.HostConfig) error {
	switch {
	case h.Cgroup != "":
		return notImplemented("joining the cgroup of another container is not supported")
	case len(h.StorageOpt) > 0:
		return invalid("--storage-opt is not supported by this engine's snapshotter")
	case h.IOMaximumBandwidth != 0 || h.IOMaximumIOps != 0:
		return invalid("Invalid QoS settings: %s does not support Maximum IO Bandwidth or Maximum IO IOps", runtime.GOOS)
	}
	return nil
}

// checkResources validates limits. With update the swap limit may come alone.
func checkResources(r *api.Resources, update bool) error {
	if r.MemorySwappiness != nil && *r.MemorySwappiness == -1 {
		r.MemorySwappiness = nil // Docker compatibility: -1 means unset
	}
	switch {
	case r.Memory != 0 && r.Memory < minMemoryBytes:
		return invalid("Minimum memory limit allowed is 6MB")
	case r.Memory > 0 && r.MemorySwap > 0 && r.MemorySwap < r.Memory:
		return invalid("Minimum memoryswap limit should be larger than memory limit, see usage")
	case r.Memory == 0 && r.MemorySwap > 0 && !update:
		return invalid("You should always set the Memory limit when using Memoryswap limit, see usage")
	case r.MemorySwappiness != nil && (*r.MemorySwappiness < 0 || *r.MemorySwappiness > 100):
		return invalid("Invalid value: %v, valid memory swappiness range is 0-100", *r.MemorySwappiness)
	case r.MemoryReservation > 0 && r.MemoryReservation < minMemoryBytes:
		return invalid("Minimum memory reservation allowed is 6MB")
	case r.Memory > 0 && r.MemoryReservation > 0 && r.Memory < r.MemoryReservation:
		return invalid("Minimum memory limit can not be less than memory reservation limit, see usage")
	case r.NanoCPUs > 0 && r.CPUPeriod > 0:
		return invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set")
	case r.NanoCPUs > 0 && r.CPUQuota > 0:
		return invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
	case r.NanoCPUs < 0 || r.NanoCPUs > int64(runtime.NumCPU())*1e9:
		return invalid("range of CPUs is from 0.01 to %[1]d.00, as there are only %[1]d CPUs available", runtime.NumCPU())
	case r.CPUShares < 0:
		return invalid("invalid CPU shares (%d): value must be a positive integer", r.CPUShares)
	case r.CPUPeriod != 0 && (r.CPUPeriod < 1000 || r.CPUPeriod > 1000000):
		return invalid("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
	case r.CPUQuota > 0 && r.CPUQuota < 1000:
		return invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)")
	case r.BlkioWeight > 0 && (r.BlkioWeight < 10 || r.BlkioWeight > 1000):
		return invalid("Range of blkio weight is from 10 to 1000")
	}
	if err := checkSet(r.CpusetCpus, "cpus", "/sys/devices/system/cpu/online", "CPUs"); err != nil {
		return err
	}
	return checkSet(r.CpusetMems, "mems", "/sys/devices/system/node/online", "memory nodes")
}

// checkSet validates a list such as "0-2,4" against the one in the file at online.
func checkSet(set, name, online, what string) error {
	if set == "" {
		return nil
	}
	wanted, err := parseSet(set)
	if err != nil {
		return invalid("Invalid value %s for cpuset %s", set, name)
	}
	text, err := readSmall(online)
	if err != nil {
		return nil // the kernel will say
	}
	have, err := parseSet(strings.TrimSpace(text))
	if err != nil {
		return nil
	}
	for n := range wanted {
		if !have[n] {
			return invalid("Requested %s are not available - requested %s, available: %s", what, set, strings.TrimSpace(text))
		}
	}
	return nil
}

// maxSet bounds the numbers of a CPU or node list.
const maxSet = 8192

func parseSet(s string) (map[int]bool, error) {
	set := make(map[int]bool)
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(part, "-")
		lo, err := strconv.Atoi(first)
		if err != nil {
			return nil, err
		}
		hi := lo
		if isRange {
			if hi, err = strconv.Atoi(last); err != nil {
				return nil, err
			}
		}
		if lo < 0 || hi < lo || hi > maxSet {
			return nil, errors.New("out of range")
		}
		for n := lo; n <= hi; n++ {
			set[n] = true
		}
	}
	return set, nil
}

// checkHostname refuses what the kernel or the files that tell of the name cannot
// hold.
func checkHostname(what, name string) error {
	if len(name) > maxHostname {
		return invalid("%s %q is too long (maximum %d bytes)", what, name, maxHostname)
	}
	if !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) || r == '#'
	}) {
		return invalid("invalid %s: %q", what, name)
	}
	return nil
}

// checkExtraHost validates "name:address" or "name:host-gateway".
func checkExtraHost(s string) error {
	name, addr, ok := strings.Cut(s, ":")
	if !ok || name == "" || checkHostname("host", name) != nil {
		return invalid("bad format for add-host: %q", s)
	}
	if addr == "host-gateway" {
		return nil
	}
	addr = strings.TrimSuffix(strings.TrimPrefix(addr, "["), "]")
	if _, err := netip.ParseAddr(addr); err != nil {
		return invalid("invalid IP address in add-host: %q", addr)
	}
	return nil
}

func checkPorts(ports network.PortMap) error {
	for port, bindings := range ports {
		if !port.IsValid() || port.Num() == 0 {
			return invalid("invalid port specification: %q", port.String())
		}
		switch port.Proto() {
		case network.TCP, network.UDP, network.SCTP:
		default:
			return invalid("invalid proto: %s", port.Proto())
		}
		for _, b := range bindings {
			if b.HostPort == "" {
				continue
			}
			if _, err := network.ParsePortRange(b.HostPort); err != nil {
				return invalid("invalid port specification: %q", b.HostPort)
			}
		}
	}
	return nil
}

// security is what the security options say.
type security struct {
	seccomp         string // "", "unconfined", "builtin" or the JSON text of a profile
	noNewPrivileges *bool
	writableCgroups *bool
}

// parseSecurity reads --security-opt values. Labels and profiles of security
// modules that the engine does not manage are refused unless they ask for none.
func parseSecurity(opts []string) (security, error) {
	var s security
	yes := true
	for _, opt := range opts {
		switch opt {
		case "no-new-privileges":
			s.noNewPrivileges = &yes
			continue
		case "writable-cgroups":
			s.writableCgroups = &yes
			continue
		case "disable":
			continue // of labels
		}
		sep := "="
		if !strings.Contains(opt, "=") {
			sep = ":" // Docker compatibility: the separator before 1.11
		}
		key, value, ok := strings.Cut(opt, sep)
		if !ok {
			return s, invalid("invalid --security-opt 1: %q", opt)
		}
		switch key {
		case "seccomp":
			s.seccomp = value
			if value == "" || value == "unconfined" || value == "builtin" {
				continue
			}
			var profile seccomp.Seccomp
			if err := json.Unmarshal([]byte(value), &profile); err != nil {
				return s, invalid("Decoding seccomp profile failed: %s", err)
			}
		case "no-new-privileges", "writable-cgroups":
			b, err := strconv.ParseBool(value)
			if err != nil {
				return s, invalid("invalid --security-opt 2: %q", opt)
			}
			if key == "writable-cgroups" {
				s.writableCgroups = &b
			} else {
				s.noNewPrivileges = &b
			}
		case "apparmor":
			if value != "unconfined" && value != "" {
				return s, notImplemented("AppArmor profiles are not supported: cannot apply %q", value)
			}
		case "label":
			if value != "disable" {
				return s, notImplemented("SELinux labels are not supported: cannot apply %q", value)
			}
		default:
			return s, invalid("invalid --security-opt 2: %q", opt)
		}
	}
	return s, nil
}
