package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"lighter/internal/daemon"
)

// Where things are by default, as with a stock containerd.
const (
	defaultConfigPath = "/etc/containerd/config.toml"
	defaultRoot       = "/var/lib/containerd"
	defaultState      = "/run/containerd"
	defaultAddress    = "/run/containerd/containerd.sock"
	defaultImports    = "/etc/containerd/conf.d/*.toml"
)

// configVersion is what we write. Files of versions 2 and 3, and of 4 without
// server plugins, say what we read in the same words; so do those of version 1
// and without one, which packages of Docker still ship.
const (
	configVersion    = 3
	maxConfigVersion = 4
)

// maxConfigSize bounds a configuration file, in bytes.
const maxConfigSize = 1 << 20

// config is the part of containerd's configuration that has a meaning here.
type config struct {
	Version  int           `toml:"version"`
	Root     string        `toml:"root"`
	State    string        `toml:"state"`
	OOMScore int           `toml:"oom_score"` // of the daemon; 0 leaves it alone
	Imports  []string      `toml:"imports"`   // files or patterns, relative to the importing file
	GRPC     grpcConfig    `toml:"grpc"`
	TTRPC    ttrpcConfig   `toml:"ttrpc"`
	Cgroup   cgroupConfig  `toml:"cgroup"`
	Debug    debugConfig   `toml:"debug"`
	Metrics  metricsConfig `toml:"metrics"`
}

type grpcConfig struct {
	Address string `toml:"address"`
	UID     int    `toml:"uid"`
	GID     int    `toml:"gid"`
}

type ttrpcConfig struct {
	Address string `toml:"address"` // "" means that of gRPC with ".ttrpc"
}

type cgroupConfig struct {
	Path string `toml:"path"` // control group of the daemon; "" is that of who started it
}

type debugConfig struct {
	Level  string `toml:"level"`
	Format string `toml:"format"` // "text" or "json"
	// Address is the socket of the profiles; "" for none.
	Address string `toml:"address"`
}

type metricsConfig struct {
	Address string `toml:"address"` // host:port of Prometheus's metrics; "" for none
}

// foreign are the keys of a stock configuration that have no meaning here.
// Their use is a warning: the file is written for more than one program.
var foreign = []string{
	"temp", "disabled_plugins", "required_plugins", "plugins", "proxy_plugins", "timeouts",
	"stream_processors", "metrics.grpc_histogram", "grpc.tcp_address", "grpc.tcp_tls_ca", "grpc.tcp_tls_cert", "grpc.tcp_tls_key",
	"grpc.tcp_tls_common_name", "grpc.max_recv_message_size", "grpc.max_send_message_size", "ttrpc.uid", "ttrpc.gid",
	"debug.uid", "debug.gid", "debug.log_trace_id",
}

// known are the keys of config.
var known = []string{
	"version", "root", "state", "oom_score", "imports", "grpc", "grpc.address", "grpc.uid", "grpc.gid",
	"ttrpc", "ttrpc.address", "cgroup", "cgroup.path", "debug", "debug.level", "debug.format", "debug.address",
	"metrics", "metrics.address",
}

func defaultConfig() config {
	return config{
		Version: configVersion, Root: defaultRoot, State: defaultState,
		GRPC:  grpcConfig{Address: defaultAddress},
		Debug: debugConfig{Level: "info", Format: "text"},
	}
}

// loadConfig reads the file at path and what it imports over the defaults. A
// missing file is an error only if it was asked for. The warnings name what has
// no meaning here.
func loadConfig(path string, asked bool) (cfg config, warnings []string, err error) {
	cfg = defaultConfig()
	err = cfg.load(path, &warnings, nil)
	if errors.Is(err, os.ErrNotExist) && !asked {
		cfg.Imports = []string{defaultImports}
		err = cfg.load("", &warnings, nil)
	}
	if err != nil {
		return cfg, nil, fmt.Errorf("load configuration: %w", err)
	}
	return cfg, warnings, nil
}

// load applies one file, "" for none, and then its imports. from is the chain of
// files that led to it.
func (c *config) load(path string, warnings *[]string, from []string) error {
	if path != "" {
		if slices.Contains(from, path) {
			return fmt.Errorf("%s imports itself by way of %s", path, strings.Join(from[1:], ", "))
		}
		data, err := readConfig(path)
		if err != nil {
			return err
		}
		c.Imports = nil
		if err := c.parse(path, data, warnings); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	imports := c.Imports
	for _, pattern := range imports {
		if !filepath.IsAbs(pattern) {
			pattern = filepath.Join(filepath.Dir(path), pattern)
		}
		files, err := filepath.Glob(pattern)
		if err != nil {
			return fmt.Errorf("%s: import %q: %w", path, pattern, err)
		}
		if len(files) == 0 && !strings.ContainsAny(pattern, "*?[") {
			return fmt.Errorf("%s: import %q: %w", path, pattern, os.ErrInvalid)
		}
		for _, file := range files {
			if err := c.load(file, warnings, append(slices.Clone(from), path)); err != nil {
				return err
			}
		}
	}
	c.Imports = imports
	return nil
}

func readConfig(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfigSize+1))
	if err == nil && len(data) > maxConfigSize {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxConfigSize)
	}
	return data, err
}

// parse decodes data over c.
func (c *config) parse(path string, data []byte, warnings *[]string) error {
	var raw map[string]any
	if err := toml.Unmarshal(data, &raw); err != nil {
		return err
	}
	if v, ok := raw["version"].(int64); ok && (v < 1 || v > maxConfigVersion) {
		return fmt.Errorf("version %d is not known: versions up to %d are", v, maxConfigVersion)
	}
	if err := check(path, "", raw, warnings); err != nil {
		return err
	}
	if err := toml.NewDecoder(bytes.NewReader(data)).Decode(c); err != nil {
		return err
	}
	return nil
}

// check sorts the keys of a table: ours, those that only a stock containerd
// knows, and mistakes.
func check(path, prefix string, table map[string]any, warnings *[]string) error {
	keys := make([]string, 0, len(table))
	for key := range table {
		keys = append(keys, key)
	}
	slices.Sort(keys) // warnings in the same order each time
	for _, key := range keys {
		name := prefix + key
		sub, isTable := table[key].(map[string]any)
		switch {
		case name == "plugins" && isTable:
			for _, plugin := range sortedKeys(sub) {
				*warnings = append(*warnings, fmt.Sprintf("%s: plugin section %q has no meaning here", path, plugin))
			}
		case slices.Contains(known, name):
			if isTable {
				if err := check(path, name+".", sub, warnings); err != nil {
					return err
				}
			}
		case slices.Contains(foreign, name):
			*warnings = append(*warnings, fmt.Sprintf("%s: key %q has no meaning here", path, name))
		default:
			return fmt.Errorf("unknown key %q: did you mean %q?", name, daemon.Nearest(name, known))
		}
	}
	return nil
}

func sortedKeys(m map[string]any) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// validate checks what flags and files together say.
func (c *config) validate() error {
	for _, p := range []struct{ name, path string }{
		{"root", c.Root}, {"state", c.State}, {"grpc.address", c.GRPC.Address}, {"ttrpc.address", c.ttrpcAddress()},
	} {
		if !filepath.IsAbs(p.path) {
			return fmt.Errorf("%s %q is not an absolute path", p.name, p.path)
		}
	}
	if filepath.Clean(c.Root) == filepath.Clean(c.State) {
		return fmt.Errorf("root and state are both %q: what survives a reboot and what does not can't be in one directory", c.Root)
	}
	if c.ttrpcAddress() != c.GRPC.Address+".ttrpc" {
		return fmt.Errorf("ttrpc.address %q: shims are told %q: leave it out", c.TTRPC.Address, c.GRPC.Address+".ttrpc")
	}
	if c.Debug.Address != "" && !filepath.IsAbs(c.Debug.Address) {
		return fmt.Errorf("debug.address %q is not an absolute path", c.Debug.Address)
	}
	if _, _, err := net.SplitHostPort(c.Metrics.Address); err != nil && c.Metrics.Address != "" {
		return fmt.Errorf("metrics.address: %w", err)
	}
	if c.OOMScore < -1000 || c.OOMScore > 1000 {
		return fmt.Errorf("oom_score %d is not between -1000 and 1000", c.OOMScore)
	}
	if _, err := parseLevel(c.Debug.Level); err != nil {
		return err
	}
	if f := c.Debug.Format; f != "" && f != "text" && f != "json" {
		return fmt.Errorf("debug.format %q is neither text nor json", f)
	}
	return nil
}

func (c *config) ttrpcAddress() string {
	if c.TTRPC.Address != "" {
		return c.TTRPC.Address
	}
	return c.GRPC.Address + ".ttrpc"
}

// write prints c as a configuration file.
func (c *config) write(w io.Writer) error {
	c.Version = configVersion
	enc := toml.NewEncoder(w)
	enc.SetIndentTables(true)
	return enc.Encode(c)
}

// migrate prints the file at path alone, without its imports, as a configuration
// file of the newest version.
func migrate(path string, stdout, stderr io.Writer) error {
	data, err := readConfig(path)
	if err != nil {
		return fmt.Errorf("migrate configuration: %w", err)
	}
	cfg := defaultConfig()
	var warnings []string
	if err := cfg.parse(path, data, &warnings); err != nil {
		return fmt.Errorf("migrate configuration: %s: %w", path, err)
	}
	for _, w := range warnings {
		fmt.Fprintln(stderr, w)
	}
	return cfg.write(stdout)
}

func parseLevel(s string) (slog.Level, error) {
	switch strings.ToLower(s) {
	case "trace", "debug":
		return slog.LevelDebug, nil
	case "info", "":
		return slog.LevelInfo, nil
	case "warn", "warning":
		return slog.LevelWarn, nil
	case "error", "fatal", "panic":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("log level %q is none of trace, debug, info, warn, error, fatal, panic", s)
}
