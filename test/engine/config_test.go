package engine

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"lighter/internal/testenv"
	"lighter/internal/tlstest"
	"lighter/test/harness"
)

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// freePort returns a loopback port that nobody listens on at the moment.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

type infoAnswer struct {
	Labels             []string
	LiveRestoreEnabled bool
	DefaultRuntime     string
	Runtimes           map[string]struct {
		Path string   `json:"path"`
		Args []string `json:"runtimeArgs"`
	}
	RegistryConfig struct {
		Mirrors      []string
		IndexConfigs map[string]struct{ Secure bool }
	}
	HTTPProxy           string `json:"HttpProxy"`
	DefaultAddressPools []struct {
		Base string
		Size int
	}
	SecurityOptions  []string
	Warnings         []string
	FirewallBackend  *struct{ Driver string }
	ContainerdCommit struct{ ID, Expected string }
}

func info(t *testing.T, d *harness.Daemon, version string) (i infoAnswer, raw map[string]any) {
	t.Helper()
	a := d.Request(t, "GET", version+"/info", "")
	if a.Status != 200 || json.Unmarshal([]byte(a.Body), &i) != nil || json.Unmarshal([]byte(a.Body), &raw) != nil {
		t.Fatalf("GET /info = %d %s", a.Status, a.Body)
	}
	return i, raw
}

// SIGHUP takes over what may change, tells it, and refuses a bad file whole.
func TestReload(t *testing.T) {
	testenv.Need(t, testenv.Root)
	file := filepath.Join(t.TempDir(), "daemon.json")
	runc := harness.Bin(t, "runc")
	writeFile(t, file, `{"labels": ["a=1"], "proxies": {"http-proxy": "http://me:secret@127.0.0.1:1"},
		"default-address-pools": [{"base": "10.77.0.0/16", "size": 24}], "seccomp-profile": "unconfined",
		"default-ulimits": {"nofile": {"Name": "nofile", "Soft": 100, "Hard": 200}},
		"default-network-opts": {"bridge": {"com.docker.network.driver.mtu": "1234"}},
		"cgroup-parent": "/lighter-test", "no-new-privileges": true}`)
	d := harness.Start(t, harness.Options{Args: []string{"--config-file", file, "--add-runtime", "other=" + runc}})
	d.Busybox()
	i, _ := info(t, d, "")
	if !slices.Equal(i.Labels, []string{"a=1"}) || i.LiveRestoreEnabled || i.HTTPProxy != "http://xxxxx:xxxxx@127.0.0.1:1" ||
		len(i.DefaultAddressPools) != 1 || !slices.Contains(i.SecurityOptions, "name=seccomp,profile=unconfined") ||
		!slices.Contains(i.SecurityOptions, "name=no-new-privileges") || i.Runtimes["other"].Path != runc {
		t.Errorf("info = %+v", i)
	}
	if strings.Contains(d.Log(), "secret") {
		t.Error("the log shows the proxy's password")
	}
	if got := d.OK("run", "--rm", "busybox", "sh", "-c", "ulimit -Sn; ulimit -Hn; grep -E 'NoNewPrivs|Seccomp:' /proc/self/status; cat /proc/self/cgroup"); !strings.HasPrefix(got, "100\n200\nNoNewPrivs:\t1\nSeccomp:\t0\n") || !strings.Contains(got, "/lighter-test/") {
		t.Errorf("defaults of containers: %s", got)
	}
	d.OK("network", "create", "small")
	if got := d.OK("network", "inspect", "-f", "{{.Options}} {{(index .IPAM.Config 0).Subnet}}", "small"); got != "map[com.docker.network.driver.mtu:1234] 10.77.1.0/24" {
		t.Errorf("network = %s", got)
	}
	d.OK("network", "rm", "small")
	if got := d.OK("run", "--rm", "--runtime", "other", "busybox", "echo", "hi"); got != "hi" {
		t.Errorf("a container of another runtime said %q", got)
	}

	reload := func(text string) {
		t.Helper()
		writeFile(t, file, text)
		if err := syscall.Kill(d.Pid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	since := now(t, d)
	reload(`{"labels": ["a=2", "b=3"], "live-restore": true, "default-runtime": "logged", "seccomp-profile": "unconfined",
		"runtimes": {"logged": {"path": "` + runc + `", "runtimeArgs": ["--log-format", "json"]}},
		"registry-mirrors": ["http://127.0.0.1:1"], "insecure-registries": ["reg.test:5000"]}`)
	var events []message
	harness.Eventually(t, commandLimit, "the event of the reload", func() bool {
		events = eventsBetween(t, d, harness.Bin(t, "docker"), since, now(t, d), "type=daemon")
		return len(events) == 1
	})
	if e := events[0]; e.String() != "daemon reload" || e.Actor.Attributes["live-restore"] != "true" || e.Actor.Attributes["labels"] != `["a=2","b=3"]` || e.Actor.Attributes["name"] == "" {
		t.Errorf("event = %+v", e)
	}
	i, _ = info(t, d, "")
	if !slices.Equal(i.Labels, []string{"a=2", "b=3"}) || !i.LiveRestoreEnabled || i.DefaultRuntime != "logged" || i.HTTPProxy == "" ||
		!slices.Equal(i.RegistryConfig.Mirrors, []string{"http://127.0.0.1:1/"}) || i.RegistryConfig.IndexConfigs["reg.test:5000"].Secure {
		t.Errorf("info after the reload = %+v", i)
	}
	if got := d.OK("run", "--rm", "busybox", "echo", "hi"); got != "hi" {
		t.Errorf("a container of the new default runtime said %q", got)
	}
	reload(`{"labels": ["a=9"], "live-restor": true}`)
	harness.Eventually(t, commandLimit, "the complaint", func() bool {
		return strings.Contains(d.Log(), `live-restor (did you mean \"live-restore\"?)`)
	})
	if i, _ := info(t, d, ""); !slices.Equal(i.Labels, []string{"a=2", "b=3"}) {
		t.Errorf("a bad file changed the labels to %q", i.Labels)
	}
	reload("{}") // so that the end of the daemon ends its containers
	harness.Eventually(t, commandLimit, "the last reload", func() bool {
		i, _ := info(t, d, "")
		return !i.LiveRestoreEnabled && i.DefaultRuntime == "runc"
	})
}

// Fields of info come and go with the API version.
func TestInfoVersions(t *testing.T) {
	testenv.Need(t, testenv.Root)
	d := harness.Start(t, harness.Options{})
	for _, tc := range []struct {
		field string
		has   map[string]bool // by version
	}{
		{"FirewallBackend", map[string]bool{"/v1.48": false, "/v1.49": true, "": true}},
		{"Containerd", map[string]bool{"/v1.45": false, "/v1.46": true, "": true}},
		{"BridgeNfIptables", map[string]bool{"/v1.24": true, "/v1.49": true, "/v1.50": false, "": false}},
		{"KernelMemory", map[string]bool{"/v1.41": true, "/v1.42": false, "": false}},
	} {
		for version, want := range tc.has {
			if _, raw := info(t, d, version); (raw[tc.field] != nil) != want {
				t.Errorf("info of %q: %s = %v, want it: %v", version, tc.field, raw[tc.field], want)
			}
		}
	}
	if i, _ := info(t, d, "/v1.48"); i.ContainerdCommit.ID == "" || i.ContainerdCommit.Expected != i.ContainerdCommit.ID {
		t.Errorf("containerd's commit before 1.49 = %+v", i.ContainerdCommit)
	}
}

// With --tlsverify only a client with a certificate of the authority gets in, and
// plain HTTP does not.
func TestTLS(t *testing.T) {
	testenv.Need(t, testenv.Root)
	server, client := tlstest.Make(t, t.TempDir())
	_, stranger := tlstest.Make(t, t.TempDir())
	addr := freePort(t)
	d := harness.Start(t, harness.Options{Args: []string{
		"-H", "tcp://" + addr, "--tlsverify", "--tlscacert", server.CA, "--tlscert", server.Cert, "--tlskey", server.Key,
	}})
	get := func(scheme string, certs ...tlstest.Files) error {
		pem, err := os.ReadFile(server.CA)
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(pem)
		cfg := &tls.Config{RootCAs: pool}
		for _, c := range certs {
			pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
			if err != nil {
				t.Fatal(err)
			}
			cfg.Certificates = append(cfg.Certificates, pair)
		}
		transport := &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}
		resp, err := (&http.Client{Transport: transport, Timeout: commandLimit}).Get(scheme + "://" + addr + "/_ping")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d", resp.StatusCode)
		}
		return nil
	}
	if err := get("https", client); err != nil {
		t.Errorf("a client with a certificate: %v", err)
	}
	if get("https") == nil {
		t.Error("a client without a certificate got in")
	}
	if get("https", stranger) == nil {
		t.Error("a client with another authority's certificate got in")
	}
	if get("http") == nil {
		t.Error("plain HTTP got in")
	}
	if i, _ := info(t, d, ""); len(i.Warnings) > 0 && strings.Contains(strings.Join(i.Warnings, " "), "API is accessible") {
		t.Errorf("warnings with verified clients = %q", i.Warnings)
	}
}
