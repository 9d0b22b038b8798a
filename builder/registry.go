package builder

import (
	"net"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/moby/buildkit/util/resolver"
	"github.com/moby/buildkit/util/resolver/config"

	"lighter/internal/buildlink"
)

// registryHosts says how the registries that images come from are reached.
func registryHosts(cfg buildlink.Registry) docker.RegistryHosts {
	return func(name string) ([]docker.RegistryHost, error) {
		rc := config.RegistryConfig{TLSConfigDir: []string{filepath.Join(cfg.CertsDir, name)}}
		if name == "docker.io" {
			rc.Mirrors = cfg.Mirrors
		}
		if insecure(name, cfg.Insecure) {
			yes := true
			rc.Insecure, rc.PlainHTTP = &yes, &yes
		}
		return resolver.NewRegistryConfig(map[string]config.RegistryConfig{name: rc})(name)
	}
}

// insecure says whether the registry may be reached without verified TLS: it is
// listed by name, or by an address range that it is in.
func insecure(name string, listed []string) bool {
	if slices.Contains(listed, name) {
		return true
	}
	hostname, _, err := net.SplitHostPort(name)
	if err != nil {
		hostname = name
	}
	if hostname == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(hostname)
	if err != nil {
		return false
	}
	if addr.IsLoopback() {
		return true
	}
	return slices.ContainsFunc(listed, func(l string) bool {
		p, err := netip.ParsePrefix(l)
		return err == nil && p.Contains(addr)
	})
}
