// Package system describes the engine and its host: what docker version and
// docker info show.
package system

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"
	"golang.org/x/sys/unix"

	"lighter/internal/identity"
	"lighter/internal/version"
)

// Facts are what the daemon is configured with.
type Facts struct {
	DataRoot          string
	Debug             bool
	Experimental      bool
	LiveRestore       bool
	Labels            []string
	LogDriver         string
	LogDrivers        []string
	Authorization     []string // plugins
	Snapshotter       string
	InitBinary        string // "" when there is none
	Runtimes          map[string]system.RuntimeWithStatus
	DefaultRuntime    string
	CgroupnsPrivate   bool   // by default
	SeccompProfile    string // "builtin", "unconfined" or a path
	NoNewPrivileges   bool
	ContainerdAddress string
	Namespace         string
	PluginsNamespace  string
	Insecure, Mirrors []string // registries
	AddressPools      []system.NetworkAddressPool
	FirewallBackend   string // "" when the engine manages no firewall
	CDISpecDirs       []string
	Warnings          []string // of the configuration
}

// Counts are what the daemon holds at the moment.
type Counts struct {
	Containers, Running, Paused, Stopped, Images, EventListeners int
}

// Sources are asked for what changes. Counts is required.
type Sources struct {
	Counts func(context.Context) (Counts, error)
	// Containerd returns the revision of an external containerd; nil when it is
	// a part of this program.
	Containerd func(context.Context) (version, revision string, err error)
	// CDIDevices lists the devices that containers can ask for by name; nil for
	// none.
	CDIDevices func() []string
	// VolumeDrivers lists the drivers in use; nil for the local one only.
	VolumeDrivers func() []string
	// Warnings are further ones, of the moment; nil for none.
	Warnings func() []string
	Meters   Meters
}

// Service answers for the daemon. It is safe for concurrent use.
type Service struct {
	facts   atomic.Pointer[Facts]
	id      string
	sources Sources
	meters  Meters
	cgroup  cgroupFacts
	init    initVersion
}

// New returns a Service. The engine's ID is read from engine-id in the data
// root, or made and stored there.
func New(facts Facts, sources Sources) (*Service, error) {
	id, err := identity.Load(filepath.Join(facts.DataRoot, "engine-id"))
	if err != nil {
		return nil, err
	}
	s := &Service{id: id, sources: sources, meters: sources.Meters, cgroup: probeCgroup("/")}
	s.facts.Store(&facts)
	return s, nil
}

// Reload replaces the facts.
func (s *Service) Reload(facts Facts) { s.facts.Store(&facts) }

// ID is the engine's ID, stable over restarts.
func (s *Service) ID() string { return s.id }

// Version describes the build.
func (s *Service) Version(ctx context.Context) (system.VersionResponse, error) {
	facts := s.facts.Load()
	kernel := kernelRelease()
	details := map[string]string{
		"ApiVersion":    version.APIMax,
		"MinAPIVersion": version.APIMin,
		"Arch":          runtime.GOARCH,
		"BuildTime":     version.BuildTime,
		"Experimental":  strconv.FormatBool(facts.Experimental),
		"GitCommit":     version.GitCommit,
		"GoVersion":     runtime.Version(),
		"KernelVersion": kernel,
		"Os":            runtime.GOOS,
	}
	// Clients print a section for each component.
	commit := map[string]string{"GitCommit": version.GitCommit}
	components := []system.ComponentVersion{
		{Name: "Engine", Version: version.Version, Details: details},
		s.containerd(ctx),
		{Name: "runc", Version: version.Version, Details: commit},
	}
	if facts.InitBinary != "" {
		v, rev := s.init.read(ctx, facts.InitBinary)
		components = append(components, system.ComponentVersion{Name: "docker-init", Version: v, Details: map[string]string{"GitCommit": rev}})
	}
	return system.VersionResponse{
		Platform:      system.PlatformInfo{Name: version.Product + " Engine"},
		Version:       version.Version,
		APIVersion:    version.APIMax,
		MinAPIVersion: version.APIMin,
		Os:            runtime.GOOS,
		Arch:          runtime.GOARCH,
		GitCommit:     version.GitCommit,
		GoVersion:     runtime.Version(),
		KernelVersion: kernel,
		Experimental:  facts.Experimental,
		BuildTime:     version.BuildTime,
		Components:    components,
	}, nil
}

// containerd describes the containerd in use.
func (s *Service) containerd(ctx context.Context) system.ComponentVersion {
	v, rev := version.Version, version.GitCommit
	if s.sources.Containerd != nil {
		var err error
		if v, rev, err = s.sources.Containerd(ctx); err != nil {
			v, rev = "N/A", "N/A" // Docker compatibility: not an error of this request
		}
	}
	return system.ComponentVersion{Name: "containerd", Version: v, Details: map[string]string{"GitCommit": rev}}
}

// Host is what does not change while the engine runs.
type Host struct {
	ID, OS, OSVersion, Kernel, Machine string
	CPUs                               int
	MemoryBytes                        int64
	Snapshotter                        string
}

// Host describes the host and what is stored on it.
func (s *Service) Host() Host {
	name, osVersion := operatingSystem()
	return Host{
		ID: s.id, OS: name, OSVersion: osVersion, Kernel: kernelRelease(), Machine: machine(),
		CPUs: runtime.NumCPU(), MemoryBytes: totalMemory(), Snapshotter: s.facts.Load().Snapshotter,
	}
}

// Info describes the daemon and the host now.
func (s *Service) Info(ctx context.Context) (system.Info, error) {
	facts := s.facts.Load()
	n, err := s.sources.Counts(ctx)
	if err != nil {
		return system.Info{}, err
	}
	hostname, err := os.Hostname()
	if err != nil {
		return system.Info{}, fmt.Errorf("read the host's name: %w", err)
	}
	name, osVersion := operatingSystem()
	labels := facts.Labels
	if labels == nil {
		labels = []string{}
	}
	commit := system.Commit{ID: version.GitCommit}
	info := system.Info{
		ID:                  s.id,
		Containers:          n.Containers,
		ContainersRunning:   n.Running,
		ContainersPaused:    n.Paused,
		ContainersStopped:   n.Stopped,
		Images:              n.Images,
		Driver:              facts.Snapshotter,
		DriverStatus:        [][2]string{{"driver-type", "io.containerd.snapshotter.v1"}},
		Plugins:             system.PluginsInfo{Volume: s.volumeDrivers(), Network: []string{"bridge", "host", "null"}, Log: facts.LogDrivers, Authorization: facts.Authorization},
		MemoryLimit:         s.cgroup.memory,
		SwapLimit:           s.cgroup.swap,
		CPUCfsPeriod:        s.cgroup.cpu,
		CPUCfsQuota:         s.cgroup.cpu,
		CPUShares:           s.cgroup.cpu,
		CPUSet:              s.cgroup.cpuset,
		PidsLimit:           s.cgroup.pids,
		OomKillDisable:      s.cgroup.version == "1",
		CgroupDriver:        "cgroupfs",
		CgroupVersion:       s.cgroup.version,
		IPv4Forwarding:      sysctlIs("net/ipv4/ip_forward", "1"),
		Debug:               facts.Debug,
		NGoroutines:         runtime.NumGoroutine(),
		NFd:                 openFiles(),
		SystemTime:          time.Now().Format(time.RFC3339Nano),
		LoggingDriver:       facts.LogDriver,
		NEventsListener:     n.EventListeners,
		KernelVersion:       kernelRelease(),
		OperatingSystem:     name,
		OSVersion:           osVersion,
		OSType:              runtime.GOOS,
		Architecture:        machine(),
		IndexServerAddress:  "https://index.docker.io/v1/",
		RegistryConfig:      registryConfig(facts.Insecure, facts.Mirrors),
		NCPU:                runtime.NumCPU(),
		MemTotal:            totalMemory(),
		DockerRootDir:       facts.DataRoot,
		HTTPProxy:           proxy("HTTP_PROXY"),
		HTTPSProxy:          proxy("HTTPS_PROXY"),
		NoProxy:             proxy("NO_PROXY"),
		Name:                hostname,
		Labels:              labels,
		ExperimentalBuild:   facts.Experimental,
		ServerVersion:       version.Version,
		Runtimes:            facts.Runtimes,
		DefaultRuntime:      facts.DefaultRuntime,
		Swarm:               swarm.Info{LocalNodeState: swarm.LocalNodeStateInactive},
		LiveRestoreEnabled:  facts.LiveRestore,
		InitBinary:          facts.InitBinary,
		ContainerdCommit:    system.Commit{ID: s.containerd(ctx).Details["GitCommit"]},
		RuncCommit:          commit,
		SecurityOptions:     securityOptions(facts),
		DefaultAddressPools: facts.AddressPools,
		CDISpecDirs:         append([]string{}, facts.CDISpecDirs...),
		DiscoveredDevices:   s.devices(),
		Containerd: &system.ContainerdInfo{
			Address:    facts.ContainerdAddress,
			Namespaces: system.ContainerdNamespaces{Containers: facts.Namespace, Plugins: facts.PluginsNamespace},
		},
		Warnings: append(s.cgroup.warnings(), facts.Warnings...),
	}
	if s.sources.Warnings != nil {
		info.Warnings = append(info.Warnings, s.sources.Warnings()...)
	}
	if facts.InitBinary != "" {
		_, info.InitCommit.ID = s.init.read(ctx, facts.InitBinary)
	}
	if facts.FirewallBackend != "" {
		info.FirewallBackend = &system.FirewallInfo{Driver: facts.FirewallBackend}
	}
	return info, nil
}

func (s *Service) volumeDrivers() []string {
	if s.sources.VolumeDrivers == nil {
		return []string{"local"}
	}
	return s.sources.VolumeDrivers()
}

func (s *Service) devices() []system.DeviceInfo {
	if s.sources.CDIDevices == nil {
		return nil
	}
	var all []system.DeviceInfo
	for _, id := range s.sources.CDIDevices() {
		all = append(all, system.DeviceInfo{Source: "cdi", ID: id})
	}
	return all
}

func registryConfig(insecure, mirrors []string) *registry.ServiceConfig {
	if mirrors == nil {
		mirrors = []string{}
	}
	cfg := &registry.ServiceConfig{Mirrors: mirrors, IndexConfigs: map[string]*registry.IndexInfo{
		"docker.io": {Name: "docker.io", Secure: true, Official: true, Mirrors: mirrors},
	}}
	for _, host := range append([]string{"127.0.0.0/8", "::1/128"}, insecure...) {
		if p, err := netip.ParsePrefix(host); err == nil {
			cfg.InsecureRegistryCIDRs = append(cfg.InsecureRegistryCIDRs, p)
			continue
		}
		cfg.IndexConfigs[host] = &registry.IndexInfo{Name: host, Mirrors: []string{}}
	}
	return cfg
}

func securityOptions(facts *Facts) []string {
	var opts []string
	switch facts.SeccompProfile {
	case "":
		opts = append(opts, "name=seccomp,profile=builtin")
	default:
		opts = append(opts, "name=seccomp,profile="+facts.SeccompProfile)
	}
	if _, err := os.Stat("/proc/self/ns/cgroup"); err == nil && facts.CgroupnsPrivate {
		opts = append(opts, "name=cgroupns")
	}
	if facts.NoNewPrivileges {
		opts = append(opts, "name=no-new-privileges")
	}
	return opts
}

// proxy returns the environment's proxy, in either case, without the password.
func proxy(name string) string {
	value := os.Getenv(name)
	if value == "" {
		value = os.Getenv(strings.ToLower(name))
	}
	u, err := url.Parse(value)
	if err != nil || u.User == nil {
		return value
	}
	u.User = url.UserPassword("xxxxx", "xxxxx")
	return u.String()
}

// initTimeout bounds the time that docker-init takes to print its version.
const initTimeout = 5 * time.Second

// initVersion remembers what docker-init says of itself.
type initVersion struct {
	mu                sync.Mutex // guards the fields below
	path              string
	version, revision string
}

// read asks the program once; "N/A" is what cannot be found out.
func (i *initVersion) read(ctx context.Context, path string) (version, revision string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.path == path {
		return i.version, i.revision
	}
	ctx, cancel := context.WithTimeout(ctx, initTimeout)
	defer cancel()
	version, revision = "N/A", "N/A"
	if out, err := exec.CommandContext(ctx, path, "--version").Output(); err == nil {
		// "tini version 0.19.0 - git.de40ad0"
		words := strings.Fields(string(out))
		for n, w := range words {
			if w == "version" && n+1 < len(words) {
				version = words[n+1]
			}
			if rev, ok := strings.CutPrefix(w, "git."); ok {
				revision = rev
			}
		}
	}
	if ctx.Err() == nil {
		i.path, i.version, i.revision = path, version, revision
	}
	return version, revision
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "<unknown>"
	}
	return unix.ByteSliceToString(u.Release[:])
}

func machine() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return runtime.GOARCH
	}
	return unix.ByteSliceToString(u.Machine[:])
}

func totalMemory() int64 {
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return 0
	}
	return int64(si.Totalram) * int64(si.Unit)
}

// operatingSystem reads the host's name and version from os-release(5).
func operatingSystem() (name, osVersion string) {
	for _, path := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		defer f.Close()
		for sc := bufio.NewScanner(f); sc.Scan(); {
			key, value, _ := strings.Cut(sc.Text(), "=")
			value = strings.Trim(value, `"'`)
			switch key {
			case "PRETTY_NAME":
				name = value
			case "VERSION_ID":
				osVersion = value
			}
		}
		break
	}
	if name == "" {
		name = "Linux"
	}
	return name, osVersion
}

func openFiles() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return -1
	}
	return len(entries) - 1 // less the one that reads
}

func sysctlIs(name, value string) bool {
	raw, err := os.ReadFile("/proc/sys/" + name)
	return err == nil && strings.TrimSpace(string(raw)) == value
}
