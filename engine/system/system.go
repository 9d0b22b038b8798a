// Package system describes the engine and its host: what docker version and
// docker info show.
package system

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
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
	Snapshotter       string
	InitBinary        string
	ContainerdAddress string
	Namespace         string
	Insecure          []string // registries
	FirewallBackend   string   // "" when the engine manages no firewall
	CDISpecDirs       []string
	// CDIDevices lists the devices that containers can ask for by name; nil for
	// none.
	CDIDevices func() []string
}

// Counts are what the daemon holds at the moment.
type Counts struct {
	Containers, Running, Paused, Stopped, Images, EventListeners int
}

// Service answers for the daemon. It is safe for concurrent use.
type Service struct {
	facts  Facts
	id     string
	counts func(context.Context) (Counts, error)
	meters Meters
	cgroup cgroupFacts
}

// New returns a Service. The engine's ID is read from engine-id in the data
// root, or made and stored there.
func New(facts Facts, counts func(context.Context) (Counts, error), meters Meters) (*Service, error) {
	id, err := identity.Load(filepath.Join(facts.DataRoot, "engine-id"))
	if err != nil {
		return nil, err
	}
	return &Service{facts: facts, id: id, counts: counts, meters: meters, cgroup: probeCgroup("/")}, nil
}

// ID is the engine's ID, stable over restarts.
func (s *Service) ID() string { return s.id }

// Version describes the build.
func (s *Service) Version(context.Context) (system.VersionResponse, error) {
	kernel := kernelRelease()
	details := map[string]string{
		"ApiVersion":    version.APIMax,
		"MinAPIVersion": version.APIMin,
		"Arch":          runtime.GOARCH,
		"BuildTime":     version.BuildTime,
		"Experimental":  strconv.FormatBool(s.facts.Experimental),
		"GitCommit":     version.GitCommit,
		"GoVersion":     runtime.Version(),
		"KernelVersion": kernel,
		"Os":            runtime.GOOS,
	}
	// Clients print a section for each component; the four are one build.
	commit := map[string]string{"GitCommit": version.GitCommit}
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
		Experimental:  s.facts.Experimental,
		BuildTime:     version.BuildTime,
		Components: []system.ComponentVersion{
			{Name: "Engine", Version: version.Version, Details: details},
			{Name: "containerd", Version: version.Version, Details: commit},
			{Name: "runc", Version: version.Version, Details: commit},
		},
	}, nil
}

// Info describes the daemon and the host now.
func (s *Service) Info(ctx context.Context) (system.Info, error) {
	n, err := s.counts(ctx)
	if err != nil {
		return system.Info{}, err
	}
	hostname, err := os.Hostname()
	if err != nil {
		return system.Info{}, fmt.Errorf("read the host's name: %w", err)
	}
	name, osVersion := operatingSystem()
	labels := s.facts.Labels
	if labels == nil {
		labels = []string{}
	}
	commit := system.Commit{ID: version.GitCommit}
	info := system.Info{
		ID:                 s.id,
		Containers:         n.Containers,
		ContainersRunning:  n.Running,
		ContainersPaused:   n.Paused,
		ContainersStopped:  n.Stopped,
		Images:             n.Images,
		Driver:             s.facts.Snapshotter,
		DriverStatus:       [][2]string{{"driver-type", "io.containerd.snapshotter.v1"}},
		Plugins:            system.PluginsInfo{Volume: []string{"local"}, Network: []string{"bridge", "host", "null"}, Log: s.facts.LogDrivers},
		MemoryLimit:        s.cgroup.memory,
		SwapLimit:          s.cgroup.swap,
		CPUCfsPeriod:       s.cgroup.cpu,
		CPUCfsQuota:        s.cgroup.cpu,
		CPUShares:          s.cgroup.cpu,
		CPUSet:             s.cgroup.cpuset,
		PidsLimit:          s.cgroup.pids,
		OomKillDisable:     s.cgroup.version == "1",
		CgroupDriver:       "cgroupfs",
		CgroupVersion:      s.cgroup.version,
		IPv4Forwarding:     sysctlIs("net/ipv4/ip_forward", "1"),
		Debug:              s.facts.Debug,
		NGoroutines:        runtime.NumGoroutine(),
		NFd:                openFiles(),
		SystemTime:         time.Now().Format(time.RFC3339Nano),
		LoggingDriver:      s.facts.LogDriver,
		NEventsListener:    n.EventListeners,
		KernelVersion:      kernelRelease(),
		OperatingSystem:    name,
		OSVersion:          osVersion,
		OSType:             runtime.GOOS,
		Architecture:       machine(),
		IndexServerAddress: "https://index.docker.io/v1/",
		RegistryConfig:     registryConfig(s.facts.Insecure),
		NCPU:               runtime.NumCPU(),
		MemTotal:           totalMemory(),
		DockerRootDir:      s.facts.DataRoot,
		HTTPProxy:          os.Getenv("HTTP_PROXY"),
		HTTPSProxy:         os.Getenv("HTTPS_PROXY"),
		NoProxy:            os.Getenv("NO_PROXY"),
		Name:               hostname,
		Labels:             labels,
		ExperimentalBuild:  s.facts.Experimental,
		ServerVersion:      version.Version,
		Runtimes: map[string]system.RuntimeWithStatus{
			"runc":                  {Runtime: system.Runtime{Path: "runc"}},
			"io.containerd.runc.v2": {Runtime: system.Runtime{Type: "io.containerd.runc.v2"}},
		},
		DefaultRuntime:     "runc",
		Swarm:              swarm.Info{LocalNodeState: swarm.LocalNodeStateInactive},
		LiveRestoreEnabled: s.facts.LiveRestore,
		InitBinary:         s.facts.InitBinary,
		ContainerdCommit:   commit,
		RuncCommit:         commit,
		SecurityOptions:    securityOptions(s.cgroup.version),
		CDISpecDirs:        append([]string{}, s.facts.CDISpecDirs...),
		DiscoveredDevices:  s.devices(),
		Containerd: &system.ContainerdInfo{
			Address:    s.facts.ContainerdAddress,
			Namespaces: system.ContainerdNamespaces{Containers: s.facts.Namespace, Plugins: "plugins." + s.facts.Namespace},
		},
		Warnings: s.cgroup.warnings(),
	}
	if s.facts.FirewallBackend != "" {
		info.FirewallBackend = &system.FirewallInfo{Driver: s.facts.FirewallBackend}
	}
	return info, nil
}

func (s *Service) devices() []system.DeviceInfo {
	if s.facts.CDIDevices == nil {
		return nil
	}
	var all []system.DeviceInfo
	for _, id := range s.facts.CDIDevices() {
		all = append(all, system.DeviceInfo{Source: "cdi", ID: id})
	}
	return all
}

func registryConfig(insecure []string) *registry.ServiceConfig {
	cfg := &registry.ServiceConfig{IndexConfigs: map[string]*registry.IndexInfo{
		"docker.io": {Name: "docker.io", Secure: true, Official: true, Mirrors: []string{}},
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

func securityOptions(cgroupVersion string) []string {
	opts := []string{"name=seccomp,profile=builtin"}
	if cgroupVersion == "2" {
		opts = append(opts, "name=cgroupns")
	}
	return opts
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
