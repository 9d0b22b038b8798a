package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"lighter/internal/daemon"
)

const defaultConfigFile = "/etc/docker/daemon.json"

// config is the daemon's configuration: the flags and the keys of daemon.json.
// A field's json tag is its key; flagOf gives the flag where the names differ.
// A field tagged reload is taken over at SIGHUP.
type config struct {
	Hosts             []string   `json:"hosts"`
	Group             string     `json:"group"`
	DataRoot          string     `json:"data-root"`
	ExecRoot          string     `json:"exec-root"`
	Pidfile           string     `json:"pidfile"`
	Containerd        string     `json:"containerd"`
	Namespace         string     `json:"containerd-namespace"`
	PluginsNamespace  string     `json:"containerd-plugins-namespace"`
	CRI               bool       `json:"cri-containerd"`
	Debug             bool       `json:"debug" reload:"true"`
	LogLevel          string     `json:"log-level"`
	LogFormat         string     `json:"log-format"`
	RawLogs           bool       `json:"raw-logs"`
	LiveRestore       bool       `json:"live-restore" reload:"true"`
	ShutdownTimeout   int        `json:"shutdown-timeout" reload:"true"`
	Labels            []string   `json:"labels" reload:"true"`
	Experimental      bool       `json:"experimental"`
	Features          features   `json:"features" reload:"true"`
	MinAPIVersion     string     `json:"min-api-version"`
	MetricsAddr       string     `json:"metrics-addr"`
	Authorization     []string   `json:"authorization-plugins" reload:"true"`
	Proxies           proxies    `json:"proxies"`
	GC                gc         `json:"gc"`
	Builder           *builder   `json:"builder"`
	NRI               nri        `json:"nri-opts"`
	TLS               *bool      `json:"tls"`
	TLSVerify         *bool      `json:"tlsverify"`
	TLSCACert         string     `json:"tlscacert"`
	TLSCert           string     `json:"tlscert"`
	TLSKey            string     `json:"tlskey"`
	Mirrors           []string   `json:"registry-mirrors" reload:"true"`
	InsecureRegistry  []string   `json:"insecure-registries" reload:"true"`
	MaxDownloads      int        `json:"max-concurrent-downloads" reload:"true"`
	MaxUploads        int        `json:"max-concurrent-uploads" reload:"true"`
	DownloadAttempts  int        `json:"max-download-attempts" reload:"true"`
	Runtimes          runtimes   `json:"runtimes" reload:"true"`
	DefaultRuntime    string     `json:"default-runtime" reload:"true"`
	StopTimeout       int        `json:"default-stop-timeout" reload:"true"`
	ShmSize           byteSize   `json:"default-shm-size" reload:"true"`
	IPCMode           string     `json:"default-ipc-mode" reload:"true"`
	CgroupNS          string     `json:"default-cgroupns-mode" reload:"true"`
	Ulimits           ulimits    `json:"default-ulimits"`
	LogDriver         string     `json:"log-driver"`
	LogOpts           stringMap  `json:"log-opts"`
	ContainerLogLimit byteSize   `json:"container-log-limit" reload:"true"`
	CgroupParent      string     `json:"cgroup-parent"`
	ExecOpts          []string   `json:"exec-opts"`
	CPURealtimePeriod int64      `json:"cpu-rt-period"`
	CPURealtimeRun    int64      `json:"cpu-rt-runtime"`
	Init              bool       `json:"init"`
	InitPath          string     `json:"init-path"`
	SeccompProfile    string     `json:"seccomp-profile"`
	SELinux           bool       `json:"selinux-enabled"`
	NoNewPrivileges   bool       `json:"no-new-privileges"`
	UsernsRemap       string     `json:"userns-remap"`
	Rootless          bool       `json:"rootless"`
	StorageDriver     string     `json:"storage-driver"`
	StorageOpts       []string   `json:"storage-opts"`
	CDISpecDirs       []string   `json:"cdi-spec-dirs"`
	Bridge            string     `json:"bridge"`
	BIP               string     `json:"bip"`
	BIP6              string     `json:"bip6"`
	FixedCIDR         string     `json:"fixed-cidr"`
	FixedCIDR6        string     `json:"fixed-cidr-v6"`
	Gateway           string     `json:"default-gateway"`
	Gateway6          string     `json:"default-gateway-v6"`
	MTU               int        `json:"mtu"`
	ICC               bool       `json:"icc"`
	IPv6              bool       `json:"ipv6"`
	IPForward         bool       `json:"ip-forward"`
	IPForwardNoDrop   bool       `json:"ip-forward-no-drop"`
	IPMasq            bool       `json:"ip-masq"`
	IPTables          bool       `json:"iptables"`
	IP6Tables         bool       `json:"ip6tables"`
	FirewallBackend   string     `json:"firewall-backend"`
	FirewallMode      string     `json:"firewall-mode"`
	DirectRouting     bool       `json:"allow-direct-routing"`
	AcceptFwmark      string     `json:"bridge-accept-fwmark"`
	BindIP            string     `json:"ip"`
	HostGatewayIPs    []string   `json:"host-gateway-ips"`
	HostGatewayIP     string     `json:"host-gateway-ip"` // the key of old
	UserlandProxy     bool       `json:"userland-proxy"`
	UserlandProxyPath string     `json:"userland-proxy-path"`
	AddressPools      pools      `json:"default-address-pools"`
	NetworkOpts       driverOpts `json:"default-network-opts"`
	DNS               []string   `json:"dns"`
	DNSSearch         []string   `json:"dns-search"`
	DNSOpts           []string   `json:"dns-opts"`
	ControlPlaneMTU   int        `json:"network-control-plane-mtu"`
	DiagnosticPort    int        `json:"network-diagnostic-port" reload:"true"`
	AdvertiseAddr     string     `json:"swarm-default-advertise-addr"`
	GenericResources  []string   `json:"node-generic-resources"`

	configFile        string
	validate, version bool
	args              []string // kept for SIGHUP
}

// flagOf names the flag of a key where it is not the key itself; "" means that
// the key has none.
var flagOf = map[string]string{
	"hosts": "host", "labels": "label", "log-opts": "log-opt", "dns-opts": "dns-opt",
	"insecure-registries": "insecure-registry", "registry-mirrors": "registry-mirror",
	"authorization-plugins": "authorization-plugin", "runtimes": "add-runtime", "features": "feature",
	"default-ulimits": "default-ulimit", "exec-opts": "exec-opt", "storage-opts": "storage-opt",
	"cdi-spec-dirs": "cdi-spec-dir", "default-address-pools": "default-address-pool",
	"default-network-opts": "default-network-opt", "node-generic-resources": "node-generic-resource",
	"host-gateway-ips": "host-gateway-ip", "min-api-version": "", "container-log-limit": "", "proxies": "", "gc": "", "builder": "",
}

// mayRepeat are the keys that flags and file may both name: the file adds to the
// flags.
var mayRepeat = []string{"runtimes", "add-runtime"}

// forgotten are keys that Docker once had and now skips without a word.
var forgotten = []string{"deprecated-key-path", "allow-nondistributable-artifacts"}

func defaultConfig() *config {
	return &config{
		DataRoot:         "/var/lib/docker",
		ExecRoot:         "/var/run/docker",
		Pidfile:          "/var/run/docker.pid",
		Group:            "docker",
		Namespace:        "moby",
		PluginsNamespace: "plugins.moby",
		LogLevel:         "info",
		LogFormat:        "text",
		ShutdownTimeout:  15,
		MaxDownloads:     3,
		MaxUploads:       5,
		DownloadAttempts: 5,
		DefaultRuntime:   defaultRuntime,
		StopTimeout:      10,
		ShmSize:          64 << 20,
		LogDriver:        "json-file",
		SeccompProfile:   "builtin",
		ICC:              true,
		IPForward:        true,
		IPMasq:           true,
		IPTables:         true,
		IP6Tables:        true,
		UserlandProxy:    true,
		MTU:              1500,
		ControlPlaneMTU:  1500,
		CDISpecDirs:      []string{"/etc/cdi", "/var/run/cdi"},
		configFile:       defaultConfigFile,
	}
}

// loadConfig merges the flags and daemon.json and validates the result.
func loadConfig(args []string) (*config, error) {
	c := defaultConfig()
	c.args = args
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
	if v := os.Getenv("DOCKER_DRIVER"); v != "" {
		c.StorageDriver = v
	}
	return c, c.check()
}

// mergeFile sets the fields that the file names. A key that a flag gives too is
// an error, an unknown one is an error that suggests the nearest.
func (c *config) mergeFile(raw []byte, fs *pflag.FlagSet) error {
	raw = []byte(strings.TrimPrefix(string(raw), "\ufeff")) // as editors on Windows leave it
	if len(strings.TrimSpace(string(raw))) == 0 {
		return nil // an empty file, /dev/null too, is an empty configuration
	}
	var given map[string]json.RawMessage
	if err := json.Unmarshal(raw, &given); err != nil {
		return fmt.Errorf("invalid JSON: %w", err)
	}
	for _, key := range forgotten {
		delete(given, key)
	}
	known := configKeys()
	var unknown, twice []string
	for _, key := range slices.Sorted(maps.Keys(given)) {
		if !slices.Contains(known, key) {
			unknown = append(unknown, fmt.Sprintf("%s (did you mean %q?)", key, daemon.Nearest(key, known)))
			continue
		}
		if key == "proxies" {
			var nested map[string]json.RawMessage
			if err := json.Unmarshal(given[key], &nested); err != nil {
				return fmt.Errorf("proxies: %w", err)
			}
			for _, name := range slices.Sorted(maps.Keys(nested)) {
				twice = append(twice, conflict(fs, name, nested[name])...)
			}
			continue
		}
		if !slices.Contains(mayRepeat, key) {
			twice = append(twice, conflict(fs, key, given[key])...)
		}
	}
	if len(unknown) > 0 {
		return fmt.Errorf("the following directives don't match any configuration option: %s", strings.Join(unknown, ", "))
	}
	if len(twice) > 0 {
		return fmt.Errorf("the following directives are specified both as a flag and in the configuration file: %s", strings.Join(twice, ", "))
	}
	for key, value := range given {
		one, err := json.Marshal(map[string]json.RawMessage{key: value})
		if err == nil {
			err = json.Unmarshal(one, c)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	if c.HostGatewayIP != "" {
		c.HostGatewayIPs = append(c.HostGatewayIPs, c.HostGatewayIP)
	}
	return nil
}

// conflict returns Docker's words for a key that a flag names too, nothing for
// another. Passwords in URLs are hidden.
func conflict(fs *pflag.FlagSet, key string, value json.RawMessage) []string {
	name, renamed := flagOf[key]
	if !renamed {
		name = key
	}
	f := fs.Lookup(name)
	if f == nil || !f.Changed {
		return nil
	}
	var file any
	if json.Unmarshal(value, &file) != nil {
		file = string(value)
	}
	flag := f.Value.String()
	if slices.Contains([]string{"http-proxy", "https-proxy", "no-proxy"}, key) {
		flag, file = maskURL(flag), maskURL(fmt.Sprint(file))
	}
	return []string{fmt.Sprintf("%s: (from flag: %s, from file: %v)", key, flag, file)}
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
