package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"lighter/containerd"
	"lighter/engine/build"
	"lighter/internal/buildlink"
)

// builder is the key "builder" of daemon.json: how much of the disk the
// build cache may keep, and what builds may ask for.
type builder struct {
	GC struct {
		Enabled              *bool           `json:"enabled"`
		DefaultKeepStorage   byteSize        `json:"defaultKeepStorage"` // the former name of the next
		DefaultReservedSpace byteSize        `json:"defaultReservedSpace"`
		DefaultMaxUsedSpace  byteSize        `json:"defaultMaxUsedSpace"`
		DefaultMinFreeSpace  byteSize        `json:"defaultMinFreeSpace"`
		Policy               []builderGCRule `json:"policy"`
	} `json:"gc"`
	Entitlements struct {
		NetworkHost      *bool `json:"network-host"`
		SecurityInsecure *bool `json:"security-insecure"`
	} `json:"entitlements"`
	History struct {
		MaxAge     keepTime `json:"maxAge"`
		MaxEntries int64    `json:"maxEntries"`
	} `json:"history"`
}

type builderGCRule struct {
	All           bool      `json:"all"`
	KeepStorage   byteSize  `json:"keepStorage"` // the former name of the next
	ReservedSpace byteSize  `json:"reservedSpace"`
	MaxUsedSpace  byteSize  `json:"maxUsedSpace"`
	MinFreeSpace  byteSize  `json:"minFreeSpace"`
	Filter        gcFilters `json:"filter"`
	KeepDuration  keepTime  `json:"keepDuration"`
}

// keepTime is a duration such as "48h".
type keepTime time.Duration

// UnmarshalJSON reads the text of a duration.
func (k *keepTime) UnmarshalJSON(raw []byte) error {
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return err
	}
	d, err := time.ParseDuration(s)
	*k = keepTime(d)
	return err
}

// gcFilters are the conditions of a rule, in BuildKit's syntax: a list of
// "type=source.local", or Docker's map of filters.
type gcFilters []string

// UnmarshalJSON accepts both forms.
func (f *gcFilters) UnmarshalJSON(raw []byte) error {
	var list []string
	if err := json.Unmarshal(raw, &list); err != nil {
		var byName map[string]map[string]bool
		if json.Unmarshal(raw, &byName) != nil {
			return err
		}
		for name, values := range byName {
			for v := range values {
				list = append(list, name+"="+v)
			}
		}
	}
	for _, c := range list {
		name, value, ok := strings.Cut(c, "=")
		value = strings.TrimPrefix(value, "=")
		if !ok || name == "" || value == "" {
			return fmt.Errorf("invalid filter %q: name=value is wanted", c)
		}
		*f = append(*f, name+"=="+value)
	}
	return nil
}

// entitlements are what builds may be granted: the host's network unless it is
// switched off, no confinement only if it is switched on.
func (b *builder) entitlements() []string {
	var list []string
	if on := b.Entitlements.NetworkHost; on == nil || *on {
		list = append(list, "network.host")
	}
	if on := b.Entitlements.SecurityInsecure; on != nil && *on {
		list = append(list, "security.insecure")
	}
	return list
}

func (b *builder) gc() buildlink.GC {
	gc := buildlink.GC{
		Disabled:      b.GC.Enabled != nil && !*b.GC.Enabled,
		ReservedBytes: int64(max(b.GC.DefaultReservedSpace, b.GC.DefaultKeepStorage)),
		MaxUsedBytes:  int64(b.GC.DefaultMaxUsedSpace),
		MinFreeBytes:  int64(b.GC.DefaultMinFreeSpace),
	}
	for _, r := range b.GC.Policy {
		gc.Policy = append(gc.Policy, buildlink.GCRule{
			All: r.All, Filter: r.Filter, KeepDuration: time.Duration(r.KeepDuration),
			ReservedBytes: int64(max(r.ReservedSpace, r.KeepStorage)), MaxUsedBytes: int64(r.MaxUsedSpace), MinFreeBytes: int64(r.MinFreeSpace),
		})
	}
	return gc
}

// check refuses what can't be meant.
func (b *builder) check() error {
	if b == nil {
		return nil
	}
	if b.History.MaxAge < 0 || b.History.MaxEntries < 0 {
		return errors.New("invalid builder.history: a limit must not be negative")
	}
	for _, size := range []byteSize{b.GC.DefaultKeepStorage, b.GC.DefaultReservedSpace, b.GC.DefaultMaxUsedSpace, b.GC.DefaultMinFreeSpace} {
		if size < 0 {
			return errors.New("invalid builder.gc: a size must not be negative")
		}
	}
	return nil
}

// buildIdle is how long an idle build process stays; tests shorten it.
const buildIdleEnv = "LIGHTER_BUILD_IDLE"

// buildConfig is how the build process is run.
func buildConfig(cfg *config, containerdAddress string) build.Config {
	// Control groups are named on the whole host: two daemons must not share one.
	b := cfg.Builder
	if b == nil {
		b = &builder{}
	}
	sum := sha256.Sum256([]byte(cfg.DataRoot))
	link := buildlink.Config{
		Root:         filepath.Join(cfg.DataRoot, "buildkit"),
		State:        filepath.Join(cfg.ExecRoot, "build"),
		Containerd:   containerdAddress,
		Namespace:    cfg.Namespace,
		Snapshotter:  cmp.Or(cfg.snapshotter(), containerd.DefaultSnapshotter),
		Runtime:      lookSibling("runc"),
		CgroupParent: "docker-build-" + hex.EncodeToString(sum[:6]),
		Debug:        cfg.LogLevel == "debug",
		DNS:          cfg.DNS,
		DNSSearch:    cfg.DNSSearch,
		DNSOptions:   cfg.DNSOpts,
		Registry:     buildlink.Registry{Insecure: cfg.InsecureRegistry, Mirrors: cfg.Mirrors, CertsDir: "/etc/docker/certs.d"},
		Entitlements: b.entitlements(),
		GC:           b.gc(),
		History:      buildlink.History{MaxAge: time.Duration(b.History.MaxAge), MaxEntries: b.History.MaxEntries},
	}
	idle, _ := time.ParseDuration(os.Getenv(buildIdleEnv)) // 0: the default
	return build.Config{Program: lookSibling("docker-buildkitd"), Idle: idle, Link: link}
}
