package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	api "github.com/moby/moby/api/types/container"
	systemtypes "github.com/moby/moby/api/types/system"

	"lighter/containerd"
	"lighter/engine"
	"lighter/engine/container"
	"lighter/engine/image"
	"lighter/engine/log/driver"
	"lighter/engine/network"
	"lighter/engine/network/ipam"
	"lighter/engine/system"
	"lighter/internal/atomicfile"
	"lighter/internal/version"
)

// engineConfig is the engine's part of the configuration, which check has
// accepted. containerdAddress is shown by docker info.
func engineConfig(cfg *config, containerdAddress string) (engine.Config, error) {
	runtimes, shown, err := engineRuntimes(cfg)
	if err != nil {
		return engine.Config{}, err
	}
	seccomp, err := seccompProfile(cfg.SeccompProfile)
	if err != nil {
		return engine.Config{}, err
	}
	initPath := cfg.InitPath
	if initPath == "" {
		initPath = lookSibling("docker-init")
	} else if !filepath.IsAbs(initPath) {
		initPath = lookSibling(initPath)
	}
	stopTimeout := time.Duration(cfg.StopTimeout) * time.Second
	if stopTimeout == 0 {
		stopTimeout = time.Nanosecond // at once; 0 would be the default
	}
	var limits []*api.Ulimit
	for _, l := range cfg.Ulimits {
		limits = append(limits, l)
	}
	slices.SortFunc(limits, func(a, b *api.Ulimit) int { return cmp.Compare(a.Name, b.Name) })
	firewall := ""
	if cfg.IPTables {
		firewall = "nftables"
	}
	var pools []systemtypes.NetworkAddressPool
	for _, p := range cfg.AddressPools {
		base, _ := netip.ParsePrefix(p.Base)
		pools = append(pools, systemtypes.NetworkAddressPool{Base: base, Size: p.Size})
	}
	return engine.Config{
		Container: container.Config{
			DataRoot:           cfg.DataRoot,
			ExecRoot:           cfg.ExecRoot,
			Namespace:          cfg.Namespace,
			LiveRestore:        cfg.LiveRestore,
			DefaultStopTimeout: stopTimeout,
			DefaultLogDriver:   cfg.LogDriver,
			DefaultLogOpts:     cfg.LogOpts,
			LogLimit:           int64(cfg.ContainerLogLimit),
			DefaultShmBytes:    int64(cfg.ShmSize),
			DefaultIPCMode:     api.IpcMode(cfg.IPCMode),
			DefaultCgroupNS:    api.CgroupnsMode(cfg.CgroupNS),
			DefaultUlimits:     limits,
			CgroupParent:       cfg.CgroupParent,
			Runtimes:           runtimes,
			DefaultRuntime:     cfg.DefaultRuntime,
			Snapshotter:        cfg.snapshotter(),
			InitPath:           initPath,
			Init:               cfg.Init,
			CDISpecDirs:        cfg.CDISpecDirs,
			LegacyLinkEnv:      os.Getenv("DOCKER_KEEP_DEPRECATED_LEGACY_LINKS_ENV_VARS") == "1",
			SeccompProfile:     seccomp,
			NoNewPrivileges:    cfg.NoNewPrivileges,
		},
		Network:          networkConfig(cfg),
		NetworkOptions:   cfg.NetworkOpts,
		MaxDownloads:     cfg.MaxDownloads,
		MaxUploads:       cfg.MaxUploads,
		DownloadAttempts: cfg.DownloadAttempts,
		Registry: image.RegistryConfig{
			Insecure: cfg.InsecureRegistry, Mirrors: cfg.Mirrors,
			UserAgent: "docker/" + version.Version + " (" + version.Product + ")",
		},
		Build:              buildConfig(cfg, containerdAddress),
		CleanUp:            cfg.GC.policy(),
		ExternalContainerd: cfg.Containerd != "",
		System: system.Facts{
			DataRoot:          cfg.DataRoot,
			Debug:             cfg.LogLevel == "debug" || cfg.LogLevel == "trace",
			Experimental:      cfg.Experimental,
			LiveRestore:       cfg.LiveRestore,
			Labels:            cfg.Labels,
			LogDriver:         cfg.LogDriver,
			LogDrivers:        driver.Names(),
			Authorization:     cfg.Authorization,
			Snapshotter:       cmp.Or(cfg.snapshotter(), containerd.DefaultSnapshotter),
			InitBinary:        initPath,
			Runtimes:          shown,
			DefaultRuntime:    cfg.DefaultRuntime,
			CgroupnsPrivate:   cgroupnsPrivate(cfg.CgroupNS),
			SeccompProfile:    cfg.SeccompProfile,
			NoNewPrivileges:   cfg.NoNewPrivileges,
			ContainerdAddress: containerdAddress,
			Namespace:         cfg.Namespace,
			PluginsNamespace:  cfg.PluginsNamespace,
			Insecure:          cfg.InsecureRegistry,
			Mirrors:           cfg.Mirrors,
			AddressPools:      pools,
			FirewallBackend:   firewall,
			CDISpecDirs:       cfg.CDISpecDirs,
			Warnings:          exposed(cfg),
		},
	}, nil
}

func networkConfig(cfg *config) network.Config {
	net := network.DefaultConfig(filepath.Join(cfg.DataRoot, "network"))
	net.SandboxDir = filepath.Join(cfg.ExecRoot, "netns")
	net.Bridge = cfg.Bridge
	net.MTU = cfg.MTU
	net.ICC, net.IPMasq = cfg.ICC, cfg.IPMasq
	net.IPForward, net.IPForwardNoDrop = cfg.IPForward, cfg.IPForwardNoDrop
	net.Firewall, net.UserlandProxy = cfg.IPTables, cfg.UserlandProxy
	net.DNSSearch, net.DNSOptions = cfg.DNSSearch, cfg.DNSOpts
	// check has parsed these before; what is not given is the zero value.
	net.BIP, _ = netip.ParsePrefix(cfg.BIP)
	net.FixedCIDR, _ = netip.ParsePrefix(cfg.FixedCIDR)
	net.DefaultGateway, _ = netip.ParseAddr(cfg.Gateway)
	net.RespectInput = cfg.FirewallMode == "respect"
	net.AcceptMark, net.AcceptMask, _ = parseMark(cfg.AcceptFwmark)
	net.IPv6, net.DirectRouting = cfg.IPv6, cfg.DirectRouting
	net.BIP6, _ = netip.ParsePrefix(cfg.BIP6)
	net.FixedCIDR6, _ = netip.ParsePrefix(cfg.FixedCIDR6)
	net.DefaultGateway6, _ = netip.ParseAddr(cfg.Gateway6)
	if addr, _ := netip.ParseAddr(cfg.BindIP); addr.IsValid() && !addr.IsUnspecified() {
		net.DefaultBindIP = addr
	}
	for _, d := range cfg.DNS {
		addr, _ := netip.ParseAddr(d)
		net.DNS = append(net.DNS, addr)
	}
	for _, h := range cfg.HostGatewayIPs {
		addr, _ := netip.ParseAddr(h)
		net.HostGatewayIPs = append(net.HostGatewayIPs, addr)
	}
	for _, p := range cfg.AddressPools {
		base, _ := netip.ParsePrefix(p.Base)
		net.DefaultAddressPools = append(net.DefaultAddressPools, ipam.Block{Base: base.Masked(), Bits: p.Size})
	}
	return net
}

// parseMark reads MARK or MARK/MASK, in any base. Without a mask all bits count;
// "" is a zero mask.
func parseMark(s string) (mark, mask uint32, err error) {
	if s == "" {
		return 0, 0, nil
	}
	first, second, masked := strings.Cut(s, "/")
	number := func(s string) uint32 {
		n, e := strconv.ParseUint(s, 0, 32)
		if e != nil && err == nil {
			err = fmt.Errorf("%q is not a number of 32 bits", s)
		}
		return uint32(n)
	}
	mark, mask = number(first), ^uint32(0)
	if masked {
		if mask = number(second); mask == 0 && err == nil {
			err = errors.New("the mask is zero: every packet would match")
		}
	}
	return mark, mask, err
}

// engineRuntimes returns the configured runtimes for the engine and as docker
// info shows them. A program with arguments gets a script that adds them, as the
// shim knows programs only.
func engineRuntimes(cfg *config) (map[string]container.Runtime, map[string]systemtypes.RuntimeWithStatus, error) {
	runtimes := map[string]container.Runtime{}
	shown := map[string]systemtypes.RuntimeWithStatus{
		"runc":                  {Runtime: systemtypes.Runtime{Path: "runc"}},
		"io.containerd.runc.v2": {Runtime: systemtypes.Runtime{Path: "runc"}},
	}
	for name, r := range cfg.Runtimes {
		path := r.Path
		if len(r.Args) > 0 {
			var err error
			if path, err = writeWrapper(filepath.Join(cfg.ExecRoot, "runtimes"), name, r); err != nil {
				return nil, nil, fmt.Errorf("configure runtime %s: %w", name, err)
			}
		}
		runtimes[name] = container.Runtime{Path: path, Type: r.Type, Options: r.Options}
		shown[name] = systemtypes.RuntimeWithStatus{Runtime: systemtypes.Runtime{Path: r.Path, Args: r.Args, Type: r.Type, Options: r.Options}}
	}
	return runtimes, shown, nil
}

// writeWrapper writes the script that starts a runtime with its arguments.
func writeWrapper(dir, name string, r runtimeConfig) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
	line := "exec " + quote(r.Path)
	for _, arg := range r.Args {
		line += " " + quote(arg)
	}
	path := filepath.Join(dir, fmt.Sprintf("%x", name))
	return path, atomicfile.Write(path, []byte("#!/bin/sh\n"+line+" \"$@\"\n"), 0o700)
}

// seccompProfile returns the profile as container.Config has it.
func seccompProfile(name string) (string, error) {
	switch name {
	case "", "builtin":
		return "", nil
	case "unconfined":
		return name, nil
	}
	raw, err := os.ReadFile(name)
	if err != nil {
		return "", fmt.Errorf("opening seccomp profile (%s) failed: %w", name, err)
	}
	return string(raw), nil
}

func cgroupnsPrivate(mode string) bool {
	if mode != "" {
		return mode == "private"
	}
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers") // cgroup v2 alone
	return err == nil
}

// exposed are the warnings for sockets that give the host away.
func exposed(cfg *config) []string {
	var out []string
	for _, h := range cfg.Hosts {
		addr, tcp := strings.CutPrefix(h, "tcp://")
		switch {
		case !tcp || cfg.verifyClients():
		case cfg.useTLS():
			out = append(out, "WARNING: API is accessible on https://"+addr+" without client verification: whoever can reach it is root on this host")
		default:
			out = append(out, "WARNING: API is accessible on http://"+addr+" without encryption: whoever can reach it is root on this host")
		}
	}
	return out
}
