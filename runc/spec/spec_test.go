package spec

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
)

const base = `{"ociVersion":"1.0.2","root":{"path":"rootfs"},"process":{"args":["sh"],"cwd":"/"},"linux":{"namespaces":[{"type":"mount"}]`

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		name, config string
		check        func(error) bool // nil: valid
	}{
		{"minimal", base + `}}`, nil},
		{"unknown property", base + `},"windows":{"layerFolders":[]},"new":1}`, nil},
		{"not JSON", `{`, errdefs.IsInvalidArgument},
		{"empty", `{}`, errdefs.IsInvalidArgument},
		{"no process", `{"ociVersion":"1.0.0","root":{"path":"r"}}`, errdefs.IsInvalidArgument},
		{"mount namespace by path", base + `},"linux":{"namespaces":[{"type":"mount","path":"/proc/1/ns/mnt"}]}}`, errdefs.IsNotImplemented},
		{"masks in the host's mount namespace", base + `},"linux":{"namespaces":[],"maskedPaths":["/proc/keys"]}}`, errdefs.IsInvalidArgument},
		{"unknown namespace", base + `},"linux":{"namespaces":[{"type":"mount"},{"type":"x"}]}}`, errdefs.IsInvalidArgument},
		{"relative namespace path", base + `},"linux":{"namespaces":[{"type":"mount"},{"type":"pid","path":"x"}]}}`, errdefs.IsInvalidArgument},
		{"intelRdt", base + `,"intelRdt":{}}}`, errdefs.IsNotImplemented},
		{"netDevices", base + `,"netDevices":{"eth0":{}}}}`, errdefs.IsInvalidArgument},
		{"relative mask", base + `,"maskedPaths":["proc"]}}`, errdefs.IsInvalidArgument},
		{"sysctl of the host", base + `,"sysctl":{"kernel.panic":"1"}}}`, errdefs.IsInvalidArgument},
		{"sysctl of an absent namespace", base + `,"sysctl":{"net.ipv4.ip_forward":"1"}}}`, errdefs.IsInvalidArgument},
		{"sysctl that climbs", base + `,"sysctl":{"net/../kernel/panic":"1"}}}`, errdefs.IsInvalidArgument},
		{"time offsets", base + `,"timeOffsets":{"boottime":{"secs":1}}}}`, errdefs.IsInvalidArgument},
		{"mount inside proc", base + `},"mounts":[{"destination":"/proc/sys","type":"tmpfs"}]}`, errdefs.IsInvalidArgument},
		{"mount of lxcfs", base + `},"mounts":[{"destination":"/proc/cpuinfo","type":"bind","source":"/x"}]}`, nil},
		{"tmpfs on proc", base + `},"mounts":[{"destination":"/x/../proc","type":"tmpfs"}]}`, errdefs.IsInvalidArgument},
		{"soft above hard", `{"ociVersion":"1.0.0","root":{"path":"r"},"process":{"args":["x"],"cwd":"/","rlimits":[{"type":"RLIMIT_CPU","soft":2,"hard":1}]}}`, errdefs.IsInvalidArgument},
		{"environment without a value", `{"ociVersion":"1.0.0","root":{"path":"r"},"process":{"args":["x"],"cwd":"/","env":["A"]}}`, errdefs.IsInvalidArgument},
	} {
		_, err := Parse([]byte(tt.config))
		if tt.check == nil && err != nil || tt.check != nil && !tt.check(err) {
			t.Errorf("%s: got %v", tt.name, err)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := Load(dir); !errdefs.IsNotFound(err) {
		t.Errorf("no config.json: got %v, want NotFound", err)
	}
	path := filepath.Join(dir, "config.json")
	if err := os.WriteFile(path, []byte(base+"}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, raw, err := Load(dir); err != nil || s.Root.Path != "rootfs" || string(raw) != base+"}}" {
		t.Errorf("got %+v, %q, error %v", s, raw, err)
	}
	if err := os.Truncate(path, maxSize+1); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Load(dir); !errdefs.IsInvalidArgument(err) {
		t.Errorf("huge config.json: got %v, want InvalidArgument", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(base + "}}"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if s, err := Parse(raw); err == nil && (s.Linux == nil || s.Process == nil || s.Root == nil) {
			t.Error("a part is missing")
		}
	})
}
