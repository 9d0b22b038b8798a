package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"lighter/internal/tlstest"
)

func load(t *testing.T, file string, args ...string) (*config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "daemon.json")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	return loadConfig(append([]string{"--config-file", path}, args...))
}

func TestConfigMergesFileAndFlags(t *testing.T) {
	c, err := load(t, `{"live-restore": true, "default-shm-size": "16m", "hosts": ["tcp://127.0.0.1:4243"], "labels": ["a=b"]}`, "-D", "--mtu", "1400")
	if err != nil {
		t.Fatal(err)
	}
	if !c.LiveRestore || c.ShmSize != 16<<20 || c.MTU != 1400 || c.LogLevel != "debug" || !slices.Equal(c.Labels, []string{"a=b"}) {
		t.Errorf("config = %+v", c)
	}
	if want := []string{"tcp://127.0.0.1:4243"}; !slices.Equal(c.Hosts, want) {
		t.Errorf("hosts = %q, want %q", c.Hosts, want)
	}
}

func TestConfigDefaults(t *testing.T) {
	c, err := load(t, "")
	if err != nil {
		t.Fatal(err)
	}
	if c.DataRoot != "/var/lib/docker" || c.ExecRoot != "/var/run/docker" || !slices.Equal(c.Hosts, []string{"unix:///var/run/docker.sock"}) {
		t.Errorf("config = %+v", c)
	}
}

func TestConfigRefuses(t *testing.T) {
	for _, tc := range []struct {
		file string
		args []string
		want string
	}{
		{`{"live-restor": true}`, nil, `live-restor (did you mean "live-restore"?)`},
		{`{"mtu": 1400}`, []string{"--mtu=1500"}, "specified both as a flag and in the configuration file: mtu: (from flag: 1500, from file: 1400)"},
		{`{"hosts": ["tcp://:1"]}`, []string{"-H", "unix:///a"}, "specified both as a flag and in the configuration file: hosts"},
		{`{`, nil, "invalid JSON"},
		{``, []string{"--bip", "nonsense"}, "--bip"},
		{``, []string{"--bip", "10.0.0.1/24", "--bridge", "br7"}, "mutually exclusive"},
		{``, []string{"-H", "fd://a/b"}, "takes a number or a name"},
		{``, []string{"-H", "npipe://"}, "unknown scheme"},
		{``, []string{"-H", "bogus://x"}, "unknown scheme"},
		{``, []string{"-H", "unix://relative"}, "absolute"},
		{``, []string{"--log-level", "loud"}, "logging level"},
		{``, []string{"--no-such-flag"}, "unknown flag"},
		{``, []string{"extra"}, "accepts no arguments"},
		{`{"a": 1, "mtuu": 2}`, nil, `a (did you mean`},
		{`[]`, nil, "invalid JSON"},
		{`{"mtu": "many"}`, nil, "mtu: json: cannot unmarshal"},
		{`{"proxies": {"http-proxy": "http://me:secret@a"}}`, []string{"--http-proxy", "http://you:secret@b"}, "http-proxy: (from flag: http://xxxxx:xxxxx@b, from file: http://xxxxx:xxxxx@a)"},
		{`{"proxies": {"ftp-proxy": "a"}}`, nil, "ftp-proxy"},
		{`{"labels": ["a=1", "a=2"]}`, nil, "conflict labels for a=2 and a=1"},
		{`{"labels": ["a"]}`, nil, "bad attribute format: a"},
		{`{"registry-mirrors": ["ftp://a"]}`, nil, "invalid mirror"},
		{`{"registry-mirrors": ["https://me:secret@a"]}`, nil, "username/password not allowed"},
		{`{"runtimes": {"runc": {"path": "/x"}}}`, nil, "'runc' is reserved"},
		{`{"runtimes": {"x": {}}}`, nil, "either a runtimeType or a path"},
		{`{"runtimes": {"x": {"path": "/x", "runtimeType": "io.containerd.x.v1"}}}`, nil, "cannot configure both"},
		{`{"default-runtime": "ghost"}`, nil, "specified default runtime 'ghost' does not exist"},
		{``, []string{"--add-runtime", "x"}, "invalid runtime argument"},
		{`{"default-ipc-mode": "host"}`, nil, "IPC mode"},
		{`{"default-cgroupns-mode": "x"}`, nil, "cgroup namespace mode (x) is invalid"},
		{`{"default-ulimits": {"nofile": {"Soft": 3, "Hard": 2}}}`, nil, "soft limit must be less than or equal to hard limit"},
		{`{"exec-opts": ["native.cgroupdriver=systemd"]}`, nil, "not implemented"},
		{`{"exec-opts": ["other=1"]}`, nil, `invalid option: "other"`},
		{`{"seccomp-profile": "/no/such/file"}`, nil, "opening seccomp profile (/no/such/file) failed"},
		{`{"userns-remap": "a b"}`, nil, "invalid userns-remap"},
		{`{"userns-remap": "default"}`, nil, "userns-remap: running containers in a user namespace is not implemented"},
		{`{"storage-driver": "zfs"}`, nil, "zfs"},
		{`{"default-address-pools": [{"base": "10.0.0.0/16", "size": 8}]}`, nil, "size 8 is not between 16 and 32"},
		{`{"icc": false, "iptables": false}`, nil, "--iptables=false with --icc=false"},
		{`{"gc": {"keep-storag": "1GB"}}`, nil, "keep-storag"},
		{`{"gc": {"low-water-mark": "120%"}}`, nil, "not a share"},
		{`{"gc": {"until": "-1h"}}`, nil, "negative"},
		{`{"tls": true, "tlscert": "/no/such", "tlskey": "/no/such"}`, nil, "could not load X509 key pair"},
		{`{"metrics-addr": "nonsense"}`, nil, "invalid metrics address"},
		{`{"max-concurrent-downloads": -1}`, nil, "invalid max concurrent downloads: -1"},
		{`{"host-gateway-ips": ["10.0.0.1", "10.0.0.2"]}`, nil, "at most one IPv4"},
	} {
		if _, err := load(t, tc.file, tc.args...); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s %q: error = %v, want %q in it", tc.file, tc.args, err, tc.want)
		}
	}
}

// Every key has a field, and every flag a key, but those about the file itself.
func TestConfigKeysAndFlags(t *testing.T) {
	c := defaultConfig()
	keys := configKeys()
	fs := c.flags()
	flags := map[string]bool{"config-file": true, "validate": true, "version": true, "restart": true, "http-proxy": true, "https-proxy": true, "no-proxy": true}
	for _, key := range keys {
		name, renamed := flagOf[key]
		if !renamed {
			name = key
		}
		if name != "" && fs.Lookup(name) == nil {
			t.Errorf("key %s has no flag %s", key, name)
		}
		flags[name] = true
	}
	fs.VisitAll(func(f *pflag.Flag) {
		if !flags[f.Name] {
			t.Errorf("flag %s has no key", f.Name)
		}
	})
}

func TestConfigTLS(t *testing.T) {
	server, _ := tlstest.Make(t, t.TempDir())
	_, other := tlstest.Make(t, t.TempDir())
	c, err := load(t, "", "--tlsverify", "--tlscacert", server.CA, "--tlscert", server.Cert, "--tlskey", server.Key)
	if err != nil || !c.useTLS() || !slices.Equal(c.Hosts, []string{"tcp://localhost:2376"}) {
		t.Errorf("config = %+v, %v", c, err)
	}
	for want, args := range map[string][]string{
		"private key does not match":    {"--tlsverify", "--tlscacert", server.CA, "--tlscert", server.Cert, "--tlskey", other.Key},
		"could not read CA certificate": {"--tlsverify", "--tlscacert", "/no/such", "--tlscert", server.Cert, "--tlskey", server.Key},
		"failed to append certificates": {"--tlsverify", "--tlscacert", server.Key, "--tlscert", server.Cert, "--tlskey", server.Key},
	} {
		if _, err := load(t, "", args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error = %v, want %q in it", args, err, want)
		}
	}
}

// activated marks the process that TestPassedListeners starts with a socket.
const activated = "LIGHTER_TEST_ACTIVATED"

func TestMain(m *testing.M) {
	if which, ok := os.LookupEnv(activated); ok {
		os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
		list, err := passedListeners(which)
		fmt.Println(len(list), err)
		for _, l := range list {
			fmt.Println(l.Addr())
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestPassedListeners(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for which, want := range map[string]string{
		"": "1 <nil>\n" + path, "*": "1 <nil>\n" + path, "3": "1 <nil>\n" + path, "docker.socket": "1 <nil>\n" + path,
		"4": "0 no such socket was passed: fd://4",
	} {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{activated + "=" + which, "LISTEN_FDS=1", "LISTEN_FDNAMES=docker.socket"}
		cmd.ExtraFiles = []*os.File{f}
		out, err := cmd.Output()
		if got := strings.TrimSpace(string(out)); err != nil || got != want {
			t.Errorf("fd://%s = %q, %v, want %q", which, got, err, want)
		}
	}
	if _, err := passedListeners(""); err == nil {
		t.Error("sockets without a service manager")
	}
}

func TestNormalizeHost(t *testing.T) {
	for in, want := range map[string]string{
		"unix://":           "unix:///var/run/docker.sock",
		"/run/d.sock":       "unix:///run/d.sock",
		"tcp://":            "tcp://localhost:2375",
		"tcp://:4243":       "tcp://localhost:4243",
		"127.0.0.1:4243":    "tcp://127.0.0.1:4243",
		"tcp://[::1]:4243":  "tcp://[::1]:4243",
		"tcp://example.com": "tcp://example.com:2375",
	} {
		got, err := normalizeHost(in, false)
		if err != nil || got != want {
			t.Errorf("normalizeHost(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
}
