package main

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	eventapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"

	"lighter/containerd/remote"
	"lighter/internal/version"
)

func TestConfigFiles(t *testing.T) {
	for name, tt := range map[string]struct {
		in       string
		want     func(*config)
		warnings []string // what each must contain
		err      string
	}{
		"empty": {in: "", want: func(*config) {}},
		"docker's package": {
			in:       "disabled_plugins = [\"cri\"]\n",
			want:     func(*config) {},
			warnings: []string{`"disabled_plugins"`},
		},
		"version 2": {
			in: "version = 2\nroot = \"/r\"\nstate = \"/s\"\noom_score = -999\n[grpc]\naddress = \"/a\"\ngid = 7\n[debug]\nlevel = \"debug\"\n",
			want: func(c *config) {
				c.Version, c.Root, c.State, c.OOMScore = 2, "/r", "/s", -999
				c.GRPC = grpcConfig{Address: "/a", GID: 7}
				c.Debug.Level = "debug"
			},
		},
		"version 3 with plugins": {
			in: `version = 3
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "zfs"
[plugins.'io.containerd.gc.v1.scheduler']
  schedule_delay = "0ms"
[timeouts]
  "io.containerd.timeout.shim.load" = "5s"
`,
			want:     func(*config) {},
			warnings: []string{"io.containerd.cri.v1.images", "io.containerd.gc.v1.scheduler", `"timeouts"`},
		},
		"tcp":         {in: "[grpc]\ntcp_address = \"0.0.0.0:1\"\n", want: func(*config) {}, warnings: []string{"grpc.tcp_address"}},
		"new version": {in: "version = 5\n", err: "version 5 is not known"},
		"typo":        {in: "[grpc]\nadress = \"/a\"\n", err: `unknown key "grpc.adress": did you mean "grpc.address"?`},
		"wrong type":  {in: "root = 5\n", err: "config.Root"},
		"no TOML":     {in: "root = \n", err: "config.toml"},
		"itself":      {in: "imports = [\"config.toml\"]\n", err: "imports itself"},
		"no import":   {in: "imports = [\"none.toml\"]\n", err: "none.toml"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config.toml")
			if err := os.WriteFile(path, []byte(tt.in), 0o600); err != nil {
				t.Fatal(err)
			}
			got, warnings, err := loadConfig(path, true)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error = %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := defaultConfig()
			tt.want(&want)
			if got.Imports = nil; !equal(got, want) {
				t.Errorf("config = %+v, want %+v", got, want)
			}
			if len(warnings) != len(tt.warnings) {
				t.Fatalf("warnings = %q, want %q", warnings, tt.warnings)
			}
			for i, w := range tt.warnings {
				if !strings.Contains(warnings[i], w) {
					t.Errorf("warning %q does not name %s", warnings[i], w)
				}
			}
		})
	}
}

func equal(a, b config) bool {
	a.Imports, b.Imports = nil, nil
	var x, y bytes.Buffer
	return a.write(&x) == nil && b.write(&y) == nil && x.String() == y.String()
}

func TestImportsOverride(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"config.toml":    "root = \"/one\"\nstate = \"/one\"\nimports = [\"conf.d/*.toml\"]\n",
		"conf.d/10.toml": "root = \"/two\"\n",
		"conf.d/20.toml": "root = \"/three\"\n[debug]\nlevel = \"warn\"\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg, _, err := loadConfig(filepath.Join(dir, "config.toml"), true)
	if err != nil || cfg.Root != "/three" || cfg.State != "/one" || cfg.Debug.Level != "warn" {
		t.Errorf("config = %+v, %v", cfg, err)
	}
	if _, _, err := loadConfig(filepath.Join(dir, "missing"), true); err == nil {
		t.Error("a missing file that was asked for is no error")
	}
	if _, _, err := loadConfig(filepath.Join(dir, "missing"), false); err != nil {
		t.Errorf("a missing file that was not asked for: %v", err)
	}
}

func TestValidate(t *testing.T) {
	for name, change := range map[string]func(*config){
		"absolute":        func(c *config) { c.Root = "relative" },
		"both":            func(c *config) { c.State = c.Root + "/" },
		"log level":       func(c *config) { c.Debug.Level = "loud" },
		"neither text":    func(c *config) { c.Debug.Format = "xml" },
		"oom_score":       func(c *config) { c.OOMScore = 1001 },
		"debug.address":   func(c *config) { c.Debug.Address = "relative" },
		"metrics.address": func(c *config) { c.Metrics.Address = "no-port" },
		"ttrpc.address":   func(c *config) { c.TTRPC.Address = "/elsewhere" },
	} {
		c := defaultConfig()
		if err := c.validate(); err != nil {
			t.Fatal(err)
		}
		change(&c)
		if err := c.validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: validate = %v", name, err)
		}
	}
}

func TestCommandLine(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none.toml")
	if err := os.WriteFile(none, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(t.TempDir(), "old.toml")
	if err := os.WriteFile(old, []byte("version = 2\nroot = \"/old\"\nimports = [\"/none\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args     []string
		out, err string
	}{
		{[]string{"--version"}, "containerd Lighter " + version.Version + " ", ""},
		{[]string{"-v"}, "containerd Lighter", ""},
		{[]string{"--help"}, "--log-level", ""},
		{[]string{"config", "default"}, "root = '/var/lib/containerd'", ""},
		{[]string{"-c", none, "--root", "/x", "-l", "debug", "config", "dump"}, "root = '/x'", ""},
		{[]string{"-c", none, "-l", "loud", "config", "dump"}, "", "log level"},
		{[]string{"-c", old, "config", "migrate"}, "version = 3\nroot = '/old'", ""},
		{[]string{"-c", none + "2", "config", "migrate"}, "", "no such file"},
		{[]string{"oci-hook"}, "", "no program"},
		{[]string{"--no-such"}, "", "see 'containerd --help'"},
		{[]string{"-c", none, "frobnicate"}, "", "unknown command"},
		{[]string{"publish"}, "", "--topic and --namespace"},
	} {
		var stdout, stderr bytes.Buffer
		err := run(t.Context(), tt.args, strings.NewReader(""), &stdout, &stderr)
		if (tt.err == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%v: error = %v, want %q", tt.args, err, tt.err)
		}
		if !strings.Contains(stdout.String(), tt.out) {
			t.Errorf("%v printed %q, want %q", tt.args, stdout.String(), tt.out)
		}
	}
}

func TestDaemon(t *testing.T) {
	dir, err := os.MkdirTemp("", "lighter-daemon-") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	notified, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notified.Close()
	t.Setenv("NOTIFY_SOCKET", notified.LocalAddr().String())
	cfg := defaultConfig()
	cfg.Root, cfg.State, cfg.GRPC.Address = filepath.Join(dir, "root"), filepath.Join(dir, "state"), filepath.Join(dir, "state", "c.sock")
	cfg.GRPC.UID, cfg.GRPC.GID = os.Geteuid(), os.Getegid()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))

	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- serve(ctx, cfg, log) }()
	buf := make([]byte, 100)
	if err := notified.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := notified.Read(buf); err != nil || string(buf[:n]) != "READY=1" {
		t.Errorf("notified %q, %v, want READY=1", buf[:n], err)
	}
	for path, mode := range map[string]os.FileMode{
		cfg.GRPC.Address: 0o660, cfg.ttrpcAddress(): 0o600, cfg.Root: 0o700, cfg.State: 0o700,
	} {
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v, want mode %o", path, fi.Mode(), err, mode)
		}
	}
	second := cfg
	second.GRPC.Address += "2"
	if err := serve(t.Context(), second, log); err == nil || !strings.Contains(err.Error(), "uses it") {
		t.Errorf("a second daemon on the root: %v", err)
	}

	cctx, cancel := context.WithTimeout(namespaces.WithNamespace(t.Context(), "test"), 30*time.Second)
	defer cancel()
	svc, conn, err := remote.Dial(cctx, cfg.GRPC.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if v, _, err := svc.Version.Version(cctx); err != nil || v != version.Version {
		t.Errorf("Version = %q, %v", v, err)
	}
	if svc.Snapshotter("native") == nil {
		t.Error("no native snapshotter")
	}
	events, errs := svc.Events.Subscribe(cctx)
	payload, err := typeurl.MarshalAnyToProto(&eventapi.TaskOOM{ContainerID: "c1"})
	if err != nil {
		t.Fatal(err)
	}
	stdin, err := proto.Marshal(payload)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"--address", cfg.GRPC.Address, "publish", "--topic", "/tasks/oom", "--namespace", "test"}
	if err := run(cctx, args, bytes.NewReader(stdin), nil, nil); err != nil {
		t.Error(err)
	}
	if env := <-events; env.Topic != "/tasks/oom" || env.Namespace != "test" {
		t.Errorf("event = %+v", env)
	}

	start := time.Now()
	stop() // as SIGTERM does; the open subscription must not hold it up
	if err := <-stopped; err != nil {
		t.Errorf("serve = %v", err)
	}
	if d := time.Since(start); d >= stopTimeout {
		t.Errorf("the stop took %v", d)
	}
	if err := <-errs; err == nil {
		t.Error("the subscription ended without a reason")
	}
	left, err := os.ReadDir(cfg.State)
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(left, func(e os.DirEntry) bool { return strings.Contains(e.Name(), "sock") }) {
		t.Errorf("left in the state directory: %v", left)
	}
}

func TestHookTemplates(t *testing.T) {
	bundle := t.TempDir()
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte(`{"root":{"path":"rootfs"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	state := `{"id":"c1","pid":7,"status":"created","bundle":"` + bundle + `","annotations":{"k":"v"}}`
	fill, err := hookTemplates(strings.NewReader(state))
	if err != nil {
		t.Fatal(err)
	}
	got, err := fill([]string{"a", "{{id}}-{{pid}}", "{{rootfs}}", `{{annotation "k"}}`, "{{status}}"})
	want := []string{"a", "c1-7", bundle + "/rootfs", "v", "created"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("filled in %q, %v, want %q", got, err, want)
	}
	if _, err := fill([]string{"{{nothing}}"}); err == nil {
		t.Error("an unknown function is no error")
	}
}

func TestCgroupMounts(t *testing.T) {
	got := cgroupMounts("31 23 0:27 / /cg/memory rw,nosuid shared:9 - cgroup cgroup rw,memory\n" +
		"32 23 0:28 / /cg/systemd rw - cgroup cgroup rw,xattr,name=systemd\n" +
		"33 23 0:29 / /none rw - cgroup2 cgroup2 rw\n" + "34 1 0:30 / / rw - ext4 /dev/x rw\n")
	if want := []string{"/cg/memory"}; !slices.Equal(got, want) {
		t.Errorf("hierarchies at %q, want %q", got, want)
	}
}
