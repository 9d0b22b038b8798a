package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"lighter/internal/daemon"
)

const defaultConfigFile = "/etc/docker/daemon.json"

// config is the daemon's configuration: the flags and the keys of daemon.json.
// A field's json tag is its key; flagOf gives the flag where the names differ.
type config struct {
	Hosts             []string          `json:"hosts"`
	Group             string            `json:"group"`
	DataRoot          string            `json:"data-root"`
	ExecRoot          string            `json:"exec-root"`
	Pidfile           string            `json:"pidfile"`
	Containerd        string            `json:"containerd"`
	Namespace         string            `json:"containerd-namespace"`
	Debug             bool              `json:"debug"`
	LogLevel          string            `json:"log-level"`
	LogFormat         string            `json:"log-format"`
	LiveRestore       bool              `json:"live-restore"`
	ShutdownTimeout   int               `json:"shutdown-timeout"`
	StopTimeout       int               `json:"default-stop-timeout"`
	ShmSize           byteSize          `json:"default-shm-size"`
	LogDriver         string            `json:"log-driver"`
	LogOpts           map[string]string `json:"log-opts"`
	Labels            []string          `json:"labels"`
	Bridge            string            `json:"bridge"`
	BIP               string            `json:"bip"`
	FixedCIDR         string            `json:"fixed-cidr"`
	MTU               int               `json:"mtu"`
	ICC               bool              `json:"icc"`
	IPForward         bool              `json:"ip-forward"`
	IPMasq            bool              `json:"ip-masq"`
	DNS               []string          `json:"dns"`
	DNSSearch         []string          `json:"dns-search"`
	DNSOpts           []string          `json:"dns-opts"`
	InsecureRegistry  []string          `json:"insecure-registries"`
	MinAPIVersion     string            `json:"min-api-version"`
	Experimental      bool              `json:"experimental"`
	Init              bool              `json:"init"`
	InitPath          string            `json:"init-path"`
	CDISpecDirs       []string          `json:"cdi-spec-dirs"`
	configFile        string
	validate, version bool
}

// flagOf names the flag of a key where it is not the key itself; "" means that
// the key has none.
var flagOf = map[string]string{
	"hosts": "host", "labels": "label", "log-opts": "log-opt", "dns-opts": "dns-opt",
	"cdi-spec-dirs": "cdi-spec-dir", "insecure-registries": "insecure-registry", "min-api-version": "",
}

// byteSize is a number of bytes, written with a unit ("64m").
type byteSize int64

func (b *byteSize) String() string { return units.BytesSize(float64(*b)) }
func (b *byteSize) Type() string   { return "bytes" }
func (b *byteSize) Set(s string) error {
	n, err := units.RAMInBytes(s)
	*b = byteSize(n)
	return err
}

// UnmarshalJSON accepts what the flag accepts.
func (b *byteSize) UnmarshalJSON(raw []byte) error {
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		var n int64
		if err := json.Unmarshal(raw, &n); err != nil {
			return err
		}
		*b = byteSize(n)
		return nil
	}
	return b.Set(s)
}

func defaultConfig() *config {
	return &config{
		DataRoot:        "/var/lib/docker",
		ExecRoot:        "/var/run/docker",
		Pidfile:         "/var/run/docker.pid",
		Group:           "docker",
		Namespace:       "moby",
		LogLevel:        "info",
		LogFormat:       "text",
		ShutdownTimeout: 15,
		StopTimeout:     10,
		ShmSize:         64 << 20,
		LogDriver:       "json-file",
		ICC:             true,
		IPForward:       true,
		IPMasq:          true,
		MTU:             1500,
		CDISpecDirs:     []string{"/etc/cdi", "/var/run/cdi"},
		configFile:      defaultConfigFile,
	}
}

func (c *config) flags() *pflag.FlagSet {
	fs := pflag.NewFlagSet("dockerd", pflag.ContinueOnError)
	fs.SortFlags = true
	fs.StringArrayVarP(&c.Hosts, "host", "H", nil, "Daemon socket(s) to connect to")
	fs.StringVarP(&c.Group, "group", "G", c.Group, "Group for the unix socket")
	fs.StringVar(&c.DataRoot, "data-root", c.DataRoot, "Root directory of persistent Docker state")
	fs.StringVar(&c.ExecRoot, "exec-root", c.ExecRoot, "Root directory for execution state files")
	fs.StringVarP(&c.Pidfile, "pidfile", "p", c.Pidfile, "Path to use for daemon PID file")
	fs.StringVar(&c.Containerd, "containerd", "", "containerd grpc address")
	fs.StringVar(&c.Namespace, "containerd-namespace", c.Namespace, "Containerd namespace to use")
	fs.BoolVarP(&c.Debug, "debug", "D", false, "Enable debug mode")
	fs.StringVarP(&c.LogLevel, "log-level", "l", c.LogLevel, `Set the logging level ("debug"|"info"|"warn"|"error"|"fatal")`)
	fs.StringVar(&c.LogFormat, "log-format", c.LogFormat, `Set the logging format ("text"|"json")`)
	fs.BoolVar(&c.LiveRestore, "live-restore", false, "Enable live restore of docker when containers are still running")
	fs.IntVar(&c.ShutdownTimeout, "shutdown-timeout", c.ShutdownTimeout, "Set the default shutdown timeout")
	fs.IntVar(&c.StopTimeout, "default-stop-timeout", c.StopTimeout, "Seconds to wait for a container to stop before it is killed")
	fs.Var(&c.ShmSize, "default-shm-size", "Default shm size for containers")
	fs.StringVar(&c.LogDriver, "log-driver", c.LogDriver, "Default driver for container logs")
	fs.StringToStringVar(&c.LogOpts, "log-opt", nil, "Default log driver options for containers")
	fs.StringArrayVar(&c.Labels, "label", nil, "Set key=value labels to the daemon")
	fs.StringVarP(&c.Bridge, "bridge", "b", "", "Attach containers to a network bridge (\"none\" disables the default bridge)")
	fs.StringVar(&c.BIP, "bip", "", "IPv4 address for the default bridge")
	fs.StringVar(&c.FixedCIDR, "fixed-cidr", "", "IPv4 subnet for the default bridge network")
	fs.IntVar(&c.MTU, "mtu", c.MTU, "Set the MTU for the default bridge network")
	fs.BoolVar(&c.ICC, "icc", c.ICC, "Enable inter-container communication for the default bridge network")
	fs.BoolVar(&c.IPForward, "ip-forward", c.IPForward, "Enable IP forwarding in system configuration")
	fs.BoolVar(&c.IPMasq, "ip-masq", c.IPMasq, "Enable IP masquerading for the default bridge network")
	fs.StringArrayVar(&c.DNS, "dns", nil, "DNS server to use")
	fs.StringArrayVar(&c.DNSSearch, "dns-search", nil, "DNS search domains to use")
	fs.StringArrayVar(&c.DNSOpts, "dns-opt", nil, "DNS options to use")
	fs.StringArrayVar(&c.InsecureRegistry, "insecure-registry", nil, "Enable insecure registry communication")
	fs.BoolVar(&c.Experimental, "experimental", false, "Enable experimental features")
	fs.BoolVar(&c.Init, "init", false, "Run an init in the container to forward signals and reap processes")
	fs.StringVar(&c.InitPath, "init-path", "", "Path to the docker-init binary")
	fs.StringArrayVar(&c.CDISpecDirs, "cdi-spec-dir", c.CDISpecDirs, "CDI specification directories to use")
	fs.StringVar(&c.configFile, "config-file", c.configFile, "Daemon configuration file")
	fs.BoolVar(&c.validate, "validate", false, "Validate daemon configuration and exit")
	fs.BoolVarP(&c.version, "version", "v", false, "Print version information and quit")
	return fs
}

// loadConfig merges the flags and daemon.json and validates the result.
func loadConfig(args []string) (*config, error) {
	c := defaultConfig()
	fs := c.flags()
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("%q accepts no arguments, got %q", "dockerd", fs.Args())
	}
	if c.version {
		return c, nil
	}
	raw, err := os.ReadFile(c.configFile)
	switch {
	case errors.Is(err, os.ErrNotExist) && !fs.Changed("config-file"):
	case err != nil:
		return nil, fmt.Errorf("unable to configure the Docker daemon with file %s: %w", c.configFile, err)
	default:
		if err := c.mergeFile(raw, fs); err != nil {
			return nil, fmt.Errorf("unable to configure the Docker daemon with file %s: %w", c.configFile, err)
		}
	}
	if v := os.Getenv("DOCKER_MIN_API_VERSION"); v != "" {
		c.MinAPIVersion = v
	}
	return c, c.check()
}

// mergeFile sets the fields that the file names. A key that a flag gives too is
// an error, an unknown one is an error that suggests the nearest.
func (c *config) mergeFile(raw []byte, fs *pflag.FlagSet) error {
	if len(raw) == 0 {
		return nil // an empty file, /dev/null too, is an empty configuration
	}
	var given map[string]json.RawMessage
	if err := json.Unmarshal(raw, &given); err != nil {
		return fmt.Errorf("invalid JSON: %w", err)
	}
	known := configKeys()
	var unknown, twice []string
	for _, key := range slices.Sorted(maps.Keys(given)) {
		if !slices.Contains(known, key) {
			unknown = append(unknown, fmt.Sprintf("%s (did you mean %q?)", key, daemon.Nearest(key, known)))
			continue
		}
		name, renamed := flagOf[key]
		if !renamed {
			name = key
		}
		if f := fs.Lookup(name); f != nil && f.Changed {
			twice = append(twice, fmt.Sprintf("%s: (from flag: %s, from file: %s)", key, f.Value, given[key]))
		}
	}
	if len(unknown) > 0 {
		return fmt.Errorf("the following directives don't match any configuration option: %s", strings.Join(unknown, ", "))
	}
	if len(twice) > 0 {
		return fmt.Errorf("the following directives are specified both as a flag and in the configuration file: %s", strings.Join(twice, ", "))
	}
	return json.Unmarshal(raw, c)
}

func configKeys() []string {
	var keys []string
	for f := range reflect.TypeFor[config]().Fields() {
		if tag := f.Tag.Get("json"); tag != "" {
			keys = append(keys, tag)
		}
	}
	return keys
}

// check refuses values that can't work, and makes paths absolute.
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
	if c.Debug {
		c.LogLevel = "debug"
	}
	if _, err := parseLevel(c.LogLevel); err != nil {
		return err
	}
	if c.LogFormat != "text" && c.LogFormat != "json" {
		return fmt.Errorf("invalid log format %q: text and json are known", c.LogFormat)
	}
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
	for _, l := range c.Labels {
		if k, _, ok := strings.Cut(l, "="); !ok || k == "" {
			return fmt.Errorf("invalid label %q: key=value is wanted", l)
		}
	}
	for _, d := range c.DNS {
		if _, err := netip.ParseAddr(d); err != nil {
			return fmt.Errorf("invalid --dns %q: an IP address is wanted", d)
		}
	}
	if c.StopTimeout < 0 {
		return fmt.Errorf("invalid default stop timeout %d: must not be negative", c.StopTimeout)
	}
	if c.ShmSize < 0 {
		return fmt.Errorf("invalid default shm size %d: must not be negative", c.ShmSize)
	}
	if len(c.CDISpecDirs) == 1 && c.CDISpecDirs[0] == "" {
		c.CDISpecDirs = nil // the way to disable it
	}
	if len(c.Hosts) == 0 {
		c.Hosts = []string{"unix:///var/run/docker.sock"}
	}
	for i, h := range c.Hosts {
		normal, err := normalizeHost(h)
		if err != nil {
			return err
		}
		c.Hosts[i] = normal
	}
	slices.Sort(c.Hosts)
	c.Hosts = slices.Compact(c.Hosts)
	return nil
}
