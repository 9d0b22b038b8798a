package container

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// createOptions are the flags of create and run.
type createOptions struct {
	name, platform, pull, cidfile   string
	interactive, tty, detach, quiet bool
	attach                          []string
	env, envFiles, labels           []string
	labelFiles                      []string
	volumes, mounts, tmpfs          []string
	publish, expose                 []string
	publishAll                      bool
	hostname, domainname            string
	entrypoint, workdir, user       string
	network                         []string
	networkAlias, linkLocal         []string
	ip, ip6, mac                    string
	memory, memorySwap, memoryRes   string
	swappiness                      int64
	cpus                            string
	restart                         string
	shmSize                         string
	stopTimeout                     int
	init                            bool
	noHealthcheck                   bool
	healthCmd, onUnhealthy          string
	health                          container.HealthConfig
	devices, securityOpt            []string
	ulimits, sysctls                []string
	logDriver                       string
	logOpts, storageOpts            []string
	annotations                     []string
	dns                             []string
	ipc, pid, uts, userns, cgroupns string
	pidsLimit                       int64
	oomKillDisable                  bool
	more                            moreOptions
	config                          container.Config
	host                            container.HostConfig
}

func (o *createOptions) register(fs *pflag.FlagSet) {
	fs.SetInterspersed(false)
	h := &o.host
	fs.StringVar(&o.name, "name", "", "Assign a name to the container")
	fs.StringVar(&o.platform, "platform", os.Getenv("DOCKER_DEFAULT_PLATFORM"), "Set platform if server is multi-platform capable")
	fs.StringVar(&o.pull, "pull", "missing", `Pull image before running ("always", "missing", "never")`)
	fs.BoolVarP(&o.quiet, "quiet", "q", false, "Suppress the pull output")
	fs.StringVar(&o.cidfile, "cidfile", "", "Write the container ID to the file")
	fs.BoolVarP(&o.interactive, "interactive", "i", false, "Keep STDIN open even if not attached")
	fs.BoolVarP(&o.tty, "tty", "t", false, "Allocate a pseudo-TTY")
	fs.StringArrayVarP(&o.attach, "attach", "a", nil, "Attach to STDIN, STDOUT or STDERR")
	fs.StringArrayVarP(&o.env, "env", "e", nil, "Set environment variables")
	fs.StringArrayVar(&o.envFiles, "env-file", nil, "Read in a file of environment variables")
	fs.StringArrayVarP(&o.labels, "label", "l", nil, "Set meta data on a container")
	fs.StringArrayVar(&o.labelFiles, "label-file", nil, "Read in a line delimited file of labels")
	fs.StringArrayVarP(&o.volumes, "volume", "v", nil, "Bind mount a volume")
	fs.StringArrayVar(&o.mounts, "mount", nil, "Attach a filesystem mount to the container")
	fs.StringArrayVar(&o.tmpfs, "tmpfs", nil, "Mount a tmpfs directory")
	fs.StringArrayVar(&h.VolumesFrom, "volumes-from", nil, "Mount volumes from the specified container(s)")
	fs.StringVar(&h.VolumeDriver, "volume-driver", "", "Optional volume driver for the container")
	fs.StringArrayVarP(&o.publish, "publish", "p", nil, "Publish a container's port(s) to the host")
	fs.StringArrayVar(&o.expose, "expose", nil, "Expose a port or a range of ports")
	fs.BoolVarP(&o.publishAll, "publish-all", "P", false, "Publish all exposed ports to random ports")
	fs.StringVarP(&o.hostname, "hostname", "h", "", "Container host name")
	fs.StringVar(&o.domainname, "domainname", "", "Container NIS domain name")
	fs.StringVar(&o.entrypoint, "entrypoint", "", "Overwrite the default ENTRYPOINT of the image")
	fs.StringVarP(&o.workdir, "workdir", "w", "", "Working directory inside the container")
	fs.StringVarP(&o.user, "user", "u", "", "Username or UID (format: <name|uid>[:<group|gid>])")
	fs.StringArrayVar(&h.GroupAdd, "group-add", nil, "Add additional groups to join")
	fs.StringArrayVar(&o.network, "network", nil, "Connect a container to a network")
	fs.StringArrayVar(&o.networkAlias, "network-alias", nil, "Add network-scoped alias for the container")
	fs.StringVar(&o.ip, "ip", "", "IPv4 address (e.g., 172.30.100.104)")
	fs.StringVar(&o.ip6, "ip6", "", "IPv6 address (e.g., 2001:db8::33)")
	fs.StringSliceVar(&o.linkLocal, "link-local-ip", nil, "Container IPv4/IPv6 link-local addresses")
	fs.StringVar(&o.mac, "mac-address", "", "Container MAC address (e.g., 92:d0:c6:0a:29:33)")
	fs.StringArrayVar(&h.ExtraHosts, "add-host", nil, "Add a custom host-to-IP mapping (host:ip)")
	fs.StringArrayVar(&o.dns, "dns", nil, "Set custom DNS servers")
	fs.StringArrayVar(&h.DNSSearch, "dns-search", nil, "Set custom DNS search domains")
	fs.StringArrayVar(&h.DNSOptions, "dns-option", nil, "Set DNS options")
	fs.StringArrayVar(&h.Links, "link", nil, "Add link to another container")
	fs.StringVarP(&o.memory, "memory", "m", "", "Memory limit")
	fs.StringVar(&o.memorySwap, "memory-swap", "", "Swap limit equal to memory plus swap: '-1' to enable unlimited swap")
	fs.StringVar(&o.memoryRes, "memory-reservation", "", "Memory soft limit")
	fs.Int64Var(&o.swappiness, "memory-swappiness", -1, "Tune container memory swappiness (0 to 100)")
	fs.StringVar(&o.cpus, "cpus", "", "Number of CPUs")
	fs.Int64VarP(&h.CPUShares, "cpu-shares", "c", 0, "CPU shares (relative weight)")
	fs.Int64Var(&h.CPUPeriod, "cpu-period", 0, "Limit CPU CFS (Completely Fair Scheduler) period")
	fs.Int64Var(&h.CPUQuota, "cpu-quota", 0, "Limit CPU CFS (Completely Fair Scheduler) quota")
	fs.Int64Var(&h.CPURealtimePeriod, "cpu-rt-period", 0, "Limit CPU real-time period in microseconds")
	fs.Int64Var(&h.CPURealtimeRuntime, "cpu-rt-runtime", 0, "Limit CPU real-time runtime in microseconds")
	fs.StringVar(&h.CpusetCpus, "cpuset-cpus", "", "CPUs in which to allow execution (0-3, 0,1)")
	fs.StringVar(&h.CpusetMems, "cpuset-mems", "", "MEMs in which to allow execution (0-3, 0,1)")
	fs.Uint16Var(&h.BlkioWeight, "blkio-weight", 0, "Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)")
	fs.Int64Var(&o.pidsLimit, "pids-limit", 0, "Tune container pids limit (set -1 for unlimited)")
	fs.BoolVar(&o.oomKillDisable, "oom-kill-disable", false, "Disable OOM Killer")
	fs.IntVar(&h.OomScoreAdj, "oom-score-adj", 0, "Tune host's OOM preferences (-1000 to 1000)")
	fs.StringVar(&h.CgroupParent, "cgroup-parent", "", "Optional parent cgroup for the container")
	fs.BoolVar(&h.ReadonlyRootfs, "read-only", false, "Mount the container's root filesystem as read only")
	fs.BoolVar(&h.Privileged, "privileged", false, "Give extended privileges to this container")
	fs.StringArrayVar(&h.CapAdd, "cap-add", nil, "Add Linux capabilities")
	fs.StringArrayVar(&h.CapDrop, "cap-drop", nil, "Drop Linux capabilities")
	fs.StringArrayVar(&o.devices, "device", nil, "Add a host device to the container")
	fs.StringArrayVar(&h.DeviceCgroupRules, "device-cgroup-rule", nil, "Add a rule to the cgroup allowed devices list")
	fs.StringArrayVar(&o.securityOpt, "security-opt", nil, "Security Options")
	fs.StringArrayVar(&o.ulimits, "ulimit", nil, "Ulimit options")
	fs.StringArrayVar(&o.sysctls, "sysctl", nil, "Sysctl options")
	fs.StringVar(&o.shmSize, "shm-size", "", "Size of /dev/shm")
	fs.StringVar(&o.restart, "restart", "no", "Restart policy to apply when a container exits")
	fs.BoolVar(&h.AutoRemove, "rm", false, "Automatically remove the container and its associated anonymous volumes when it exits")
	fs.StringVar(&o.config.StopSignal, "stop-signal", "", "Signal to stop the container")
	fs.IntVar(&o.stopTimeout, "stop-timeout", 0, "Timeout (in seconds) to stop a container")
	fs.BoolVar(&o.init, "init", false, "Run an init inside the container that forwards signals and reaps processes")
	fs.StringVar(&o.ipc, "ipc", "", "IPC mode to use")
	fs.StringVar(&o.pid, "pid", "", "PID namespace to use")
	fs.StringVar(&o.uts, "uts", "", "UTS namespace to use")
	fs.StringVar(&o.userns, "userns", "", "User namespace to use")
	fs.StringVar(&o.cgroupns, "cgroupns", "", "Cgroup namespace to use (host|private)")
	fs.StringVar(&h.Runtime, "runtime", "", "Runtime to use for this container")
	fs.StringVar(&o.logDriver, "log-driver", "", "Logging driver for the container")
	fs.StringArrayVar(&o.logOpts, "log-opt", nil, "Log driver options")
	fs.StringArrayVar(&o.storageOpts, "storage-opt", nil, "Storage driver options for the container")
	fs.StringArrayVar(&o.annotations, "annotation", nil, "Add an annotation to the container (passed through to the OCI runtime)")
	fs.BoolVar(&o.noHealthcheck, "no-healthcheck", false, "Disable any container-specified HEALTHCHECK")
	o.more.register(fs, o)
	fs.StringVar(&o.healthCmd, "health-cmd", "", "Command to run to check health")
	fs.StringVar(&o.onUnhealthy, "health-on-failure", "", `What to do when the container becomes unhealthy ("none", "kill", "restart", "stop")`)
	fs.DurationVar(&o.health.Interval, "health-interval", 0, "Time between running the check (ms|s|m|h) (default 0s)")
	fs.DurationVar(&o.health.Timeout, "health-timeout", 0, "Maximum time to allow one check to run (ms|s|m|h) (default 0s)")
	fs.DurationVar(&o.health.StartPeriod, "health-start-period", 0, "Start period for the container to initialize before starting health-retries countdown (ms|s|m|h) (default 0s)")
	fs.DurationVar(&o.health.StartInterval, "health-start-interval", 0, "Time between running the check during the start period (ms|s|m|h) (default 0s)")
	fs.IntVar(&o.health.Retries, "health-retries", 0, "Consecutive failures needed to report unhealthy")
}

// build makes the request of the flags; command is what follows the image.
func (o *createOptions) build(cmd *cobra.Command, image string, command []string) (*network.NetworkingConfig, error) {
	c, h, fs := &o.config, &o.host, cmd.Flags()
	c.Image, c.Cmd = image, command
	c.Tty, c.OpenStdin = o.tty, o.interactive
	c.Hostname, c.Domainname, c.User, c.WorkingDir = o.hostname, o.domainname, o.user, o.workdir
	if err := o.streams(); err != nil {
		return nil, err
	}
	if fs.Changed("entrypoint") {
		c.Entrypoint = []string{o.entrypoint}
	}
	var err error
	if err := o.updatable(); err != nil {
		return nil, err
	}
	if err := o.resources(fs); err != nil {
		return nil, err
	}
	if err := o.healthcheck(fs); err != nil {
		return nil, err
	}
	if fs.Changed("stop-timeout") {
		c.StopTimeout = &o.stopTimeout
	}
	if fs.Changed("init") {
		h.Init = &o.init
	}
	if h.RestartPolicy, err = restartPolicy(o.restart); err != nil {
		return nil, err
	}
	if h.AutoRemove && !h.RestartPolicy.IsNone() {
		return nil, fmt.Errorf("conflicting options: cannot specify both --restart and --rm")
	}
	if err := securityOptions(h, o.securityOpt); err != nil {
		return nil, err
	}
	h.IpcMode, h.PidMode = container.IpcMode(o.ipc), container.PidMode(o.pid)
	h.UTSMode, h.UsernsMode = container.UTSMode(o.uts), container.UsernsMode(o.userns)
	h.CgroupnsMode = container.CgroupnsMode(o.cgroupns)
	h.LogConfig = container.LogConfig{Type: o.logDriver, Config: keyValues(o.logOpts)}
	h.StorageOpt, h.Sysctls, h.Annotations = keyValues(o.storageOpts), keyValues(o.sysctls), keyValues(o.annotations)
	if o.onUnhealthy != "" {
		if h.Annotations == nil {
			h.Annotations = map[string]string{}
		}
		h.Annotations["lighter.engine/health-on-failure"] = o.onUnhealthy
	}
	h.ContainerIDFile = o.cidfile
	if err := o.more.apply(h); err != nil {
		return nil, err
	}
	var named []string
	for _, d := range o.devices {
		if isDeviceName(d) {
			named = append(named, d)
			continue
		}
		m, err := device(d)
		if err != nil {
			return nil, err
		}
		h.Devices = append(h.Devices, m)
	}
	if len(named) > 0 {
		h.DeviceRequests = append(h.DeviceRequests, container.DeviceRequest{Driver: "cdi", DeviceIDs: named})
	}
	for _, d := range o.dns {
		addr, err := netip.ParseAddr(d)
		if err != nil {
			return nil, fmt.Errorf("%s is not an ip address", d)
		}
		h.DNS = append(h.DNS, addr)
	}
	return o.networking()
}

// updatable sets what update too can give a container: environment, labels, ports
// and mounts.
func (o *createOptions) updatable() error {
	var err error
	if o.config.Env, err = environment(o.envFiles, o.env); err != nil {
		return err
	}
	if o.config.Labels, err = labels(o.labelFiles, o.labels); err != nil {
		return err
	}
	if err := o.publishing(); err != nil {
		return err
	}
	return o.mounting()
}

// streams sets which of the process's streams are attached.
func (o *createOptions) streams() error {
	c := &o.config
	if len(o.attach) == 0 && !o.detach {
		c.AttachStdin, c.AttachStdout, c.AttachStderr = o.interactive, true, true
	}
	for _, name := range o.attach {
		switch strings.ToLower(name) {
		case "stdin":
			c.AttachStdin = true
		case "stdout":
			c.AttachStdout = true
		case "stderr":
			c.AttachStderr = true
		default:
			return fmt.Errorf("invalid argument %q for \"-a, --attach\" flag: valid streams are STDIN, STDOUT and STDERR", name)
		}
	}
	if o.detach && len(o.attach) > 0 {
		return fmt.Errorf("conflicting options: cannot specify both --attach and --detach")
	}
	c.StdinOnce = c.OpenStdin && c.AttachStdin
	return nil
}

func (o *createOptions) resources(fs *pflag.FlagSet) error {
	h := &o.host
	for _, f := range []struct {
		flag, value string
		to          *int64
	}{
		{"memory", o.memory, &h.Memory},
		{"memory-reservation", o.memoryRes, &h.MemoryReservation},
		{"memory-swap", o.memorySwap, &h.MemorySwap},
		{"shm-size", o.shmSize, &h.ShmSize},
	} {
		if f.value == "" {
			continue
		}
		if f.flag == "memory-swap" && f.value == "-1" {
			*f.to = -1
			continue
		}
		n, err := units.RAMInBytes(f.value)
		if err != nil {
			return fmt.Errorf("invalid argument %q for \"--%s\" flag: %w", f.value, f.flag, err)
		}
		*f.to = n
	}
	if o.cpus != "" {
		n, err := strconv.ParseFloat(o.cpus, 64)
		if err != nil || n < 0 {
			return fmt.Errorf("invalid argument %q for \"--cpus\" flag: a number of processors is wanted", o.cpus)
		}
		h.NanoCPUs = int64(n * 1e9)
	}
	if fs.Changed("memory-swappiness") {
		h.MemorySwappiness = &o.swappiness
	}
	if fs.Changed("pids-limit") {
		h.PidsLimit = &o.pidsLimit
	}
	if fs.Changed("oom-kill-disable") {
		h.OomKillDisable = &o.oomKillDisable
	}
	for _, u := range o.ulimits {
		limit, err := units.ParseUlimit(u)
		if err != nil {
			return err
		}
		h.Ulimits = append(h.Ulimits, limit)
	}
	return nil
}

func (o *createOptions) healthcheck(fs *pflag.FlagSet) error {
	given := o.healthCmd != "" || fs.Changed("health-interval") || fs.Changed("health-timeout") ||
		fs.Changed("health-start-period") || fs.Changed("health-start-interval") || fs.Changed("health-retries")
	if o.noHealthcheck {
		if given {
			return fmt.Errorf("--no-healthcheck conflicts with --health-* options")
		}
		o.config.Healthcheck = &container.HealthConfig{Test: []string{"NONE"}}
		return nil
	}
	if !given {
		return nil
	}
	for flag, d := range map[string]time.Duration{
		"--health-interval": o.health.Interval, "--health-timeout": o.health.Timeout,
		"--health-start-period": o.health.StartPeriod, "--health-start-interval": o.health.StartInterval,
	} {
		if d < 0 {
			return fmt.Errorf("%s cannot be negative", flag)
		}
	}
	if o.health.Retries < 0 {
		return fmt.Errorf("--health-retries cannot be negative")
	}
	if o.healthCmd != "" {
		o.health.Test = []string{"CMD-SHELL", o.healthCmd}
	}
	o.config.Healthcheck = &o.health
	return nil
}

// networking turns --network and what belongs to the endpoint into a request.
func (o *createOptions) networking() (*network.NetworkingConfig, error) {
	endpoints := map[string]*network.EndpointSettings{}
	for i, spec := range o.network {
		name, settings, err := networkOption(spec)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			o.host.NetworkMode = container.NetworkMode(name)
		}
		if settings == nil && i > 0 {
			settings = &network.EndpointSettings{}
		}
		if settings != nil {
			endpoints[name] = settings
		}
	}
	if len(o.networkAlias) > 0 || len(o.linkLocal) > 0 || o.ip != "" || o.ip6 != "" || o.mac != "" {
		name := string(o.host.NetworkMode)
		if name == "" {
			name = "default"
		}
		e := endpoints[name]
		if e == nil {
			e = &network.EndpointSettings{}
			endpoints[name] = e
		}
		if err := endpointAddresses(e, o.ip, o.ip6, o.mac, o.linkLocal); err != nil {
			return nil, err
		}
		e.Aliases = append(e.Aliases, o.networkAlias...)
	}
	if len(endpoints) == 0 {
		return nil, nil
	}
	return &network.NetworkingConfig{EndpointsConfig: endpoints}, nil
}

func endpointAddresses(e *network.EndpointSettings, ip, ip6, mac string, linkLocal []string) error {
	if ip != "" || ip6 != "" || len(linkLocal) > 0 {
		if e.IPAMConfig == nil {
			e.IPAMConfig = &network.EndpointIPAMConfig{}
		}
		for text, to := range map[string]*netip.Addr{ip: &e.IPAMConfig.IPv4Address, ip6: &e.IPAMConfig.IPv6Address} {
			if text == "" {
				continue
			}
			addr, err := netip.ParseAddr(text)
			if err != nil {
				return fmt.Errorf("invalid IP address: %s", text)
			}
			*to = addr
		}
	}
	for _, text := range linkLocal {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("invalid IP address: %s", text)
		}
		e.IPAMConfig.LinkLocalIPs = append(e.IPAMConfig.LinkLocalIPs, addr)
	}
	if mac != "" {
		return e.MacAddress.UnmarshalText([]byte(mac))
	}
	return nil
}

// networkOption parses --network: a name, or name=...,alias=...,ip=...
func networkOption(spec string) (string, *network.EndpointSettings, error) {
	if !strings.Contains(spec, "=") {
		return spec, nil, nil
	}
	var name, ip, ip6, mac string
	var linkLocal []string
	e := &network.EndpointSettings{}
	for field := range strings.SplitSeq(spec, ",") {
		key, value, ok := strings.Cut(field, "=")
		if !ok {
			return "", nil, fmt.Errorf("invalid field %s in --network: key=value is wanted", field)
		}
		switch key {
		case "name":
			name = value
		case "alias":
			e.Aliases = append(e.Aliases, value)
		case "ip":
			ip = value
		case "ip6":
			ip6 = value
		case "mac-address":
			mac = value
		case "link-local-ip":
			linkLocal = append(linkLocal, value)
		case "gw-priority":
			n, err := strconv.Atoi(value)
			if err != nil {
				return "", nil, fmt.Errorf("invalid gw-priority (%s) in --network", value)
			}
			e.GwPriority = n
		case "driver-opt":
			k, v, _ := strings.Cut(value, "=")
			if e.DriverOpts == nil {
				e.DriverOpts = map[string]string{}
			}
			e.DriverOpts[k] = v
		default:
			return "", nil, fmt.Errorf("invalid field key %s in --network", key)
		}
	}
	if name == "" {
		return "", nil, fmt.Errorf("network name/id is not specified in --network %s", spec)
	}
	return name, e, endpointAddresses(e, ip, ip6, mac, linkLocal)
}

func restartPolicy(s string) (container.RestartPolicy, error) {
	s, options, extended := strings.Cut(s, ",")
	name, count, counted := strings.Cut(s, ":")
	p := container.RestartPolicy{Name: container.RestartPolicyMode(name)}
	if counted {
		n, err := strconv.Atoi(count)
		if err != nil {
			return p, fmt.Errorf("invalid restart policy format: maximum retry count must be an integer")
		}
		p.MaximumRetryCount = n
	}
	if err := container.ValidateRestartPolicy(p); err != nil {
		return p, err
	}
	if extended { // beyond Docker: an engine that does not know it refuses the name
		p.Name += container.RestartPolicyMode("," + options)
	}
	return p, nil
}

func device(s string) (container.DeviceMapping, error) {
	parts := strings.Split(s, ":")
	m := container.DeviceMapping{PathOnHost: parts[0], PathInContainer: parts[0], CgroupPermissions: "rwm"}
	isMode := func(s string) bool { return s != "" && strings.Trim(s, "rwm") == "" }
	switch {
	case len(parts) == 2 && isMode(parts[1]):
		m.CgroupPermissions = parts[1]
	case len(parts) == 2:
		m.PathInContainer = parts[1]
	case len(parts) == 3 && isMode(parts[2]):
		m.PathInContainer, m.CgroupPermissions = parts[1], parts[2]
	case len(parts) > 1:
		return m, fmt.Errorf("invalid device specification: %s", s)
	}
	if m.PathOnHost == "" {
		return m, fmt.Errorf("invalid device specification: %s", s)
	}
	return m, nil
}

// environment merges files and flags; a name without a value takes that of this
// process, or is left out when there is none.
func environment(files, flags []string) ([]string, error) {
	var env []string
	add := func(kv string) error {
		if name, _, _ := strings.Cut(kv, "="); name == "" || strings.ContainsAny(name, " \t") {
			return fmt.Errorf("invalid environment variable: %s", kv)
		}
		if !strings.Contains(kv, "=") {
			value, ok := os.LookupEnv(kv)
			if !ok {
				return nil
			}
			kv += "=" + value
		}
		env = append(env, kv)
		return nil
	}
	for _, f := range files {
		if err := eachLine(f, add); err != nil {
			return nil, err
		}
	}
	for _, kv := range flags {
		if err := add(kv); err != nil {
			return nil, err
		}
	}
	return env, nil
}

func labels(files, flags []string) (map[string]string, error) {
	all := []string{}
	for _, f := range files {
		if err := eachLine(f, func(l string) error { all = append(all, l); return nil }); err != nil {
			return nil, err
		}
	}
	return keyValues(append(all, flags...)), nil
}

// eachLine calls f for the lines of a file that are neither empty nor comments.
func eachLine(path string, f func(string) error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	sc := bufio.NewScanner(file)
	for sc.Scan() {
		line := strings.TrimLeft(sc.Text(), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		if err := f(line); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return sc.Err()
}

func keyValues(list []string) map[string]string {
	if len(list) == 0 {
		return nil
	}
	m := make(map[string]string, len(list))
	for _, kv := range list {
		k, v, _ := strings.Cut(kv, "=")
		m[k] = v
	}
	return m
}
