package builder

import (
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/util/disk"

	"lighter/internal/buildlink"
)

// gcPolicy is when and how much of the cache is collected; nil means never.
func gcPolicy(cfg buildlink.GC, root string) []client.PruneInfo {
	if cfg.Disabled {
		return nil
	}
	var policy []client.PruneInfo
	for _, r := range cfg.Policy {
		policy = append(policy, client.PruneInfo{
			All: r.All, Filter: r.Filter, KeepDuration: r.KeepDuration,
			ReservedSpace: r.ReservedBytes, MaxUsedSpace: r.MaxUsedBytes, MinFreeSpace: r.MinFreeBytes,
		})
	}
	if policy != nil {
		return policy
	}
	stat, _ := disk.GetDiskStat(root) // without it the defaults are a fixed size
	for _, r := range config.DefaultGCPolicy(config.GCConfig{
		GCReservedSpace: config.DiskSpace{Bytes: cfg.ReservedBytes},
		GCMaxUsedSpace:  config.DiskSpace{Bytes: cfg.MaxUsedBytes},
		GCMinFreeSpace:  config.DiskSpace{Bytes: cfg.MinFreeBytes},
	}, stat) {
		policy = append(policy, client.PruneInfo{
			All: r.All, Filter: r.Filters, KeepDuration: r.KeepDuration.Duration,
			ReservedSpace: r.ReservedSpace.AsBytes(stat), MaxUsedSpace: r.MaxUsedSpace.AsBytes(stat), MinFreeSpace: r.MinFreeSpace.AsBytes(stat),
		})
	}
	return policy
}

// historyConfig is how many finished builds are remembered; nil means BuildKit's
// defaults.
func historyConfig(h buildlink.History) *config.HistoryConfig {
	if h == (buildlink.History{}) {
		return nil
	}
	c := &config.HistoryConfig{}
	if h.MaxAge > 0 {
		c.MaxAge = config.Duration{Duration: h.MaxAge}
	}
	if h.MaxEntries > 0 {
		c.MaxEntries = &h.MaxEntries
	}
	return c
}
