package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
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
		{``, []string{"-H", "fd://"}, "not implemented"},
		{``, []string{"-H", "bogus://x"}, "unknown scheme"},
		{``, []string{"-H", "unix://relative"}, "absolute"},
		{``, []string{"--log-level", "loud"}, "logging level"},
		{``, []string{"--no-such-flag"}, "unknown flag"},
		{``, []string{"extra"}, "accepts no arguments"},
	} {
		if _, err := load(t, tc.file, tc.args...); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s %q: error = %v, want %q in it", tc.file, tc.args, err, tc.want)
		}
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
		got, err := normalizeHost(in)
		if err != nil || got != want {
			t.Errorf("normalizeHost(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
}
